"""A trained testbed's card: what it learnt, on prompts that it never saw."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis.attribution import Scores, activation_patching
from analysis.choices import DIRECTIONS
from analysis.models import load_model
from analysis.tasks import TASKS, load_task

PROMPTS = 100


def write_card(directory: Path) -> None:
    """Writes `README.md` and `evaluation.json` beside the weights."""
    training = json.loads((directory / "training.json").read_text())
    evaluation = evaluate(load_model(directory))
    (directory / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    (directory / "README.md").write_text(_card(directory.name, training, evaluation))


def evaluate(model: TransformerBridge, n: int = PROMPTS) -> dict:
    """For each task: the metric on held-out prompts, and the head with the largest mean effect.

    `trained` and `unseen` templates apart; `accuracy` is the share of prompts whose metric is
    positive, `clean` and `corrupted` its means. A head's share is its mean effect over the mean
    total effect.
    """
    return {task: _evaluate_task(model, task, n) for task in TASKS}


def _evaluate_task(model: TransformerBridge, task: str, n: int) -> dict:
    pairs = load_task(task, model, n=n)
    noising, denoising = (
        activation_patching(model, pairs, direction, kinds=("heads",)) for direction in DIRECTIONS
    )
    trained = torch.tensor(pairs.trained)
    subsets = {"trained": trained, "unseen": ~trained}
    found = {name: _summary(noising, some) for name, some in subsets.items() if some.any()}
    heads = {scores.direction: _largest_head(scores) for scores in (noising, denoising)}
    return found | {"largest_head": heads}


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
    return {"layer": layer, "head": head, "share": share}


def _card(name: str, training: dict, evaluation: dict) -> str:
    recipe, seed = training["recipe"], training["seed"]
    return _CARD.format(
        name=name,
        seed=seed,
        loss=training["loss"],
        rows="\n".join(_task_rows(evaluation)),
        heads_table="\n".join(_head_rows(evaluation)),
        **recipe,
    )


def _task_rows(evaluation: dict) -> Iterator[str]:
    for task, results in evaluation.items():
        for subset in ("trained", "unseen"):
            if found := results.get(subset):
                yield (
                    f"| {task} | {subset} | {found['prompts']} | {found['accuracy']:.1%} "
                    f"| {found['clean']:.2f} | {found['corrupted']:.2f} |"
                )


def _head_rows(evaluation: dict) -> Iterator[str]:
    for task, results in evaluation.items():
        for direction, head in results["largest_head"].items():
            place = f"{head['layer']}.{head['head']}"
            yield f"| {task} | {direction} | {place} | {head['share']:.2f} |"


_CARD = """\
# {name}

A small model of GPT-2's architecture, trained by this project on text that it generates, so that
the report runs where GPT-2's weights can't be had. What holds of it is no claim about GPT-2.

- Shape: {layers} layers, {heads} heads, width {width}, {vocabulary} tokens; float16 on disk.
- Data: {steps} steps of {sentences} sentences from `analysis/testbed/corpus.py`. Held-out name
  pairs (ioi), start years (greater-than) and filled-in templates (gender-bias, capital-country)
  are in no sentence of the task; a held-out capital's country is learnt from other sentences.
- Dropout of whole heads, {head_dropout:.0%}, from step {head_dropout_from} on.
- Seed {seed}; loss over the last 100 steps {loss:.3f} nats a token.
- Made again by `python -m analysis train {name} --seed {seed}`; another machine's arithmetic may
  differ in the last bits, and so in the end the weights.

On held-out prompts; accuracy is the share of clean prompts whose metric is positive, clean and
corrupted are the metric's means.

| task | templates | prompts | accuracy | clean | corrupted |
| --- | --- | ---: | ---: | ---: | ---: |
{rows}

The head with the largest mean effect when patched alone, as a share of the mean total effect:

| task | direction | head | share |
| --- | --- | --- | ---: |
{heads_table}
"""
