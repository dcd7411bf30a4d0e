"""Does alignment make the agreement? Every pair of baselines, and how many steps IG needs."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.agreement import correlation_of_means, pearson
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.choices import BASELINES, KINDS, Kind, Rule
from analysis.sites import FEWEST_FOR_A_MEAN
from analysis.studies import PROMPTS, store, tidy
from analysis.tasks import TASKS, PromptPairs, load_task

ALIGNED_PROMPTS = 8
RULES: tuple[Rule, ...] = ("gauss-legendre", "left", "right", "midpoint", "trapezoid")
STEPS = (2, 4, 8, 16, 32)
FEW_STEPS = 8  # so few that Gauss-Legendre's gap still tells layers apart
_KEYS = ("task", "kind", "layer", "rule", "steps", "prompt", "statistic")
_NUMBERED = ("layer", "steps", "prompt")
_SITES = {"heads": "blocks.{}.attn.hook_z", "neurons": "blocks.{}.mlp.hook_post"}


def baselines(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """How far IG from each baseline agrees with AP from each, noising.

    Columns: task, kind, ig and ap (the baselines), statistic, estimate, low, high, n; the statistic
    is "Pearson", of the means. Of n prompts per task it takes the first of the commonest length.
    """
    frames = []
    for task in tasks:
        pairs = commonest_length(load_task(task, model, n=n, seed=seed))
        ap, ig = (
            [store.scores(method, model, pairs, baseline=of, progress=progress) for of in BASELINES]
            for method in (activation_patching, integrated_gradients)
        )
        compute = partial(_compared, ap, ig, seed)
        frames.append(store.frame(f"baselines-{task}", compute, *ap, *ig, seed))
    return pl.concat(frames)


def commonest_length(pairs: PromptPairs) -> PromptPairs:
    """The first prompts of the commonest length, as a mean over prompts needs equal lengths."""
    group = max(pairs.groups(), key=len)
    if len(group) < FEWEST_FOR_A_MEAN:
        raise ValueError(
            f"{pairs.task}: no length has {FEWEST_FOR_A_MEAN} of the {len(pairs)} prompts, which a "
            "mean needs: use more prompts."
        )
    return pairs.select(group[:ALIGNED_PROMPTS])


def _compared(ap: list[Scores], ig: list[Scores], seed: int) -> pl.DataFrame:
    return tidy(
        {"task": patched.task, "kind": kind, "ig": integrated.baseline, "ap": patched.baseline}
        | {"statistic": "Pearson", "n": len(patched.prompts)}
        | {"estimate": correlation_of_means(integrated.of(kind), patched.of(kind), kind, seed)}
        for kind, integrated, patched in product(KINDS, ig, ap)
    )


def steps(
    model: TransformerBridge,
    n: int = ALIGNED_PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """How exact IG is by rule and number of steps, and what moves where it isn't, noising.

    Columns: task, kind, layer, rule, steps, prompt, statistic, estimate, low, high, n. Statistics:

    - "gap" by task, kind, layer, rule and steps: the largest |completeness gap| of any prompt,
      relative to the largest |total effect|; "Pearson": r of the layer's mean scores with AP's.
    - "prompt's gap" by task, kind, layer and prompt, with `FEW_STEPS` steps of Gauss-Legendre's
      rule; "attention moved": see `attention_moved`.
    """
    frames = []
    for task in tasks:
        pairs = load_task(task, model, n=n, seed=seed)
        ap = store.scores(activation_patching, model, pairs, progress=progress)
        for rule, count in product(RULES, STEPS):
            settings: dict[str, Any] = {"rule": rule, "steps": count, "progress": progress}
            ig = store.scores(integrated_gradients, model, pairs, **settings)
            frames += [_frame(_of_kind(ap, ig, kind, rule, count)) for kind in KINDS]
        moved = partial(attention_moved, model, pairs)
        frames.append(store.frame(f"attention-{task}", moved, model, pairs))
    return pl.concat(frames)


def _of_kind(ap: Scores, ig: Scores, kind: Kind, rule: str, count: int) -> Iterator[dict]:
    means = (scores.of(kind).mean(dim=0).double().numpy() for scores in (ig, ap))
    gaps = {"heads": ig.heads_gap, "neurons": ig.neurons_gap}[kind].abs() / ig.total.abs().max()
    about = {"task": ap.task, "kind": kind, "rule": rule, "steps": count, "n": len(gaps)}
    for name, found in (("gap", gaps.amax(dim=0).tolist()), ("Pearson", pearson(*means).tolist())):
        for layer, value in enumerate(found):
            yield about | {"layer": layer, "statistic": name, "estimate": value}
    if (rule, count) == ("gauss-legendre", FEW_STEPS):
        about |= {"statistic": "prompt's gap", "n": 1}
        for (prompt, layer), gap in np.ndenumerate(gaps.double().numpy()):
            yield about | {"layer": layer, "prompt": prompt, "estimate": gap}


def _frame(rows: Iterable[dict]) -> pl.DataFrame:
    """Rows with every key, null where they have none; the types do not hang on what is null."""
    types = [pl.col(key).cast(pl.Int64 if key in _NUMBERED else pl.String) for key in _KEYS]
    return tidy(dict.fromkeys(_KEYS) | row for row in rows).with_columns(types)


@torch.no_grad()
def attention_moved(model: TransformerBridge, pairs: PromptPairs) -> pl.DataFrame:
    """How far later heads' attention moves when a whole layer is patched, with `steps`'s columns.

    The largest total variation of any later head at any position: half the summed difference of two
    attention patterns, 0 for the same and 1 for patterns that share no position. 0 for the last
    layer, which no head follows.
    """
    rows, layers = [], range(model.cfg.n_layers)
    for prompt, tokens in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        clean, corrupted = (side[None] for side in tokens)
        _, source = model.run_with_cache(corrupted)
        before = _patterns(model, clean)
        for kind, layer in product(KINDS, layers):
            site = _SITES[kind].format(layer)
            with model.hooks(fwd_hooks=[(site, lambda _, hook, cache=source: cache[hook.name])]):
                moved = (_patterns(model, clean) - before).abs().sum(dim=-1) / 2
            largest = moved[layer + 1 :].amax().item() if layer + 1 < len(moved) else 0.0
            about = {"task": pairs.task, "kind": kind, "layer": layer, "prompt": prompt}
            rows.append(about | {"statistic": "attention moved", "estimate": largest, "n": 1})
    return _frame(rows)


def _patterns(
    model: TransformerBridge, tokens: Int[Tensor, "1 position"]
) -> Float[Tensor, "layer 1 head to from"]:
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    return torch.stack([cache[name] for name in names])
