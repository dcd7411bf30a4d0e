"""What all methods share: every site of every part, progress, and checkpoints of long runs."""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis.checks import folder, some_of
from analysis.choices import KINDS, Baseline, Direction, Kind
from analysis.models import fingerprint
from analysis.provenance import PROVENANCE, Provenance
from analysis.scores import Scores
from analysis.sites import Plan, Site, engine
from analysis.tasks import PromptPairs
from analysis.version import ALGORITHM

Unit = dict[str, Tensor]
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


@dataclass(frozen=True)
class Method:
    """What a method is: its scores of one site."""

    name: str
    score: Callable[[Site], Float[Tensor, "prompt component"]]
    runs: Callable[[int], int]  # how often it resumes a site of so many components
    settings: dict[str, str | int] = field(default_factory=dict)  # such as the number of steps


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
) -> Scores:
    """Scores of every component of every layer on every prompt; raises as `Plan` does."""
    some_of("kind", kinds, KINDS)
    choices = method.name, method.settings, direction, baseline, memory
    with engine(model, pairs) as forward:
        plan = Plan(forward, pairs, direction, baseline, memory)
        finished = Checkpoints(checkpoints, model, pairs, *choices)
        scores = _empty(method, plan, kinds)
        runs = {kind: method.runs(forward.components(kind)) + 1 for kind in kinds}
        total = plan.work * sum(runs.values())
        with progress_bar(f"{method.name} {pairs.task}", total, progress) as bar:
            for part in plan.parts():
                rows = plan.rows(part)
                scores.base[rows] = part.measure(part.base).float().cpu()
                scores.source[rows] = part.measure(part.source).float().cpu()
                for site in part.sites(kinds):
                    work = part.work(site.layer)
                    score = partial(_score, method, site, bar, work)
                    name = f"{site.kind}-{site.layer}-{part.prompts[0]}"
                    unit = finished.keep(name, bar, work * runs[site.kind], score)
                    scores.of(site.kind)[rows, site.layer] = unit["values"]
                    scores.gaps(site.kind)[rows, site.layer] = unit["gap"]
    return scores


def _empty(method: Method, plan: Plan, kinds: tuple[Kind, ...]) -> Scores:
    prompts, layers, forward = len(plan.prompts), plan.forward.layers, plan.forward
    heads, neurons = (forward.components(kind) if kind in kinds else 0 for kind in KINDS)
    return Scores(
        *(method.name, plan.pairs.task, plan.direction, plan.baseline),
        heads=torch.zeros(prompts, layers, heads),
        neurons=torch.zeros(prompts, layers, neurons),
        heads_gap=torch.zeros(prompts, layers),
        neurons_gap=torch.zeros(prompts, layers),
        base=torch.zeros(prompts),
        source=torch.zeros(prompts),
        prompts=plan.prompts,
        left_out=len(plan.pairs) - prompts,
    )


def _score(method: Method, site: Site, bar: tqdm, work: int) -> Unit:
    """A unit's scores, and how far they are from summing to what the whole layer does."""

    def resume(change: Float[Tensor, "*batch prompt changed d_model"]) -> Tensor:
        metric = site.resume(change)
        bar.update(work * change.shape[:-3].numel())
        return metric

    values = method.score(replace(site, resume=resume))
    with torch.no_grad():
        joint = resume(site.joint_change()) - site.base
    return {
        "values": values.float().cpu().contiguous(),
        "gap": (values.sum(dim=1) - joint).float().cpu(),
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
        bar.update(started + cost - bar.n)
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
