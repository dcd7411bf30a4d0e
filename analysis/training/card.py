"""A trained testbed's card: what it learnt, on prompts that it never saw."""

import json
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution import Scores, activation_patching
from analysis.models import load_model
from analysis.tasks import TASKS, load_task

PROMPTS = 300
PATCHED_PROMPTS = 100


def write_card(directory: Path) -> None:
    """Writes `README.md` and `evaluation.json` beside the weights."""
    training = json.loads((directory / "training.json").read_text())
    evaluation = evaluate(load_model(directory))
    (directory / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    (directory / "README.md").write_text(_card(directory.name, training, evaluation))


def evaluate(model: TransformerBridge, n: int = PROMPTS, patched: int = PATCHED_PROMPTS) -> dict:
    """For each task: the metric on held-out prompts, and the head with the largest mean effect.

    `trained` and `unseen` templates apart; `accuracy` is the share of prompts whose metric is
    positive, `clean` and `corrupted` its means. A head's share is its mean effect over the mean
    total effect, the larger of the two directions'.
    """
    return {task: _evaluate_task(model, task, n, patched) for task in TASKS}


def _evaluate_task(model: TransformerBridge, task: str, n: int, patched: int) -> dict:
    available = len(load_task(task, model)) if task != "greater-than" else n
    pairs = load_task(task, model, n=min(n, available))
    # Without components the sweep is two runs a prompt, scored.
    runs = activation_patching(model, pairs, kinds=())
    trained = torch.tensor(pairs.trained)
    subsets = {"trained": trained, "unseen": ~trained}
    result: dict = {
        name: _summary(runs, subset) for name, subset in subsets.items() if subset.any()
    }
    sample = pairs.select(range(min(patched, len(pairs))))
    result["largest_head"] = max(
        (
            _largest_head(activation_patching(model, sample, direction, kinds=("heads",)))
            for direction in ("noising", "denoising")
        ),
        key=lambda head: head["share"],
    )
    return result


def _summary(runs: Scores, subset: torch.Tensor) -> dict:
    return {
        "prompts": int(subset.sum()),
        "accuracy": round(float((runs.base[subset] > 0).float().mean()), 4),
        "clean": round(float(runs.base[subset].mean()), 4),
        "corrupted": round(float(runs.source[subset].mean()), 4),
    }


def _largest_head(scores: Scores) -> dict:
    shares = scores.normalised("heads").mean(dim=0)
    layer, head = divmod(int(shares.abs().argmax()), shares.shape[1])
    share = round(float(shares[layer, head].abs()), 4)
    return {"layer": layer, "head": head, "direction": scores.direction, "share": share}


def _card(name: str, training: dict, evaluation: dict) -> str:
    recipe = training["recipe"]
    rows = [
        f"| {task} | {subset} | {found['prompts']} | {found['accuracy']:.1%} "
        f"| {found['clean']:.2f} | {found['corrupted']:.2f} |"
        for task, results in evaluation.items()
        for subset, found in results.items()
        if subset != "largest_head"
    ]
    heads = [
        f"| {task} | {head['layer']}.{head['head']} | {head['share']:.2f} | {head['direction']} |"
        for task, head in ((task, found["largest_head"]) for task, found in evaluation.items())
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            "A small model of GPT-2's architecture, trained by this project on text that it",
            "generates, so that the report runs where GPT-2's weights can't be had. What holds of",
            "it is no claim about GPT-2.",
            "",
            f"- Shape: {recipe['layers']} layers, {recipe['heads']} heads, width {recipe['width']}, "
            f"{recipe['vocabulary']} tokens, float16 on disk.",
            f"- Data: {recipe['steps']} steps of {recipe['sentences']} sentences of "
            "`analysis/training/corpus.py`; held-out name pairs, years, and template × word",
            "  combinations never occur in it.",
            f"- Seed {training['seed']}; loss over the last 100 steps {training['loss']:.3f} nats a token.",
            f"- Made again by `python -m analysis train {name} --seed {training['seed']}`.",
            "",
            "On held-out prompts; accuracy is the share of clean prompts whose metric is positive,",
            "clean and corrupted are the metric's means.",
            "",
            "| task | templates | prompts | accuracy | clean | corrupted |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "The head with the largest mean effect when patched alone, as a share of the mean total",
            "effect, in the direction in which it is larger.",
            "",
            "| task | head | share | direction |",
            "| --- | --- | ---: | --- |",
            *heads,
            "",
        ]
    )
