"""Scores of every architecture are those of bare hooks on transformers' own model."""

from pathlib import Path

import pytest
import torch
from architectures import (
    HEADS,
    LAYERS,
    NOT_LOADED,
    NOT_SCORED,
    ONLY_HEADS,
    ONLY_NEURONS,
    SCORED,
    VOCABULARY,
    BareHooks,
    Row,
    network_of,
)
from transformer_lens.model_bridge import TransformerBridge

from analysis import activation_patching, integrated_gradients, load_model
from analysis.bench.workloads import Shape, random_pairs
from analysis.choices import KINDS
from analysis.mediation import component_effects

pytestmark = [
    pytest.mark.architectures,
    pytest.mark.filterwarnings("ignore:.*through hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Adapter does not support:UserWarning"),
]

METHODS = (activation_patching, integrated_gradients)
STEPS = 4
NEURONS = [0, 3, -1]
# The change is close enough to the last token for the sliding windows.
PAIRS = random_pairs("ioi", Shape(length=8, first=5), prompts=2, vocabulary=VOCABULARY)


def check(row: Row, kinds: tuple[str, ...], directory: Path) -> TransformerBridge:
    """AP of some components and IG of all, in every layer."""
    bare = BareHooks(network_of(row, directory), row, PAIRS)
    model, scale = load_model(directory), bare.scale()
    ap = activation_patching(model, PAIRS, kinds=kinds)
    ig = integrated_gradients(model, PAIRS, kinds=kinds, steps=STEPS)
    for kind in kinds:
        assert len(bare.modules[kind]) == LAYERS
        components = list(range(HEADS)) if kind == "heads" else NEURONS
        for layer in range(LAYERS):
            effects = [bare.patched(kind, layer, component) for component in components]
            found = {
                "AP": (ap.of(kind)[:, layer, components], torch.stack(effects, dim=1)),
                "IG": (ig.of(kind)[:, layer], bare.integrated(kind, layer, STEPS)),
            }
            for method, (ours, theirs) in found.items():
                assert (ours - theirs).abs().max() <= 1e-4 * scale, (method, kind, layer)
            assert ig.of(kind)[:, layer].abs().max() > 1e-4 * scale, "nothing happens"
    return model


def check_sentence(error: pytest.ExceptionInfo[ValueError], architecture: str) -> None:
    message = str(error.value)
    assert message.count(architecture) == 1
    assert message.endswith(".") and ". " not in message and "\n" not in message


@pytest.mark.parametrize("name", SCORED)
def test_heads_and_neurons_are_scored(name, tmp_path):
    check(SCORED[name], KINDS, tmp_path)


@pytest.mark.parametrize(
    "row, kind, other",
    [(row, "heads", "neurons") for row in ONLY_HEADS.values()]
    + [(row, "neurons", "heads") for row in ONLY_NEURONS.values()],
    ids=[*ONLY_HEADS, *ONLY_NEURONS],
)
def test_one_kind_is_scored_where_the_other_is_missing(row, kind, other, tmp_path):
    model = check(row, (kind,), tmp_path)
    for method in METHODS:
        for kinds in (KINDS, (other,)):
            with pytest.raises(ValueError, match=f"no {other}.*kinds=.'{kind}',") as error:
                method(model, PAIRS, kinds=kinds)
            check_sentence(error, model.cfg.architecture)
    alone = component_effects(model, PAIRS, kind, (kind,))[kind][:, :, :-1]
    assert alone.isfinite().all() and alone.abs().max() > 0


@pytest.mark.parametrize("name", NOT_SCORED)
def test_models_that_cannot_be_scored_say_why(name, tmp_path):
    architecture = type(network_of(NOT_SCORED[name], tmp_path)).__name__
    model = load_model(tmp_path)
    for method in METHODS:
        with pytest.raises(ValueError, match="use a decoder such as GPT-2, Llama") as error:
            method(model, PAIRS)
        check_sentence(error, architecture)


@pytest.mark.parametrize("name", NOT_LOADED)
def test_models_that_the_bridge_computes_differently_are_refused_at_load(name, tmp_path):
    architecture = type(network_of(NOT_LOADED[name], tmp_path)).__name__
    with pytest.raises(ValueError, match=f"bridge.*{architecture}"):
        load_model(tmp_path)
