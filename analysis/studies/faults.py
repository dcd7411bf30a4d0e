"""The original's faults, each made again in a few lines, beside the right number.

What is wrong is done again through TransformerLens's own hooks, or on arrays, in code of our own;
what is right is the library's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import Exclusive, Sets, largest, multi_ablated_performance
from analysis.agreement import average_correlation, correlations, top
from analysis.attribution import Scores, activation_patching
from analysis.bench.contenders import HOOKS, hooked_activation
from analysis.forward import KINDS
from analysis.metrics import Labels, logit_diff, prob_diff
from analysis.tasks import PromptPairs

QUANTILE = 0.9  # the original highlights scores at or above it
INDICES = 12  # GPT-2 small's heads in a layer: the numbers that were taken for positions
EXAMPLE = (
    "When John and Mary went to the store, John gave a bottle of milk to",
    "When John and Mary went to the store, Mary gave a bottle of milk to",
)
ANSWERS = ("Mary", "John")
ABLATED_HEADS = 4
NEURONS = 4

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """A task's prompts with their AP and IG, noising."""

    pairs: PromptPairs
    ap: Scores
    ig: Scores


def right_padded(model: TransformerBridge, pairs: PromptPairs) -> PromptPairs:
    """The pairs as `to_tokens` makes them of a list: one length, read at its end.

    Without texts: these are not the tokens that any text has.
    """
    clean, corrupted = (model.to_tokens(side).cpu() for side in (pairs.clean, pairs.corrupted))
    tokens = {"clean_tokens": list(clean), "corrupted_tokens": list(corrupted)}
    return replace(pairs, clean=[""] * len(pairs), corrupted=[""] * len(pairs), **tokens)


@torch.no_grad()
def padding(model: TransformerBridge, run: Run) -> pl.DataFrame:
    """The clean metric's mean, read at `logits[:, -1]` of the padded batch and at each last token.

    Columns: task, prompts, padded (how many end in padding), wrong, right.
    """
    tokens = model.to_tokens(run.pairs.clean)
    wrong = run.pairs.metric(model(tokens)[:, -1].cpu(), run.pairs.labels)
    ends = [len(prompt) < tokens.shape[1] for prompt in run.pairs.clean_tokens]
    return pl.DataFrame(
        {
            "task": [run.pairs.task],
            "prompts": [len(run.pairs)],
            "padded": [sum(ends)],
            "wrong": [float(wrong.mean())],
            "right": [float(run.ap.base.mean())],
        }
    )


def denominators(ap: Scores, ig: Scores, reading: str) -> pl.DataFrame:
    """Pearson's r of the heads' AP and IG, AP divided by each prompt's m(clean) - m(corrupted).

    Columns: task, reading, prompts, flips (prompts on which the denominator is negative), wrong
    and its sd over prompts, absolute (the mean |r|), right (undivided, in metric units).
    """
    effect = -ap.total
    divided = average_correlation(ap.heads / effect[:, None, None], ig.heads)
    return pl.DataFrame(
        {
            "task": [ap.task],
            "reading": [reading],
            "prompts": [len(effect)],
            "flips": [int((effect < 0).sum())],
            "wrong": [divided.mean],
            "sd": [divided.sd],
            "absolute": [float(np.nanmean(np.abs(correlations(ap.heads, ig.heads))))],
            "right": [average_correlation(ap.heads, ig.heads).mean],
        }
    )


def completeness(run: Run, d_model: int) -> pl.DataFrame:
    """The share of a layer's effect that its attributions add up to, as means and as sums.

    The original averaged over positions, and over d_model for heads. Columns: task, kind, fewest
    and most (numbers averaged on a prompt), wrong, right.
    """
    lengths = torch.tensor([len(prompt) for prompt in run.pairs.clean_tokens])
    rows = []
    for kind, gap in zip(KINDS, (run.ig.heads_gap, run.ig.neurons_gap), strict=True):
        numbers = lengths * (d_model if kind == "heads" else 1)
        sums = run.ig.of(kind).sum(dim=2)
        effect = (sums - gap).abs().mean()
        rows.append(
            {
                "task": run.pairs.task,
                "kind": kind,
                "fewest": int(numbers.min()),
                "most": int(numbers.max()),
                "wrong": float((sums / numbers[:, None]).abs().mean() / effect),
                "right": float(sums.abs().mean() / effect),
            }
        )
    return pl.DataFrame(rows)


def wrong_data(model: TransformerBridge, years: Run, pronouns: Run) -> pl.DataFrame:
    """Greater-than's metric, the probability difference, on its own data and on gender bias's.

    Columns: prompts, labels, clean, corrupted (the metric's means), example.
    """
    shared = range(min(len(years.pairs), len(pronouns.pairs)))
    people, dates = pronouns.pairs.select(shared), years.pairs.select(shared)
    cases = (
        ("greater-than", "its years", dates),
        ("gender-bias", "its pronouns", replace(people, metric=prob_diff)),
        ("gender-bias", "the years", replace(people, metric=prob_diff, labels=dates.labels)),
    )
    rows = []
    for prompts, labels, pairs in cases:
        metrics = activation_patching(model, pairs, kinds=())
        rows.append(
            {
                "prompts": prompts,
                "labels": labels,
                "clean": float(metrics.base.mean()),
                "corrupted": float(metrics.source.mean()),
                "example": pairs.clean[0],
            }
        )
    return pl.DataFrame(rows)


def indexing(model: TransformerBridge) -> pl.DataFrame:
    """What changes in the later heads when `act[:, index]` or `act[:, :, index]` is patched.

    The first layer's heads are patched on the example. Columns: index, token (at that position),
    wrong and right (how many of the last position's numbers change), signed and absolute (the
    right change averaged over d_model, before and after |.|; means over later heads), last (the
    share of the right change's squares at the last position). Right is null without such a head.
    """
    clean, corrupted = (model.to_tokens(text) for text in EXAMPLE)
    source = hooked_activation(model, corrupted, "heads", 0)
    before = _later(model, clean, "heads", lambda act: act)
    rows = []
    for index, token in enumerate(model.to_str_tokens(EXAMPLE[0])[:INDICES]):
        wrong = _later(model, clean, "heads", _patch(source, (slice(None), index))) - before
        row = {"index": index, "token": str(token), "wrong": int(wrong[:, -1].count_nonzero())}
        if index < model.cfg.n_heads:
            place = (slice(None), slice(None), index)
            change = _later(model, clean, "heads", _patch(source, place)) - before
            row |= {
                "right": int(change[:, -1].count_nonzero()),
                "signed": float(change[:, -1].mean(dim=-1).abs().mean()),
                "absolute": float(change[:, -1].abs().mean()),
                "last": float(change[:, -1].square().sum() / change.square().sum()),
            }
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def stale_name(model: TransformerBridge) -> pl.DataFrame:
    """What the first layer's neurons change in later ones, patched by a loop left over from heads.

    The loop over neurons patches `act[:, head]`, with the last head's number. Columns: neuron,
    wrong and right (the norm of what changes in all later neurons, at every position).
    """
    clean, corrupted = (model.to_tokens(text) for text in EXAMPLE)
    source = hooked_activation(model, corrupted, "neurons", 0)
    before = _later(model, clean, "neurons", lambda act: act)
    rows = []
    for neuron in range(NEURONS):
        places = {"wrong": (slice(None), INDICES - 1), "right": (..., neuron)}
        changes = {
            name: float((_later(model, clean, "neurons", _patch(source, place)) - before).norm())
            for name, place in places.items()
        }
        rows.append({"neuron": neuron} | changes)
    return pl.DataFrame(rows)


def endings(model: TransformerBridge) -> pl.DataFrame:
    """The example's logit difference with and without spaces.

    Columns: prompt and labels (how they are written), clean, corrupted.
    """
    rows = []
    for ending, prompt in ((" ", "ends in a space"), ("", "ends in a word")):
        for start, label in (("", "without a space"), (" ", "with their space")):
            tokens = [model.to_tokens(start + name, prepend_bos=False)[0, 0] for name in ANSWERS]
            labels = Labels(torch.stack(tokens)[None].cpu(), torch.tensor([[1.0, -1.0]]))
            clean, corrupted = (_metric(model, text + ending, labels) for text in EXAMPLE)
            rows.append({"prompt": prompt, "labels": label, "clean": clean, "corrupted": corrupted})
    return pl.DataFrame(rows)


def signs(model: TransformerBridge, run: Run, denoising: Scores) -> pl.DataFrame:
    """What ablating the neurons of highlight(x), highlight(-x) and of one direction alone does.

    x is the sum of both directions' mean IG. Columns: task, set, size, metric (the mean).
    """
    sets = _by_direction(*(scores.neurons.mean(dim=0).numpy() for scores in (run.ig, denoising)))
    masks: Sets = np.stack(list(sets.values()))
    metric = multi_ablated_performance(model, run.pairs, masks, "neurons").mean(dim=1)
    return pl.DataFrame(
        {"set": list(sets), "size": masks.sum(axis=(1, 2)), "metric": metric.numpy()}
    ).select(pl.lit(run.pairs.task).alias("task"), pl.all())


def late_binding(model: TransformerBridge, run: Run) -> pl.DataFrame:
    """The metric with the strongest heads ablated, by hooks that all use the last index.

    Columns: task, heads (the set), intact, wrong, right.
    """
    heads = largest(run.ap.heads.mean(dim=0).numpy(), ABLATED_HEADS)
    right = multi_ablated_performance(model, run.pairs, heads[None], "heads")[0]
    return pl.DataFrame(
        {
            "task": [run.pairs.task],
            "heads": [", ".join(f"{layer}.{head}" for layer, head in np.argwhere(heads))],
            "intact": [float(run.ap.base.mean())],
            "wrong": [float(_ablated_by_late_hooks(model, run.pairs, heads).mean())],
            "right": [float(right.mean())],
        }
    )


def quantiles(run: Run) -> pl.DataFrame:
    """The share of a prompt's components at or above one quantile of all prompts' |IG|.

    Columns: task, kind, lowest and highest (prompt), and right, the share of every prompt by a
    threshold of its own.
    """
    rows = []
    for kind in KINDS:
        scores = run.ig.of(kind).flatten(1).numpy()
        pooled = np.abs(scores) >= np.quantile(np.abs(scores), QUANTILE)
        own = top(scores, _highlighted(scores.shape[1]))
        rows.append(
            {
                "task": run.pairs.task,
                "kind": kind,
                "lowest": float(pooled.mean(axis=1).min()),
                "highest": float(pooled.mean(axis=1).max()),
                "right": float(own.mean(axis=1).max()),
            }
        )
    return pl.DataFrame(rows)


def borrowed(model: TransformerBridge, run: Run, ioi: Run) -> pl.DataFrame:
    """What a task's strongest heads do when ablated together, on IOI's prompts and on its own.

    Columns: task, wrong, right: the metric's change as a share of the data set's mean total effect.
    """
    heads = largest(run.ap.heads.mean(dim=0).numpy(), ABLATED_HEADS)[None]

    def change(on: Run) -> float:
        ablated = multi_ablated_performance(model, on.pairs, heads, "heads")[0]
        return float((ablated - on.ap.base).mean() / on.ap.total.mean())

    return pl.DataFrame({"task": [run.pairs.task], "wrong": [change(ioi)], "right": [change(run)]})


def _by_direction(
    noising: Float[np.ndarray, "layer neuron"], denoising: Float[np.ndarray, "layer neuron"]
) -> dict[str, Bool[np.ndarray, "layer neuron"]]:
    size = _highlighted(noising.size)
    alone = Exclusive(largest(noising, size), largest(denoising, size))
    return {
        "none": np.zeros_like(alone.shared),
        "highlight(x)": largest(noising + denoising, size),
        "highlight(-x)": largest(-(noising + denoising), size),
        "noising only": alone.first_only,
        "denoising only": alone.second_only,
    }


def _highlighted(components: int) -> int:
    """How many of so many components lie at or above the quantile."""
    return max(1, round((1 - QUANTILE) * components))


@torch.no_grad()
def _ablated_by_late_hooks(
    model: TransformerBridge, pairs: PromptPairs, heads: Bool[np.ndarray, "layer head"]
) -> Float[Tensor, " prompt"]:
    """The metric; each hook looks `head` up when it runs, and finds the loop's last."""
    found = torch.zeros(len(pairs))
    for group in pairs.groups():
        clean, corrupted = (
            torch.stack([side[place] for place in group])
            for side in (pairs.clean_tokens, pairs.corrupted_tokens)
        )
        hooks = []
        for layer, head in np.argwhere(heads).tolist():
            source = hooked_activation(model, corrupted, "heads", layer)
            hooks.append(
                (
                    HOOKS["heads"].format(layer),
                    lambda act, hook, source=source: _patch(
                        source,
                        (slice(None), slice(None), head),  # noqa: B023, which is the fault
                    )(act),
                )
            )
        logits = model.run_with_hooks(clean, fwd_hooks=hooks)[:, -1].cpu()
        found[group] = pairs.metric(logits, pairs.labels[torch.tensor(group)])
    return found


def _patch(source: Tensor, place: tuple) -> Edit:
    """Takes what lies at a place from the source run."""

    def edit(activation: Tensor) -> Tensor:
        changed = activation.clone()
        changed[place] = source[place]
        return changed

    return edit


@torch.no_grad()
def _later(
    model: TransformerBridge, tokens: Int[Tensor, "1 position"], kind: str, edit: Edit
) -> Float[Tensor, "layer position component *size"]:
    """The activations of every layer after the first, whose own are edited."""
    kept = []
    names = [HOOKS[kind].format(layer) for layer in range(model.cfg.n_layers)]

    def keep(activation: Tensor, hook) -> Tensor:
        kept.append(activation[0].clone())
        return activation

    model.set_use_attn_result(kind == "heads")
    model.run_with_hooks(
        tokens,
        fwd_hooks=[(names[0], lambda act, hook: edit(act)), *((name, keep) for name in names[1:])],
    )
    return torch.stack(kept)


@torch.no_grad()
def _metric(model: TransformerBridge, text: str, labels: Labels) -> float:
    return logit_diff(model(model.to_tokens(text))[:, -1].cpu(), labels).item()
