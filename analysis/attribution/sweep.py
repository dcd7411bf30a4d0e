"""What all methods share: every prompt, every layer, both kinds of component."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.parts import BASELINES, DIRECTIONS, Site, groups_for, split_into_parts
from analysis.attribution.scores import Scores
from analysis.forward import KINDS, Forward
from analysis.tasks import PromptPairs

Method = Callable[[Site], Float[Tensor, "prompt component"]]


def sweep(
    name: str,
    method: Method,
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: str,
    baseline: str,
    kinds: tuple[str, ...],
    memory: int,
    progress: bool | None,
) -> Scores:
    """Scores of every component of every layer on every prompt.

    Raises:
        ValueError: for an unknown direction, baseline or kind, and as `split_into_parts` does.
    """
    _check("direction", direction, DIRECTIONS)
    _check("baseline", baseline, BASELINES)
    for kind in kinds:
        _check("kind", kind, KINDS)
    forward = Forward(model)
    prompts = sorted(place for group in groups_for(pairs, baseline) for place in group)
    results = _Results(forward, len(pairs), kinds)
    work = len(prompts) * len(forward.layers) * sum(forward.components(kind) for kind in kinds)
    disable = None if progress is None else not progress
    with tqdm(total=work, desc=f"{name} {pairs.task}", unit=" scores", disable=disable) as bar:
        for part in split_into_parts(forward, pairs, direction, baseline, memory):
            results.base[part.places] = part.measure(part.base.logits).float().cpu()
            results.source[part.places] = part.measure(part.source.logits).float().cpu()
            for site in part.sites(kinds):
                results.add(site, part.places, method(site))
                bar.update(len(part.places) * len(site.writes))
    return results.scores(name, pairs, direction, baseline, torch.tensor(prompts))


class _Results:
    """Scores as they come in, at their prompts' places."""

    def __init__(self, forward: Forward, prompts: int, kinds: tuple[str, ...]):
        layers = len(forward.layers)
        self.base, self.source = torch.zeros(prompts), torch.zeros(prompts)
        self.values = {
            kind: torch.zeros(prompts, layers, forward.components(kind) if kind in kinds else 0)
            for kind in KINDS
        }
        self.gaps = {kind: torch.zeros(prompts, layers) for kind in KINDS}

    @torch.no_grad()
    def add(self, site: Site, places: list[int], values: Float[Tensor, "prompt component"]) -> None:
        joint = site.resume(site.joint_change()) - site.base
        self.values[site.kind][places, site.layer] = values.float().cpu()
        self.gaps[site.kind][places, site.layer] = (values.sum(dim=1) - joint).float().cpu()

    def scores(
        self, name: str, pairs: PromptPairs, direction: str, baseline: str, prompts: Tensor
    ) -> Scores:
        return Scores(
            method=name,
            task=pairs.task,
            direction=direction,
            baseline=baseline,
            heads=self.values["heads"][prompts],
            neurons=self.values["neurons"][prompts],
            heads_gap=self.gaps["heads"][prompts],
            neurons_gap=self.gaps["neurons"][prompts],
            base=self.base[prompts],
            source=self.source[prompts],
            prompts=prompts,
            left_out=len(pairs) - len(prompts),
        )


def _check(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"There is no {what} {value!r}: expected one of {', '.join(allowed)}.")
