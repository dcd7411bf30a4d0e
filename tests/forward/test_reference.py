"""The plain reference, which other tests take as their oracle, against PyTorch's hooks alone."""

import pytest
import torch
from architectures import HEADS, LAYERS, SCORED, VOCABULARY, BareHooks, network_of
from conftest import random_tokens

from analysis import load_model
from analysis.attribution.quadrature import quadrature
from analysis.bench.workloads import Shape, random_pairs
from analysis.choices import KINDS
from analysis.forward import reference
from analysis.metrics import Readout

PAIRS = random_pairs("ioi", Shape(length=8, first=5), prompts=2, vocabulary=VOCABULARY)
PATH = list(zip(*quadrature("gauss-legendre", 4), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_hooks_on_transformers_model(kind, tmp_path):
    bare = BareHooks(network_of(SCORED["GPT-2"], tmp_path), SCORED["GPT-2"], PAIRS)
    model, measure = load_model(tmp_path), Readout(PAIRS.metric, PAIRS.labels)
    tolerance = {"rtol": 0, "atol": 1e-5 * bare.scale()}
    for layer in range(LAYERS):
        site, runs = (kind, layer), (bare.base, bare.source)
        patched = reference.patch(model, runs, measure, site, range(HEADS))
        for component, effect in enumerate(patched):
            torch.testing.assert_close(effect, bare.patched(kind, layer, component), **tolerance)
        found = reference.integrate(model, runs, measure, site, PATH)
        torch.testing.assert_close(found, bare.integrated(kind, layer, 4), **tolerance)


def test_a_run_keeps_what_it_is_asked_for_after_its_edits(tiny):
    """Of any sites; an edit is seen by later layers and by no earlier one."""
    tokens = random_tokens(tiny, 2, 5)
    sites = [(kind, layer) for layer in range(3) for kind in KINDS]
    logits, plain = reference.run(tiny, tokens, {}, sites)
    with torch.no_grad():
        torch.testing.assert_close(logits, tiny(tokens)[:, -1], rtol=1e-4, atol=1e-4)
    changed, edited = reference.run(tiny, tokens, {("heads", 1): torch.zeros_like}, sites)
    assert list(edited) == sites and edited["heads", 1].abs().max() == 0
    for site in sites[:2]:
        torch.testing.assert_close(edited[site], plain[site])
    for site in sites[3:]:
        assert (edited[site] - plain[site]).abs().max() > 1e-3
    assert (changed - logits).abs().max() > 1e-3
