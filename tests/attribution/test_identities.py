"""What connects AP, AtP and IG (report/methods.qmd), on layers to be computed by hand."""

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from analysis.attribution.activation_patching import patch_each
from analysis.attribution.gradients import along, gradient
from analysis.attribution.integrated_gradients import integrate_each, integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.sites import Site

NODES = quadrature("gauss-legendre", 16)
numbers = st.floats(-2, 2).map(lambda x: round(x, 3))
vectors = st.lists(numbers, min_size=3, max_size=3)


def differentiate(site: Site) -> torch.Tensor:
    """AtP of a site by itself."""
    return along(site, gradient(site, torch.zeros_like(site.joint_change()))[0])


def close(actual: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(
        actual[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-8
    )


def smooth(weights: list[float]):
    """A function with interactions of every order."""
    w = torch.tensor(weights, dtype=torch.float64)

    def function(a: torch.Tensor) -> torch.Tensor:
        return torch.tanh(a @ w) + a[..., 0] * a[..., 1] * a[..., 2] + (a * w).sin().prod(-1)

    return function


@given(base=vectors, source=vectors, weights=vectors)
def test_completeness(base, source, weights):
    site = toy.toy_site(smooth(weights), base, source)
    joint = toy.corner(site, {0, 1, 2}) - toy.corner(site, set())
    assert integrate_jointly(site, *NODES).sum().item() == pytest.approx(joint, abs=1e-6)


@given(base=vectors, source=vectors, weights=vectors)
def test_single_path_ig_is_ap(base, source, weights):
    site = toy.toy_site(smooth(weights), base, source)
    torch.testing.assert_close(integrate_each(site, *NODES), patch_each(site), rtol=1e-6, atol=1e-6)


@given(base=vectors, source=vectors, weights=vectors)
def test_ap_is_the_metrics_change_for_each_component(base, source, weights):
    site = toy.toy_site(smooth(weights), base, source)
    close(patch_each(site), [toy.corner(site, {c}) - toy.corner(site, set()) for c in range(3)])


@given(base=vectors, source=vectors, weights=vectors)
def test_atp_is_the_gradient_at_the_base_and_one_left_step_of_ig(base, source, weights):
    site = toy.toy_site(smooth(weights), base, source)
    start = torch.tensor(base, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(smooth(weights)(start), start)
    expected = gradient * (torch.tensor(source, dtype=torch.float64) - start)
    close(differentiate(site), expected.tolist())
    close(integrate_jointly(site, *quadrature("left", 1)), expected.tolist())


@given(base=vectors, source=vectors, weights=vectors)
def test_all_agree_where_the_metric_is_linear(base, source, weights):
    w = torch.tensor(weights, dtype=torch.float64)
    site = toy.toy_site(lambda a: a @ w + 3, base, source)
    expected = [w * (s - b) for w, b, s in zip(weights, base, source, strict=True)]
    close(patch_each(site), expected)
    close(integrate_jointly(site, *NODES), expected)
    close(differentiate(site), expected)


@given(base=vectors, source=vectors, entries=st.lists(numbers, min_size=9, max_size=9))
def test_quadratic_ig_is_shapley_and_the_mean_of_first_in_and_last_in(base, source, entries):
    matrix = torch.tensor(entries, dtype=torch.float64).reshape(3, 3)
    site = toy.toy_site(lambda a: torch.einsum("...i,ij,...j->...", a, matrix, a), base, source)
    everything = {0, 1, 2}
    ig = integrate_jointly(site, *NODES)
    close(ig, toy.shapley(site))
    first = [toy.corner(site, {c}) - toy.corner(site, set()) for c in range(3)]
    last = [toy.corner(site, everything) - toy.corner(site, everything - {c}) for c in range(3)]
    close(ig, [(f + s) / 2 for f, s in zip(first, last, strict=True)])


def test_ig_is_the_continuous_games_value_not_the_on_off_games():
    """m = a²b from (0, 0) to (1, 1): IG 2/3 and 1/3, Shapley 1/2 and 1/2, AP 0 and 0."""
    site = toy.toy_site(lambda a: a[..., 0] ** 2 * a[..., 1], [0.0, 0.0], [1.0, 1.0])
    close(integrate_jointly(site, *NODES), [2 / 3, 1 / 3])
    assert toy.shapley(site) == [0.5, 0.5]
    close(patch_each(site), [0.0, 0.0])


@given(base=vectors, source=vectors, weights=vectors)
def test_turning_the_path_round_flips_igs_sign_in_one_run(base, source, weights):
    there = integrate_jointly(toy.toy_site(smooth(weights), base, source), *NODES)
    back = integrate_jointly(toy.toy_site(smooth(weights), source, base), *NODES)
    torch.testing.assert_close(there, -back, rtol=1e-6, atol=1e-6)


@given(base=vectors, weights=vectors)
def test_no_change_scores_nothing(base, weights):
    site = toy.toy_site(smooth(weights), base, base)
    for scores in (patch_each(site), differentiate(site), integrate_jointly(site, *NODES)):
        assert scores.abs().max() == 0
