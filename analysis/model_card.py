"""The card of a model that comes in a package: what it is, and how well it does the tasks.

The testbeds have cards of their own, `analysis.testbed.card`, about what they were trained on.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis import gguf_files, paths
from analysis.models import fingerprint, load_model
from analysis.tasks import TASKS, PromptPairs, load_task

PROMPTS = 100
"""Held-out prompts per task, drawn with seed 0."""

_TEMPLATE = Path(__file__).with_suffix(".md")
_AT_ONCE = 10  # prompts, whose logits are of the whole vocabulary at every position


def write_card(name: str) -> None:
    """Writes `README.md` and `evaluation.json` into the model's folder of `data/models`."""
    model = load_model(name)
    evaluation = facts(name, model) | {"tasks": {task: evaluate(model, task) for task in TASKS}}
    directory = paths.MODELS / name
    directory.mkdir(exist_ok=True)
    (directory / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    (directory / "README.md").write_text(card(name, evaluation))


def facts(name: str, model: TransformerBridge) -> dict:
    """Which file the model is from, what is in it, and its shape."""
    file, shape = gguf_files.packaged(name), model.cfg
    return {
        "package": gguf_files.PACKAGES[name],
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": sha256(file.read_bytes()).hexdigest(),
        "licence": gguf_files.licence(file),
        "weights": gguf_files.weights_by_type(file),
        "fingerprint": fingerprint(model),
        "bos": model.tokenizer.bos_token,
        "layers": shape.n_layers,
        "heads": shape.n_heads,
        "key_value_heads": shape.n_key_value_heads or shape.n_heads,
        "neurons": shape.d_mlp,
        "width": shape.d_model,
        "vocabulary": shape.d_vocab,
    }


def evaluate(model: TransformerBridge, task: str, n: int = PROMPTS) -> dict:
    """The task's accuracy and mean metric on n held-out prompts, with and without BOS.

    Accuracy is the share of clean prompts whose metric is positive.
    """
    found = {"with BOS": _summary(model, task, n)}
    with _no_bos(model):
        return found | {"without BOS": _summary(model, task, n)}


def card(name: str, evaluation: dict) -> str:
    """The card's text, of the records beside it."""
    rows = [
        f"| {found['task']} | {front} | {found['accuracy']:.0%} "
        f"| {found['clean']:.2f} | {found['corrupted']:.2f} |"
        for both in evaluation["tasks"].values()
        for front, found in both.items()
    ]
    weights = [f"{count:,} in {kind}" for kind, count in evaluation["weights"].items()]
    told = evaluation | {"name": name, "prompts": PROMPTS, "rows": "\n".join(rows)}
    told |= {"weights": ", ".join(weights), "megabytes": round(evaluation["bytes"] / 1e6)}
    return _TEMPLATE.read_text(encoding="utf-8").format(**told)


def _summary(model: TransformerBridge, task: str, n: int) -> dict:
    pairs = load_task(task, model, n=n)
    clean = _metric(model, pairs, pairs.clean_tokens)
    corrupted = _metric(model, pairs, pairs.corrupted_tokens)
    means = {"accuracy": (clean > 0).float(), "clean": clean, "corrupted": corrupted}
    rounded = {key: round(float(values.mean()), 4) for key, values in means.items()}
    return {"task": pairs.task, "prompts": len(pairs)} | rounded


@torch.no_grad()
def _metric(
    model: TransformerBridge, pairs: PromptPairs, tokens: list[Tensor]
) -> Float[Tensor, " prompt"]:
    """Each prompt's metric, by the model as it stands: this is no place for an engine."""
    found = torch.empty(len(pairs))
    for group in pairs.groups():
        for chosen in torch.tensor(group).split(_AT_ONCE):
            logits = model(torch.stack([tokens[prompt] for prompt in chosen]), prepend_bos=False)
            found[chosen] = pairs.metric(logits[:, -1], pairs.labels[chosen])
    return found


@contextmanager
def _no_bos(model: TransformerBridge) -> Iterator[None]:
    """`model.to_tokens` puts nothing in front of a text."""
    before = model.cfg.default_prepend_bos
    model.cfg.default_prepend_bos = False
    try:
        yield
    finally:
        model.cfg.default_prepend_bos = before
