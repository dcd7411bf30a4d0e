"""Inputs of gates that act only together: what IG and AP say of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.gates import GATES, closed_form_site, gate_scores, gate_site

# IG and AP, noising and denoising, then whether IG and AP find the component latent.
KNOWN = {
    ("AND", "across layers"): (-1, 0, -1, 0, True, True),
    ("OR", "across layers"): (0, 1, 0, 1, True, True),
    ("XOR", "across layers"): (1, 1, 1, 1, False, False),
    ("AND", "one layer"): (-0.5, 0.5, -1, 0, False, True),
    ("OR", "one layer"): (-0.5, 0.5, 0, 1, False, True),
    ("XOR", "one layer"): (0, 0, 1, 1, False, False),
}


def test_gates_have_their_known_scores_and_latent_components():
    columns = ("IG noising", "IG denoising", "AP noising", "AP denoising")
    latent = ("latent by IG", "latent by AP")
    found = {
        (row["gate"], row["arrangement"]): tuple(row[name] for name in columns + latent)
        for row in gate_scores().iter_rows(named=True)
    }
    assert found == KNOWN


@pytest.mark.parametrize("gate", GATES)
def test_a_gates_corners_are_its_truth_table(gate):
    def truth(a: bool, b: bool) -> bool:
        return {"AND": a and b, "OR": a or b, "XOR": a != b}[gate]

    for a in (False, True):
        for b in (False, True):
            found = GATES[gate](torch.tensor(float(a)), torch.tensor(float(b)))
            assert found.item() == truth(a, b)


@given(weights=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_no_function_of_one_layer_is_latent_by_ig(weights):
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
