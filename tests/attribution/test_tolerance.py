"""IG to a tolerance: every prompt and layer as exact as asked for, or a warning."""

import re
import warnings
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from analysis import integrated_gradients, load_model, load_task
from analysis.attribution.attribution_patching import gradient
from analysis.attribution.integrated_gradients import (
    integrate_each_to,
    integrate_jointly,
    integrate_jointly_to,
)
from analysis.attribution.quadrature import quadrature
from analysis.choices import DIRECTIONS, KINDS
from analysis.forward import forward_of
from analysis.models import available_testbeds
from analysis.sites import Plan
from analysis.tasks import TASKS

numbers = st.floats(-2, 2).map(lambda x: round(x, 3))
vectors = st.lists(numbers, min_size=3, max_size=3)
steepness = st.sampled_from([0.1, 1.0, 10.0, 100.0, 1e3, 1e5])
EXACT = quadrature("gauss-legendre", 64)


def steep(weights: list[float], steepness: float):
    """Two layers, the first as steep as one likes."""
    w = torch.tensor(weights, dtype=torch.float64)

    def function(a: torch.Tensor) -> torch.Tensor:
        return torch.tanh(steepness * (a @ w - 0.1)) + (a * w.flip(0)).sin().prod(-1)

    return function


def scored(site, enough: float, score=integrate_jointly_to):
    start, _ = gradient(site, torch.zeros_like(site.joint_change()))
    return score(site, enough, start)


@given(base=vectors, source=vectors, weights=vectors, steepness=steepness)
def test_a_gap_is_within_the_tolerance_or_is_told(base, source, weights, steepness):
    site = toy.toy_site(steep(weights, steepness), base, source)
    found = scored(site, 1e-3)
    joint = toy.corner(site, {0, 1, 2}) - toy.corner(site, set())
    assert found.effect.item() == pytest.approx(joint, abs=1e-12)
    assert not found.reached or abs(found.values.sum().item() - joint) <= 1e-3
    assert found.reached or found.nodes.item() == 1025
    if steepness <= 1:
        assert found.reached and found.nodes.item() <= 33
        exact = integrate_jointly(site, *EXACT)
        torch.testing.assert_close(found.values, exact, rtol=0, atol=1e-3)


@given(base=vectors, source=vectors, weights=vectors, steepness=steepness)
def test_a_path_and_its_reverse_need_the_same_nodes(base, source, weights, steepness):
    """Rules with one end alone may converge one way and not the other."""
    function = steep(weights, steepness)
    there, back = (
        scored(toy.toy_site(function, *ends), 1e-3) for ends in ((base, source), (source, base))
    )
    torch.testing.assert_close(there.values, -back.values, rtol=1e-6, atol=1e-9)
    assert there.nodes.equal(back.nodes) and there.reached.equal(back.reached)


@pytest.mark.parametrize("ends", [([0.0], [1.0]), ([1.0], [0.0])])
@pytest.mark.parametrize("steepness, reached", [(300.0, True), (1e5, False)])
def test_a_step_beside_one_end_is_resolved_or_told_both_ways(ends, steepness, reached):
    """Eight left steps see the whole step from one end, and nothing of it from the other."""
    site = toy.toy_site(lambda a: torch.sigmoid(steepness * (a[..., 0] - 0.003)), *ends)
    found = scored(site, 1e-3)
    assert found.reached.item() == reached
    assert (abs(found.values.item() - found.effect.item()) <= 1e-3) == reached
    one_way = integrate_jointly(site, *quadrature("left", 8)).item()
    assert (one_way == pytest.approx(0, abs=1e-6)) == (not reached or ends[0] == [1.0])


@given(base=vectors, source=vectors, weights=vectors)
def test_a_polynomial_of_low_degree_takes_three_nodes(base, source, weights):
    """The gradient of a cubic is of degree 2, which Simpson's rule integrates exactly."""
    w = torch.tensor(weights, dtype=torch.float64)
    site = toy.toy_site(lambda a: (a @ w) ** 3 / 60, base, source)
    found = scored(site, 1e-3)
    gap = found.values.sum().item() - found.effect.item()
    assert gap == pytest.approx(0, abs=1e-12)
    assert found.nodes.item() <= 5


@given(base=vectors, source=vectors, weights=vectors)
def test_components_alone_get_their_patching_effects(base, source, weights):
    site = toy.toy_site(steep(weights, 1.0), base, source)
    found = scored(site, 1e-4, integrate_each_to)
    expected = [toy.corner(site, {c}) - toy.corner(site, set()) for c in range(3)]
    torch.testing.assert_close(
        found.values[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("task", TASKS)
def test_testbed_scores_are_those_of_64_gauss_legendre_steps(testbed, task):
    """By a third of the gradients that 24 steps take, weighed by the layers above."""
    pairs = load_task(task, testbed, n=4)
    plan = Plan(forward_of(testbed), pairs)
    scale, taken, fixed = plan.scale(), 0, 0
    for part in plan.parts():
        starts = part.gradients()
        for site in part.sites():
            found = integrate_jointly_to(site, 1e-3 * scale, starts[site.key])
            exact = integrate_jointly(site, *EXACT)
            torch.testing.assert_close(found.values, exact, rtol=0, atol=1e-3 * scale)
            assert found.reached.all()
            taken += part.work(site.layer) * (found.nodes.double().mean().item() - 1)
            fixed += part.work(site.layer) * 24
    assert taken <= fixed / 3


@pytest.mark.parametrize("name", available_testbeds())
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_layer_of_every_testbed_is_as_exact_as_promised(name, direction):
    """A warning, which would be an error here, is not needed."""
    model = load_model(name)
    for task in TASKS:
        ig = integrated_gradients(model, load_task(task, model, n=10), direction)
        allowed = 1e-3 * ig.total.abs().max()
        for kind in KINDS:
            assert ig.gaps(kind).shape == (10, model.cfg.n_layers)
            assert (ig.gaps(kind).abs() <= allowed).all()


def test_no_node_is_evaluated_twice_and_converged_prompts_are_left_out(testbed):
    pairs = load_task("greater-than", testbed, n=4)
    (part,) = Plan(forward_of(testbed), pairs).parts()
    site, starts = next(part.sites(("heads",))), part.gradients()
    seen: list[list[float]] = [[] for _ in pairs.clean]
    along = site.joint_change()

    def resume(change, prompts=None):
        for row, prompt in enumerate(prompts or range(len(seen))):
            seen[prompt] += (change[:, row] / along[prompt]).nanmedian(dim=-1)[0][:, -1].tolist()
        return site.resume(change, prompts)

    found = integrate_jointly_to(replace(site, resume=resume), 1e-5, starts[site.key])
    assert [len(nodes) + 1 for nodes in seen] == found.nodes.tolist()
    assert len(set(found.nodes.tolist())) > 1
    for nodes in seen:
        assert len({round(node, 4) for node in nodes}) == len(nodes)


def test_what_does_not_converge_is_one_warning(tiny):
    """Prompts, layers, kinds and the largest gap; the scores are there."""
    pairs = load_task("ioi", tiny, n=3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ig = integrated_gradients(tiny, pairs, tolerance=1e-12, kinds=("heads",))
    (warning,) = told
    found = re.fullmatch(
        r"ioi: IG did not reach its tolerance on 3 of 3 prompts, in layers 0, 1, 2 \(heads\); the "
        r"largest gap there is (\S+) of the largest \|total effect\|\.",
        str(warning.message),
    )
    gap = (ig.heads_gap.abs().max() / ig.total.abs().max()).item()
    assert float(found[1]) == pytest.approx(gap, rel=0.1)
    assert gap < 1e-4


def test_a_gap_that_is_no_error_is_not_told(tiny):
    """A component alone on its path: what all of a layer do together is another thing."""
    pairs = load_task("ioi", tiny, n=1)
    with pytest.warns(UserWarning, match=r"did not reach .* \(heads\)\.$"):
        integrated_gradients(tiny, pairs, tolerance=1e-12, kinds=("heads",), path="single")


def test_a_gap_is_the_sum_less_what_patching_the_layer_does(tiny):
    """Though the joint effect comes with the path's end, not from a run of its own."""
    pairs = load_task("ioi", tiny, n=3)
    loose, exact = (integrated_gradients(tiny, pairs, **how) for how in ({}, {"steps": 64}))
    scale = max(loose.base.abs().max(), loose.source.abs().max()).item()
    for kind in KINDS:
        joint, expected = (it.of(kind).sum(dim=2) - it.gaps(kind) for it in (loose, exact))
        torch.testing.assert_close(joint, expected, rtol=0, atol=1e-5 * scale)
        assert loose.gaps(kind).abs().max() <= 1e-3 * loose.total.abs().max()
