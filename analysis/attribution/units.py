"""Units of a long run: what they cost, what they depend on, and how finished ones are kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from analysis import checks
from analysis.attribution.checkpoints import Checkpoints, Unit
from analysis.attribution.parts import groups_for
from analysis.forward import Forward
from analysis.models import fingerprint
from analysis.provenance import Provenance
from analysis.tasks import PromptPairs
from analysis.version import ALGORITHM

# Units differ in cost, so the bar counts work and shows a share of it.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


def work(forward: Forward, layer: int, prompts: int, positions: int) -> int:
    """What one resumed run costs, in layers and positions."""
    return prompts * positions * (forward.layers - layer)


def all_work(forward: Forward, pairs: PromptPairs, baseline: str) -> int:
    """What one component of every layer, patched alone on every prompt, costs."""
    return sum(
        work(forward, layer, len(group), len(pairs.clean_tokens[group[0]]) - first)
        for group, first in groups_for(pairs, baseline)
        for layer in range(forward.layers)
    )


def progress_bar(name: str, total: int, progress: bool | None) -> tqdm:
    """A bar of so much work; None shows it on a terminal."""
    disable = None if progress is None else not progress
    return tqdm(total=total, desc=name, bar_format=_BAR, disable=disable)


def checkpoints_of(
    folder: str | Path | None, model: TransformerBridge, pairs: PromptPairs, *choices: Any
) -> Checkpoints:
    """Where a run's finished units are kept, and what they depend on besides their names.

    The memory is among the choices because it decides which prompts stand in a unit together.
    """
    path = checks.folder("checkpoints", folder)
    if path is None:
        return Checkpoints(None, "")
    facts = [fingerprint(model), pairs.fingerprint(), *choices, ALGORITHM]
    return Checkpoints(path, json.dumps(facts), Provenance.of(model))


def keep(
    checkpoints: Checkpoints, bar: tqdm, name: str, cost: int, compute: Callable[[], Unit]
) -> Unit:
    """A unit from its file or computed, with the bar at its cost more; `compute` moves the bar."""
    started = bar.n
    unit = checkpoints.keep(name, compute)
    if bar.n == started:  # read from its file: no work that tells the time left
        bar.total -= cost
    else:
        bar.update(started + cost - bar.n)
    return unit
