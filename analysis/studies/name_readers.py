"""Heads that read a name at IOI's last position, and what of other components goes through them.

Of the `STRONGEST` heads by |mean AP|, noising, one is a *name mover* if its attention at the last
position is largest on the indirect object on most prompts, and a *subject reader* if it is largest
on the subject's second mention; Wang et al. (2023) find both in GPT-2 small, where the latter
inhibit the subject. Where none above the first layer is either, the strongest there stands in.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.ablation import largest
from analysis.agreement import mean_over_prompts
from analysis.attribution import Scores, activation_patching
from analysis.forward import KINDS
from analysis.mediation import Component, mediate
from analysis.mediation.metric import Link
from analysis.studies.aligned_baselines import PROMPTS
from analysis.studies.cache import cached_frame, cached_scores
from analysis.studies.comparison import wide
from analysis.tasks import PromptPairs, load_task

TASK = "ioi"
MEDIATED = 24
STRONGEST = 4
NEURONS = 8
SHOWN = 8
EFFECTS = ("total", "direct", "indirect", "remainder")
_LINK = ["component", "through"]
# Each role with the place that it reads, in the order of the labels.
PLACES = {"name mover": "the indirect object", "subject reader": "the subject"}
NO_ROLE = "none"


@dataclass(frozen=True)
class NameReaders:
    """The strongest heads and what they read, and what goes through the readers.

    Attributes:
        heads: columns name, layer, component, ap (the mean, as a share of the mean total effect),
            the mean attention to each of `PLACES`, and role; the strongest first.
        links: columns component, through (their names), effect (`EFFECTS`), and the estimate over
            prompts, as shares of the mean total effect.
    """

    heads: pl.DataFrame
    links: pl.DataFrame

    def heads_table(self) -> pl.DataFrame:
        """The strongest heads."""
        return self.heads.head(STRONGEST).drop("layer", "component")

    def table(self) -> pl.DataFrame:
        """The links with the largest |indirect effect|."""
        links = self._strongest().select(_LINK)
        rows = links.join(self.links, on=_LINK, how="left", maintain_order="left_right")
        return wide(rows, "effect", _LINK, EFFECTS)

    def finding(self) -> str:
        """Which heads read names and what goes through them, in Markdown."""
        indirect = self._strongest().row(0, named=True)
        link = self.links.filter(
            pl.col("component") == indirect["component"], pl.col("through") == indirect["through"]
        )
        shares = {row["effect"]: f"{row['mean']:.0%}" for row in link.iter_rows(named=True)}
        return (
            f"{self._roles()} The most that goes through one of them is {shares['indirect']} of "
            f"the mean total effect, from {indirect['component']} through {indirect['through']}: "
            f"patched, {indirect['component']} has {shares['total']} in all, and "
            f"{shares['direct']} with {indirect['through']} held. The remainder is "
            f"{self._largest_remainder():.1%} at most."
        )

    def _roles(self) -> str:
        readers = self.heads.filter(pl.col("role") != NO_ROLE)
        found = {role: readers.filter(pl.col("role") == role)["name"] for role in PLACES}
        said = [
            f"{role}s: {', '.join(names)}" if len(names) else f"no head is a {role} by this rule"
            for role, names in found.items()
        ]
        through = self.links["through"][0]
        stands_in = "" if through in readers["name"] else f"; {through} stands in"
        text = "; ".join(said) + stands_in
        return f"{text[0].upper()}{text[1:]}."

    def _strongest(self) -> pl.DataFrame:
        """Their indirect effects, the largest first."""
        indirect = self.links.filter(pl.col("effect") == "indirect")
        return indirect.sort(pl.col("mean").abs(), descending=True).head(SHOWN)

    def _largest_remainder(self) -> float:
        left = self.links.filter(pl.col("effect") == "remainder")["mean"]
        return float(left.abs().to_numpy().max())


def name_readers(
    model: TransformerBridge, n: int = PROMPTS, seed: int = 0, progress: bool | None = None
) -> NameReaders:
    """The heads by AP on n prompts of IOI, and what goes through them on the first `MEDIATED`.

    It comes from all heads of earlier layers and the strongest `NEURONS` neurons by |mean AP|. The
    scores are those of the aligned baselines.
    """
    pairs = load_task(TASK, model, n=n, seed=seed)
    ap = cached_scores(activation_patching, model, pairs, direction="noising", progress=progress)
    few = pairs.select(range(min(MEDIATED, len(pairs))))
    facts = model, few, ap
    heads = cached_frame("name-readers", lambda: rank_heads(model, few, ap), *facts)
    links = links_to(mediators(heads), ap)
    total = float(ap.total.mean())
    through = cached_frame(
        "through-names", lambda: through_links(model, few, links, total, seed), *facts, seed
    )
    return NameReaders(heads, through)


def rank_heads(model: TransformerBridge, pairs: PromptPairs, ap: Scores) -> pl.DataFrame:
    """The frame `NameReaders.heads`; the attention is that on `pairs`."""
    shares = ap.heads.mean(dim=0) / ap.total.mean()
    paid, most = attention_to_names(model, pairs)
    layers, heads = np.indices(shares.shape)
    values = {"layer": layers, "component": heads, "ap": shares.numpy()} | {
        role: paid[place].mean(dim=0).numpy() for place, role in enumerate(PLACES)
    }
    usual = most.mean(dim=1).flatten(1).numpy() > 0.5
    roles = np.where(usual.any(axis=0), np.array(list(PLACES))[usual.argmax(axis=0)], NO_ROLE)
    ranked = (
        pl.DataFrame({name: column.ravel() for name, column in values.items()})
        .with_columns(role=pl.Series(roles))
        .sort(pl.col("ap").abs(), descending=True)
        .with_row_index("rank")
    )
    return ranked.select(
        pl.format("head {}.{}", "layer", "component").alias("name"),
        *("layer", "component", "ap"),
        *(pl.col(role).alias(f"attention to {place}") for role, place in PLACES.items()),
        role=pl.when(pl.col("rank") < STRONGEST).then("role").otherwise(pl.lit(NO_ROLE)),
    )


@torch.no_grad()
def attention_to_names(
    model: TransformerBridge, pairs: PromptPairs
) -> tuple[Float[Tensor, "place prompt layer head"], Float[Tensor, "place prompt layer head"]]:
    """What each head pays, at the last clean position, to each of `PLACES`.

    The second tensor is 1 where it pays no other position more, else 0. A name that is said more
    than once counts where it is said last.
    """
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    paid, most = [], []
    for tokens, labels in zip(pairs.clean_tokens, pairs.labels.tokens, strict=True):
        places = [int((tokens == label).nonzero()[-1]) for label in labels]
        _, cache = model.run_with_cache(tokens[None], names_filter=names)
        pattern = torch.stack([cache[name][0, :, -1].cpu() for name in names])
        paid.append(torch.stack([pattern[..., place] for place in places]))
        most.append(torch.stack([pattern.argmax(dim=-1) == place for place in places]).float())
    return torch.stack(paid, dim=1), torch.stack(most, dim=1)


def mediators(heads: pl.DataFrame) -> list[Component]:
    """The readers of a frame `NameReaders.heads` above the first layer, else what stands in."""
    later = heads.filter(pl.col("layer") > 0)
    found = later.filter(pl.col("role") != NO_ROLE)
    rows = (found if found.height else later.head(1)).select("layer", "component")
    return [Component("heads", layer, place) for layer, place in rows.iter_rows()]


def links_to(later: list[Component], ap: Scores) -> list[Link]:
    """From every head of an earlier layer, and the strongest neurons, to each later head."""
    strong = largest(ap.neurons.mean(dim=0).numpy(), NEURONS)
    masks = {"heads": torch.ones(ap.heads.shape[1:]), "neurons": torch.from_numpy(strong)}
    sources = [
        Component(kind, layer, place)
        for kind in KINDS
        for layer, place in masks[kind].nonzero().tolist()
    ]
    return [(c, d) for d in later for c in sources if c.layer < d.layer]


def through_links(
    model: TransformerBridge, pairs: PromptPairs, links: list[Link], total: float, seed: int = 0
) -> pl.DataFrame:
    """The frame `NameReaders.links`, the effects divided by `total`."""
    found = mediate(model, pairs, links, progress=False)
    return pl.DataFrame(
        [
            {"component": _name(source), "through": _name(target), "effect": effect}
            | mean_over_prompts(getattr(found, effect)[:, place] / total, seed)._asdict()
            for place, (source, target) in enumerate(links)
            for effect in EFFECTS
        ]
    )


def _name(component: Component) -> str:
    return f"{component.kind.removesuffix('s')} {component.layer}.{component.place}"
