"""A trained testbed's card: what it learnt, on prompts that it never saw."""

import json
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution import Scores, activation_patching
from analysis.choices import DIRECTIONS
from analysis.models import load_model
from analysis.tasks import TASKS, load_task

PROMPTS = 100
_TEMPLATE = Path(__file__).with_suffix(".md")


def write_card(directory: Path) -> None:
    """Writes `README.md` and `evaluation.json` beside the weights."""
    training = json.loads((directory / "training.json").read_text())
    model = load_model(directory)
    evaluation = {task: _evaluate_task(model, task) for task in TASKS}
    (directory / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    (directory / "README.md").write_text(_card(directory.name, training, evaluation))


def _evaluate_task(model: TransformerBridge, task: str) -> dict:
    """The metric on held-out prompts, trained and unseen templates apart, and the largest heads."""
    pairs = load_task(task, model, n=PROMPTS)
    runs = {way: activation_patching(model, pairs, way, kinds=("heads",)) for way in DIRECTIONS}
    trained = torch.tensor(pairs.trained)
    subsets = {"trained": trained, "unseen": ~trained}
    found = {name: _summary(runs["noising"], some) for name, some in subsets.items() if some.any()}
    return found | {"largest_head": {way: _largest_head(scores) for way, scores in runs.items()}}


def _summary(runs: Scores, subset: torch.Tensor) -> dict:
    clean, corrupted = runs.base[subset], runs.source[subset]
    means = {"accuracy": (clean > 0).float(), "clean": clean, "corrupted": corrupted}
    rounded = {name: round(float(values.mean()), 4) for name, values in means.items()}
    return {"prompts": len(clean)} | rounded


def _largest_head(scores: Scores) -> dict:
    """The head with the largest mean effect, as a share of the mean total effect."""
    shares = scores.normalised("heads").mean(dim=0).abs()
    layer, head = divmod(int(shares.argmax()), shares.shape[1])
    return {"layer": layer, "head": head, "share": round(float(shares[layer, head]), 4)}


def _card(name: str, training: dict, evaluation: dict) -> str:
    rows = [
        f"| {task} | {subset} | {found['prompts']} | {found['accuracy']:.1%} "
        f"| {found['clean']:.2f} | {found['corrupted']:.2f} |"
        for task, results in evaluation.items()
        for subset, found in results.items()
        if subset != "largest_head"
    ]
    heads = [
        f"| {task} | {direction} | {head['layer']}.{head['head']} | {head['share']:.2f} |"
        for task, results in evaluation.items()
        for direction, head in results["largest_head"].items()
    ]
    facts = training["recipe"] | {"seed": training["seed"], "loss": training["loss"]}
    text = _TEMPLATE.read_text(encoding="utf-8")
    return text.format(name=name, rows="\n".join(rows), head_rows="\n".join(heads), **facts)
