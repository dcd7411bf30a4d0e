"""What all methods share: every site of every part, progress, and checkpoints of long runs."""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis.checks import folder, some_of
from analysis.choices import KINDS, Baseline, Direction, Kind
from analysis.components import Components, chosen_components
from analysis.forward import Forward, SiteKey
from analysis.models import fingerprint
from analysis.provenance import PROVENANCE, Provenance
from analysis.scores import Scores
from analysis.sites import Part, Plan, Site, engine
from analysis.tasks import PromptPairs
from analysis.version import ALGORITHM

Unit = dict[str, Tensor]
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


class Scored(NamedTuple):
    """A site's scores, and what a method may know besides.

    `effect` is what patching the whole layer does, `nodes` how many gradients a prompt's scores
    took, and `reached` whether they are as exact as was asked for.
    """

    values: Float[Tensor, "prompt component"]
    effect: Float[Tensor, " prompt"] | None = None
    nodes: Int[Tensor, " prompt"] | None = None
    reached: Bool[Tensor, " prompt"] | None = None


Scorer = Callable[[Site], Scored | Float[Tensor, "prompt component"]]


@dataclass(frozen=True)
class Method:
    """What a method is: for each part, a function that scores its sites.

    What a part's sites share is computed once, when the part's function is asked for.
    """

    name: str
    scorer: Callable[[Part], Scorer]
    runs: Callable[[int], int]  # how often it resumes a site of so many components; or a guess
    settings: dict[str, Any] = field(default_factory=dict)  # such as the number of steps
    gaps: bool = True  # whether it measures them, by one run more of each layer and kind


def sweep(
    method: Method,
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: Direction,
    baseline: Baseline,
    kinds: tuple[Kind, ...],
    memory: int,
    progress: bool | None,
    checkpoints: str | Path | None,
    components: Components | None = None,
) -> Scores:
    """Scores of every component, or of those asked for, on every prompt.

    Raises as `Plan` and `chosen_components` do.
    """
    some_of("kind", kinds, KINDS)
    with engine(model, pairs) as forward:
        chosen = chosen_components(components, kinds, forward)
        plan = Plan(forward, pairs, direction, baseline, memory)
        asked = {} if components is None else {"components": [*chosen.items()]}
        choices = method.name, method.settings | asked, direction, baseline, memory
        finished = Checkpoints(checkpoints, model, pairs, *choices)
        scores = _empty(method, plan, {kind for kind, _ in chosen})
        missed: dict[Kind, Tensor] = {
            kind: torch.zeros_like(scores.gaps(kind)).bool() for kind in KINDS
        }
        runs = {site: _runs(method, forward, site, some) for site, some in chosen.items()}
        total = plan.tokens * sum((forward.layers - site[1]) * runs[site] for site in runs)
        with progress_bar(f"{method.name} {pairs.task}", total, progress) as bar:
            for part in plan.parts():
                rows, scorer = plan.rows(part), cache(partial(method.scorer, part))
                scores.base[rows] = part.measure(part.base).float().cpu()
                scores.source[rows] = part.measure(part.source).float().cpu()
                for key, some in chosen.items():
                    site, work = part.site(key).select(some), part.work(key[1])
                    score = partial(_score, method, scorer, site, bar, work)
                    name = f"{site.kind}-{site.layer}-{part.prompts[0]}"
                    unit = finished.keep(name, bar, work * runs[key], score)
                    scores.of(site.kind)[rows[:, None], site.layer, some] = unit["values"]
                    scores.gaps(site.kind)[rows, site.layer] = unit["gap"]
                    missed[site.kind][rows, site.layer] = ~unit["reached"]
    # Elsewhere than on the layer's joint path a gap is no error.
    _warn_of(missed, scores, told=method.settings.get("path") == "layer-joint")
    return scores


def _warn_of(missed: dict[Kind, Bool[Tensor, "prompt layer"]], scores: Scores, told: bool) -> None:
    """One warning, if a method did not get as exact as asked; the largest gap is told or not."""
    if not any(where.any() for where in missed.values()):
        return
    prompts = torch.cat([*missed.values()], dim=1).any(dim=1).sum()
    layers = [
        f"layer{'s' * (len(found) > 1)} {', '.join(map(str, found))} ({kind})"
        for kind, where in missed.items()
        if (found := where.any(dim=0).nonzero().flatten().tolist())
    ]
    gap = torch.cat([scores.gaps(kind)[where].abs() for kind, where in missed.items()]).max()
    size = f"{gap / scores.total.abs().max():.1e}"
    warnings.warn(
        f"{scores.task}: {scores.method} did not reach its tolerance on {prompts} of "
        f"{len(scores.prompts)} prompts, in {' and '.join(layers)}"
        f"{f'; the largest gap there is {size} of the largest |total effect|' if told else ''}.",
        stacklevel=4,
    )


def _runs(method: Method, forward: Forward, site: SiteKey, components: list[int]) -> int:
    """How often a site is resumed: by the method, and once for the gap where it is measured."""
    measured = method.gaps and len(components) == forward.components(site[0])
    return method.runs(len(components)) + measured


def _empty(method: Method, plan: Plan, kinds: set[Kind]) -> Scores:
    """Scores that are all missing: NaN, as what is not asked for or not measured stays."""
    prompts, layers, forward = len(plan.prompts), plan.forward.layers, plan.forward
    heads, neurons = (forward.components(kind) if kind in kinds else 0 for kind in KINDS)
    missing = partial(torch.full, fill_value=torch.nan)
    return Scores(
        *(method.name, plan.pairs.task, plan.direction, plan.baseline),
        heads=missing((prompts, layers, heads)),
        neurons=missing((prompts, layers, neurons)),
        heads_gap=missing((prompts, layers)),
        neurons_gap=missing((prompts, layers)),
        base=missing((prompts,)),
        source=missing((prompts,)),
        prompts=plan.prompts,
        left_out=len(plan.pairs) - prompts,
    )


def _score(method: Method, scorer: Callable[[], Scorer], site: Site, bar: tqdm, work: int) -> Unit:
    """A unit's scores, and how far they are from summing to what the whole layer does."""

    def resume(
        change: Float[Tensor, "*batch some changed d_model"], prompts: list[int] | None = None
    ) -> Tensor:
        metric = site.resume(change, prompts)
        bar.update(work // len(site.base) * change.shape[:-2].numel())
        return metric

    found = scorer()(replace(site, resume=resume))
    scored = found if isinstance(found, Scored) else Scored(found)
    values, effect, reached = scored.values, scored.effect, scored.reached
    if not (method.gaps and site.whole):
        effect = torch.full_like(values[:, 0], torch.nan)
    if effect is None:
        with torch.no_grad():
            effect = resume(site.joint_change()) - site.base
    return {
        "values": values.float().cpu().contiguous(),
        "gap": (values.sum(dim=1) - effect.to(values)).float().cpu(),
        "reached": torch.ones(len(values), dtype=torch.bool) if reached is None else reached,
    }


def progress_bar(name: str, total: int, progress: bool | None) -> tqdm:
    """A bar of so much work, which shows the share that is done; None shows it on a terminal."""
    disable = None if progress is None else not progress
    return tqdm(total=total, desc=name, bar_format=_BAR, disable=disable)


class Checkpoints:
    """A folder with a file per finished unit, each written whole or not at all; or no folder.

    Each file says what the units depend on besides their names, and what the model computes here,
    so that none is taken for another run's. The memory belongs to `choices`, as it decides which
    prompts stand in a unit together. A file that cannot be read is computed again; one that cannot
    be written costs a warning.
    """

    def __init__(
        self, path: str | Path | None, model: TransformerBridge, pairs: PromptPairs, *choices: Any
    ):
        self.folder = folder("checkpoints", path)
        if self.folder is not None:
            run = [fingerprint(model), pairs.fingerprint(), *choices, ALGORITHM]
            self.run, self.provenance = json.dumps(run), Provenance.of(model)

    def keep(self, name: str, bar: tqdm, cost: int, compute: Callable[[], Unit]) -> Unit:
        """Load the unit from its file or compute it, then advance the progress bar by `cost`."""
        path = self.folder and self.folder / f"{name}.safetensors"
        if path and (found := self._read(path)) is not None:
            bar.total -= cost  # it took no work that could tell the time left
            return found
        started = bar.n
        unit = compute()
        more = bar.n - started - cost  # than it was thought to take
        bar.total += max(0, more)
        bar.update(max(0, -more))
        if path:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = path.with_suffix(f".{os.getpid()}.partial")
                save_file(unit, unfinished, {"run": self.run, PROVENANCE: self.provenance.text()})
                os.replace(unfinished, path)
            except (OSError, SafetensorError) as error:
                warnings.warn(f"{path} cannot be written and is not kept: {error}", stacklevel=2)
        return unit

    def _read(self, path: Path) -> Unit | None:
        try:
            with safe_open(path, "pt") as file:
                facts, names = file.metadata() or {}, file.keys()
                unit = {name: file.get_tensor(name) for name in names}
        except (FileNotFoundError, SafetensorError):
            return None
        if facts.get("run") != self.run:
            raise ValueError(
                f"{path} was written by a run with other arguments: delete {path.parent}, or "
                "name another folder for the checkpoints."
            )
        self.provenance.check(facts.get(PROVENANCE), path)
        return unit
