"""Inputs of gates that interact: their IG and AP."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.gates import GATES, closed_form_site, gate_scores, gate_site

# Noising, denoising, and whether the component is direction-dependent.
KNOWN = {
    ("AND", "across layers", "IG"): (-1, 0, True),
    ("AND", "across layers", "AP"): (-1, 0, True),
    ("OR", "across layers", "IG"): (0, 1, True),
    ("OR", "across layers", "AP"): (0, 1, True),
    ("XOR", "across layers", "IG"): (1, 1, False),
    ("XOR", "across layers", "AP"): (1, 1, False),
    ("AND", "one layer", "IG"): (-0.5, 0.5, False),
    ("AND", "one layer", "AP"): (-1, 0, True),
    ("OR", "one layer", "IG"): (-0.5, 0.5, False),
    ("OR", "one layer", "AP"): (0, 1, True),
    ("XOR", "one layer", "IG"): (0, 0, False),
    ("XOR", "one layer", "AP"): (1, 1, False),
}


def test_gates_have_their_known_scores_and_latent_components():
    keys, found = ("gate", "arrangement", "method"), ("noising", "denoising", "latent")
    rows = gate_scores().rows(named=True)
    assert len(rows) == len(KNOWN)
    assert {
        tuple(row[key] for key in keys): tuple(row[name] for name in found) for row in rows
    } == KNOWN


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_agrees_with_its_truth_table(gate):
    def truth(a: bool, b: bool) -> bool:
        return {"AND": a and b, "OR": a or b, "XOR": a != b}[gate]

    for a in (False, True):
        for b in (False, True):
            found = GATES[gate](torch.tensor(float(a)), torch.tensor(float(b)))
            assert found.item() == truth(a, b)


@given(weights=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_inputs_of_one_layer_are_never_latent_by_ig(weights):
    """Nothing else changes, so both directions pass the same points: IG changes only its sign."""

    def function(a: torch.Tensor) -> torch.Tensor:
        first, second = a[..., 0], a[..., 1]
        return weights[0] * first * second + weights[1] * first.sin() + weights[2] * second**3

    path = quadrature("gauss-legendre", 16)
    there, back = (
        integrate_jointly(closed_form_site(function, *ends), *path)
        for ends in (([1.0, 1.0], [0.0, 0.0]), ([0.0, 0.0], [1.0, 1.0]))
    )
    torch.testing.assert_close(there.abs(), back.abs(), rtol=1e-9, atol=1e-12)


def test_the_other_input_bypasses_the_scored_components_layer():
    site = gate_site("AND", "across layers", "noising")
    assert len(site.writes) == 1 and site.base.item() == 1
