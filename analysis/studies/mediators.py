"""What components change in later ones, and how much of their effect goes through some heads."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy.stats import false_discovery_control
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis import mediation, studies
from analysis.ablation import activation_differences, largest
from analysis.agreement import Estimate, mean_over_prompts
from analysis.attribution import Scores, activation_patching
from analysis.choices import KINDS, Kind
from analysis.latent import compare_with_controls, latent_components, log_covariates
from analysis.mediation import MEASURES, Component, Link, name_of
from analysis.metrics import logit_diff
from analysis.studies import FEW_PROMPTS, PROMPTS, UNTRAINED, Scored, loaded, store, tidy
from analysis.tasks import TASKS, Example, PromptPairs, load_task
from analysis.tasks.pairs import build_pairs

EXAMPLE = Example(
    "When John and Mary went to the store, John gave a bottle of milk to",
    "When John and Mary went to the store, Mary gave a bottle of milk to",
    (" Mary",),
    (" John",),
)
OUTCOMES = ("norm", "reach", "projection")
MEDIATED = 24  # prompts
STRONGEST = 4  # heads
NEURONS = 8
NO_ROLE = "none"
# Each role with the name that it reads, in the order of the labels.
ROLES = {"name mover": "indirect object", "subject reader": "subject"}
_PAIR = ("layer", "component", "later_layer", "later_component")


def head_to_head(
    model: TransformerBridge,
    n: int = FEW_PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """What each head, patched alone, changes in each later head: means over prompts, noising.

    Columns task (`example` is the second notebook's), layer, component, later_layer,
    later_component, and statistic: `norm`, `relative`, `projection` (see `analysis.mediation`) and
    `reach`, the share of prompts on which the relative change is over 5 %. A prompt on which a
    statistic is undefined is left out of its mean, and of n.
    """
    sets = {"example": example_pairs(model)}
    sets |= {task: load_task(task, model, n=n, seed=seed) for task in tasks}
    return pl.concat(
        store.frame(
            f"heads-{task}", partial(head_changes, model, pairs, progress), model, pairs
        ).select(pl.lit(task).alias("task"), pl.all())
        for task, pairs in sets.items()
    )


def example_pairs(model: TransformerBridge) -> PromptPairs:
    """The notebooks' example, without its trailing space and with its answers' leading ones."""
    return build_pairs("example", logit_diff, [[EXAMPLE]], model)


def head_changes(
    model: TransformerBridge, pairs: PromptPairs, progress: bool | None = None
) -> pl.DataFrame:
    """The frame `head_to_head` of one data set."""
    effects = mediation.dense_effects(model, pairs, "heads", "heads", progress=progress)
    means, counts = effects.nanmean(dim=1), effects.isfinite().sum(dim=1)
    return tidy(
        dict(zip(_PAIR, pair, strict=True))
        | {"statistic": name, "estimate": float(means[row][pair]), "n": int(counts[row][pair])}
        for row, name in enumerate(MEASURES)
        for pair in np.ndindex(means.shape[1:])
        if pair[0] < pair[2]
    )


def latent_question(
    names: list[str] | None = None,
    n: int = FEW_PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
) -> pl.DataFrame:
    """Whether direction-dependent components change later ones more than matched controls do.

    These are the components that IG, averaged over prompts, highlights in one direction only;
    controls are of the same layer and have about the same |IG|, |AP| and ‖Δa‖. All are patched
    alone, noising. The untrained network is left out: it has no circuit.

    Columns model, task, kind (of what is patched), target (of what changes), outcome (`norm` and
    `projection`, means over later components, or `reach`, how many are reached), and statistic:
    `effect`, `p`, `compared`, `controls` and `unmatched` of an `analysis.latent.Comparison`, the
    largest |balance| as `imbalance`, and `q`, p adjusted for false discoveries among all tests.
    Estimates are null where nothing can be compared.
    """
    if names is None:
        names = [name for name in studies.models_compared() if name != UNTRAINED]
    tests = pl.concat(
        _tests_of(loaded(name), task, n, seed, progress).select(
            pl.lit(name).alias("model"), pl.lit(task).alias("task"), pl.all()
        )
        for name, task in product(names, tasks)
    )
    return with_false_discovery_rate(tests)


def with_false_discovery_rate(tests: pl.DataFrame) -> pl.DataFrame:
    """Adds the statistic q, Benjamini and Hochberg's adjusted p, over the tests that have a p."""
    found = tests.filter(statistic="p")
    p = found["estimate"].to_numpy()
    q = np.full(len(p), np.nan)
    q[np.isfinite(p)] = false_discovery_control(p[np.isfinite(p)])
    adjusted = found.with_columns(statistic=pl.lit("q"), estimate=pl.Series(q).fill_nan(None))
    return pl.concat([tests, adjusted])


def _tests_of(
    model: TransformerBridge, task: str, n: int, seed: int, progress: bool | None
) -> pl.DataFrame:
    """One model's tests on one task."""
    scored = list(studies.both_methods(model, n, seed, progress, (task,)))
    rows = (row for kind in KINDS for row in _tests(model, kind, scored, seed, progress))
    facts = [scored[0][0], *(scores for _, *both in scored for scores in both)]
    return store.frame(f"latent-{task}", lambda: tidy(rows), model, *facts, seed)


def _tests(
    model: TransformerBridge, kind: Kind, scored: list[Scored], seed: int, progress: bool | None
) -> Iterator[dict[str, Any]]:
    """The tests of one kind of component, a row for each statistic; `scored` are of a task."""
    pairs = scored[0][0]
    ap = tuple(of.of(kind).mean(dim=0).numpy() for _, of, _ in scored)
    ig = tuple(of.of(kind).mean(dim=0).numpy() for _, _, of in scored)
    moved = activation_differences(model, pairs, kind)
    covariates = log_covariates(IG=ig, AP=ap, moved=(moved,))
    (latent,) = latent_components(ig[0][None], ig[1][None])
    effects = mediation.component_effects(model, pairs, kind, progress=progress)
    for target, outcome in product(KINDS, OUTCOMES):
        values = effects[target][MEASURES.index(outcome)].double().numpy()
        found = compare_with_controls(latent, values, covariates, seed=seed)
        numbers = {
            "effect": Estimate(found.effect, float("nan"), found.low, found.high),
            **{name: getattr(found, name) for name in ("p", "compared", "controls", "unmatched")},
            "imbalance": np.abs(list(found.balance.values())).max(),
        }
        about = {"kind": kind, "target": target, "outcome": outcome, "n": len(pairs)}
        for name, value in numbers.items():
            yield about | {"statistic": name, "estimate": value}


def name_readers(
    model: TransformerBridge, n: int = PROMPTS, seed: int = 0, progress: bool | None = None
) -> pl.DataFrame:
    """Heads that read a name at IOI's last position, and what goes through them.

    Of the `STRONGEST` heads by |mean AP|, noising, one is a *name mover* if its attention at the
    last position is largest on the indirect object on most prompts, and a *subject reader* if it is
    largest on the subject's last mention. They mediate the effects of all heads of earlier layers
    and of the strongest `NEURONS` neurons by |mean AP|; where none above the first layer is either,
    the strongest there stands in. Attention and mediation are on the first `MEDIATED` prompts.

    Columns component (its name), through (of a link, the mediator's), role (of a head, or `none`)
    and statistic. Heads have `ap`, the mean as a share of the mean total effect, and `attention to
    the indirect object` and `subject`; they come strongest first. Links have `EFFECTS` of
    `analysis.mediation`, as shares of the mean total effect.
    """
    pairs = load_task("ioi", model, n=n, seed=seed)
    ap = store.scores(activation_patching, model, pairs, direction="noising", progress=progress)
    few = pairs.select(range(len(pairs))[:MEDIATED])

    def rows() -> Iterator[dict[str, Any]]:
        heads = rank_heads(model, few, ap)
        for statistic, row in product(heads.columns[3:], heads.rows(named=True)):
            about = {"component": name_of(("heads", row["layer"], row["index"])), "through": None}
            count = len(ap.prompts) if statistic == "ap" else len(few)
            found = {"statistic": statistic, "estimate": row[statistic], "n": count}
            yield about | {"role": row["role"]} | found
        links = links_to(mediators(heads), ap)
        yield from through_links(model, few, links, float(ap.total.mean()), seed)

    return store.frame("name-readers", lambda: tidy(rows()), model, few, ap, seed)


def rank_heads(model: TransformerBridge, pairs: PromptPairs, ap: Scores) -> pl.DataFrame:
    """All heads, the strongest first: layer, index, role, and the statistics of `name_readers`."""
    shares = ap.heads.mean(dim=0) / ap.total.mean()
    paid, most = attention_to_names(model, pairs)
    layers, heads = np.indices(shares.shape)
    usual = most.mean(dim=1).numpy() > 0.5
    roles = np.where(usual.any(axis=0), np.array(list(ROLES))[usual.argmax(axis=0)], NO_ROLE)
    columns = {"layer": layers, "index": heads, "role": roles, "ap": shares.numpy()}
    for name, attention in zip(ROLES.values(), paid.mean(dim=1).numpy(), strict=True):
        columns[f"attention to the {name}"] = attention
    frame = pl.DataFrame({name: values.ravel() for name, values in columns.items()})
    role = pl.when(pl.int_range(pl.len()) < STRONGEST).then("role").otherwise(pl.lit(NO_ROLE))
    return frame.sort(pl.col("ap").abs(), descending=True).with_columns(role=role)


@torch.no_grad()
def attention_to_names(
    model: TransformerBridge, pairs: PromptPairs
) -> tuple[Float[Tensor, "name prompt layer head"], Float[Tensor, "name prompt layer head"]]:
    """The attention of each head, at the last clean position, to the names of `ROLES`.

    The second tensor is 1 where it attends to no other position more, else 0. A name that is said
    more than once counts where it is said last.
    """
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    paid, most = [], []
    for tokens, labels in zip(pairs.clean_tokens, pairs.labels.tokens, strict=True):
        positions = [int((tokens == label).nonzero()[-1]) for label in labels]
        _, cache = model.run_with_cache(tokens[None], names_filter=hooks)
        pattern = torch.stack([cache[hook][0, :, -1].cpu() for hook in hooks])
        largest_at = pattern.argmax(dim=-1)
        paid.append(torch.stack([pattern[..., position] for position in positions]))
        most.append(torch.stack([largest_at == position for position in positions]).float())
    return torch.stack(paid, dim=1), torch.stack(most, dim=1)


def mediators(heads: pl.DataFrame) -> list[Component]:
    """The readers of a frame of `rank_heads` above the first layer, else what stands in."""
    later = heads.filter(pl.col("layer") > 0)
    found = later.filter(pl.col("role") != NO_ROLE)
    rows = (found if found.height else later.head(1)).select("layer", "index")
    return [("heads", layer, index) for layer, index in rows.iter_rows()]


def links_to(later: list[Component], ap: Scores) -> list[Link]:
    """From every head of an earlier layer, and the strongest neurons, to each later head."""
    strong = largest(ap.neurons.mean(dim=0).numpy(), NEURONS)
    masks = {"heads": torch.ones(ap.heads.shape[1:]), "neurons": torch.from_numpy(strong)}
    sources: list[Component] = [
        (kind, layer, index) for kind in KINDS for layer, index in masks[kind].nonzero().tolist()
    ]
    return [(source, target) for target in later for source in sources if source[1] < target[1]]


def through_links(
    model: TransformerBridge, pairs: PromptPairs, links: list[Link], total: float, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """The rows of `name_readers` for links, their effects divided by `total`."""
    found = mediation.mediate(model, pairs, links, progress=False) / total
    for (number, link), (row, effect) in product(enumerate(links), enumerate(mediation.EFFECTS)):
        source, target = map(name_of, link)
        about = {"component": source, "through": target, "role": None, "statistic": effect}
        estimate = mean_over_prompts(found[row, :, number], seed)
        yield about | {"estimate": estimate, "n": len(pairs)}
