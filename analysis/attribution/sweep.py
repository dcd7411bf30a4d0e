"""What all methods share: every prompt, every layer, both kinds of component."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution.checkpoints import Checkpoints, Unit
from analysis.attribution.parts import (
    BASELINES,
    DIRECTIONS,
    Site,
    engine,
    groups_for,
    split_into_parts,
)
from analysis.attribution.scores import Scores
from analysis.attribution.units import all_work, checkpoints_of, keep, progress_bar, work
from analysis.checks import one_of, some_of, whole
from analysis.forward import KINDS, Forward
from analysis.tasks import PromptPairs


@dataclass(frozen=True)
class Method:
    """`score` gives one site's scores; `runs` how often it resumes a site of so many components.

    `settings` are the method's own, such as the number of steps.
    """

    name: str
    score: Callable[[Site], Float[Tensor, "prompt component"]]
    runs: Callable[[int], int]
    settings: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What every method takes: which run is changed, what is put in, for what, and how."""

    direction: str
    baseline: str
    kinds: tuple[str, ...]
    memory: int
    progress: bool | None
    checkpoints: str | Path | None


def sweep(
    method: Method, model: TransformerBridge, pairs: PromptPairs, settings: Settings
) -> Scores:
    """Scores of every component of every layer on every prompt.

    The unit of work is one site of one part; finished units are kept in the checkpoints' folder.

    Raises:
        ValueError: as `check_choices` and `split_into_parts` do.
    """
    check_choices(settings.direction, settings.baseline, settings.kinds)
    whole("memory", settings.memory, least=1)
    with engine(model, pairs) as forward:
        checkpoints = checkpoints_of(
            settings.checkpoints,
            model,
            pairs,
            *(method.name, method.settings, settings.direction, settings.baseline, settings.memory),
        )
        return _sweep(method, forward, pairs, settings, checkpoints)


def _sweep(
    method: Method,
    forward: Forward,
    pairs: PromptPairs,
    settings: Settings,
    checkpoints: Checkpoints,
) -> Scores:
    groups = groups_for(pairs, settings.baseline)
    prompts = sorted(place for group, _ in groups for place in group)
    results = _Results(forward, len(pairs), settings.kinds)
    with _progress_bar(method, forward, pairs, settings) as bar:
        for part in split_into_parts(
            forward, pairs, settings.direction, settings.baseline, settings.memory
        ):
            results.base[part.places] = part.measure(part.base).float().cpu()
            results.source[part.places] = part.measure(part.source).float().cpu()
            for site in part.sites(settings.kinds):
                a_run = work(forward, site.layer, *site.difference.shape[:2])
                score = partial(_score, method, _watched(site, bar, a_run))
                name = f"{site.kind}-{site.layer}-{part.places[0]}"
                cost = a_run * _runs(method, len(site.writes))
                results.add(site, part.places, keep(checkpoints, bar, name, cost, score))
    return results.scores(method.name, pairs, settings, torch.tensor(prompts))


def _score(method: Method, site: Site) -> Unit:
    """A unit's scores, and how far they are from summing to what the whole layer does."""
    values = method.score(site)
    with torch.no_grad():
        joint = site.resume(site.joint_change()) - site.base
    return {
        "values": values.float().cpu().contiguous(),
        "gap": (values.sum(dim=1) - joint).float().cpu(),
    }


def _runs(method: Method, components: int) -> int:
    """One more than the method's own: the whole layer patched."""
    return method.runs(components) + 1


def _watched(site: Site, bar: tqdm, a_run: int) -> Site:
    """The same site; resuming it moves the bar."""

    def resume(change: Float[Tensor, "*batch prompt changed d_model"]) -> Tensor:
        metric = site.resume(change)
        bar.update(a_run * change.shape[:-3].numel())
        return metric

    return replace(site, resume=resume)


def _progress_bar(method: Method, forward: Forward, pairs: PromptPairs, settings: Settings) -> tqdm:
    runs = sum(_runs(method, forward.components(kind)) for kind in settings.kinds)
    total = runs * all_work(forward, pairs, settings.baseline)
    return progress_bar(f"{method.name} {pairs.task}", total, settings.progress)


class _Results:
    """Scores as they come in, at their prompts' places."""

    def __init__(self, forward: Forward, prompts: int, kinds: tuple[str, ...]):
        self.base, self.source = torch.zeros(prompts), torch.zeros(prompts)
        self.values = {
            kind: torch.zeros(
                prompts, forward.layers, forward.components(kind) if kind in kinds else 0
            )
            for kind in KINDS
        }
        self.gaps = {kind: torch.zeros(prompts, forward.layers) for kind in KINDS}

    def add(self, site: Site, places: list[int], unit: Unit) -> None:
        self.values[site.kind][places, site.layer] = unit["values"]
        self.gaps[site.kind][places, site.layer] = unit["gap"]

    def scores(self, name: str, pairs: PromptPairs, settings: Settings, prompts: Tensor) -> Scores:
        return Scores(
            method=name,
            task=pairs.task,
            direction=settings.direction,
            baseline=settings.baseline,
            heads=self.values["heads"][prompts],
            neurons=self.values["neurons"][prompts],
            heads_gap=self.gaps["heads"][prompts],
            neurons_gap=self.gaps["neurons"][prompts],
            base=self.base[prompts],
            source=self.source[prompts],
            prompts=prompts,
            left_out=len(pairs) - len(prompts),
        )


def check_choices(direction: str, baseline: str, kinds: tuple[str, ...]) -> None:
    """Raises a ValueError for an unknown direction, baseline or kind."""
    one_of("direction", direction, DIRECTIONS)
    one_of("baseline", baseline, BASELINES)
    some_of("kind", kinds, KINDS)
