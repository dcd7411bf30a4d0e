"""What changes no score, on whole sweeps: identities, invariances, causality."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from analysis import (
    PromptPairs,
    Scores,
    activation_patching,
    attribution_patching,
    integrated_gradients,
    load_model,
    load_task,
)
from analysis.attribution.activation_patching import patch_each
from analysis.attribution.gradients import along, gradient
from analysis.bench.workloads import Shape, random_pairs
from analysis.choices import BASELINES, DIRECTIONS, KINDS
from analysis.forward import forward_of
from analysis.forward.decoder import Decoder
from analysis.sites import Plan

METHODS = (activation_patching, attribution_patching, integrated_gradients)
methods = st.sampled_from(METHODS)
directions = st.sampled_from(DIRECTIONS)
baselines = st.sampled_from(("source", "zero"))


@pytest.fixture(scope="module")
def mixed(tiny) -> PromptPairs:
    """Prompts of several lengths."""
    pairs = load_task("ioi", tiny, n=6)
    assert len(list(pairs.groups())) > 2
    return pairs


@pytest.fixture(scope="module")
def scored(tiny, mixed):
    """What a method gives for these prompts together, computed once for the same arguments."""
    return cache(lambda method, **chosen: method(tiny, mixed, **chosen))


def same(first: Scores, second: Scores, tolerance: float = 1e-4) -> None:
    scale = max(first.base.abs().max(), first.source.abs().max()).item()
    for name in ("heads", "neurons", "heads_gap", "neurons_gap", "base", "source"):
        torch.testing.assert_close(
            getattr(first, name),
            getattr(second, name),
            rtol=0,
            atol=tolerance * scale,
            equal_nan=True,
        )


def same_scores(first: Scores, second: Scores) -> None:
    """Of methods that measure gaps and that don't."""
    scale = max(first.base.abs().max(), first.source.abs().max()).item()
    for kind in KINDS:
        torch.testing.assert_close(first.of(kind), second.of(kind), rtol=0, atol=1e-6 * scale)


@settings(max_examples=12)
@given(method=methods, direction=directions, baseline=baselines, order=st.permutations(range(6)))
def test_the_order_and_the_other_prompts_change_nothing(
    tiny, mixed, scored, method, direction, baseline, order
):
    together = scored(method, direction=direction, baseline=baseline)
    shuffled = method(tiny, mixed.select(order), direction=direction, baseline=baseline)
    alone = method(tiny, mixed.select(order[:1]), direction=direction, baseline=baseline)
    for row, original in enumerate(order):
        for kind in ("heads", "neurons"):
            torch.testing.assert_close(
                shuffled.of(kind)[row], together.of(kind)[original], rtol=1e-3, atol=1e-4
            )
    # A tolerance is relative to the data set's largest total effect, which others may have.
    within = 1e-3 * together.total.abs().max().item() if method is integrated_gradients else 1e-4
    for kind in ("heads", "neurons"):
        torch.testing.assert_close(
            alone.of(kind)[0], together.of(kind)[order[0]], rtol=1e-3, atol=within
        )


@settings(max_examples=6)
@given(method=methods, memory=st.integers(2**18, 2**24))
def test_batch_size_changes_nothing(tiny, mixed, scored, method, memory):
    same(method(tiny, mixed, memory=memory), scored(method))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_weight_processing_changes_nothing(tiny_raw, mixed, scored, method, direction):
    same(scored(method, direction=direction), method(tiny_raw, mixed, direction=direction))


@pytest.mark.parametrize("method", METHODS)
def test_source_equal_to_base_scores_nothing(tiny, mixed, method):
    same_sides = replace(mixed, corrupted=mixed.clean, corrupted_tokens=mixed.clean_tokens)
    scores = method(tiny, same_sides)
    assert scores.heads.abs().max() == scores.neurons.abs().max() == 0
    assert scores.total.abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_directions_swap_base_and_source(mixed, scored, method):
    noising, denoising = scored(method), scored(method, direction="denoising")
    torch.testing.assert_close(noising.base, denoising.source)
    torch.testing.assert_close(noising.source, denoising.base)
    assert (noising.direction, denoising.direction) == DIRECTIONS
    assert (noising.heads + denoising.heads).abs().max() > 1e-3, "denoising is not -noising"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grad", [False, True])
def test_grad_mode_is_neither_needed_nor_changed(tiny, mixed, scored, method, grad):
    with torch.set_grad_enabled(grad):
        same(method(tiny, mixed), scored(method))
        assert torch.is_grad_enabled() == grad
    assert all(weight.grad is None for weight in tiny.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("method", METHODS)
def test_the_device_changes_nothing(tiny_directory, mixed, scored, method):
    same(method(load_model(tiny_directory, device="cuda"), mixed), scored(method))


def test_single_path_ig_is_ap(tiny, mixed):
    pairs = mixed.select([0, 1])
    single = integrated_gradients(tiny, pairs, path="single", steps=64)
    same(single, activation_patching(tiny, pairs), tolerance=1e-3)
    assert (single.method, single.task) == ("IG", "ioi")


@pytest.mark.parametrize("baseline", ["source", "zero"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_atp_is_one_left_step_of_ig(tiny, mixed, scored, direction, baseline):
    chosen = {"direction": direction, "baseline": baseline}
    atp, ig = scored(attribution_patching, **chosen), scored(integrated_gradients, **chosen)
    same_scores(atp, integrated_gradients(tiny, mixed, steps=1, rule="left", **chosen))
    assert (atp.heads - ig.heads).abs().max() > 1e-3, "the path's other points count"
    assert (atp.method, atp.direction, atp.baseline) == ("AtP", direction, baseline)


@pytest.mark.parametrize("baseline", ["source", "zero"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_atp_at_both_ends_is_the_trapezoid_rule_in_two_steps(tiny, mixed, direction, baseline):
    chosen = {"direction": direction, "baseline": baseline}
    both = attribution_patching(tiny, mixed, ends="both", **chosen)
    same_scores(both, integrated_gradients(tiny, mixed, steps=2, rule="trapezoid", **chosen))
    assert both.method == "AtP, both ends"


def test_atp_measures_no_gap(scored):
    atp = scored(attribution_patching)
    assert atp.heads_gap.isnan().all() and atp.neurons_gap.isnan().all()


@pytest.mark.parametrize("kinds", [KINDS, ("heads",)])
def test_atp_takes_two_runs_and_one_pass_forward_and_back(tiny, mixed, monkeypatch, kinds):
    """For each part, whatever the number of layers and kinds."""
    called = []

    def counting(name, original):
        return lambda *arguments: called.append(name) or original(*arguments)

    for name in ("run", "gradients", "resume"):
        monkeypatch.setattr(Decoder, name, counting(name, getattr(Decoder, name)))
    monkeypatch.setattr("analysis.forward._compare", lambda forward, model: None)
    attribution_patching(tiny, mixed, kinds=kinds)
    parts = called.count("gradients")
    assert parts > 1 and called == ["run", "run", "gradients"] * parts


def test_atp_of_everything_costs_at_most_six_forward_passes(testbed, monkeypatch):
    """In operations, which hooks count; from zero, where every position changes."""
    monkeypatch.setattr("analysis.forward.state._check_hooks", lambda model: None)
    pairs = load_task("ioi", testbed, n=1)
    with FlopCounterMode(display=False) as comparing:
        forward = forward_of(testbed)
    with FlopCounterMode(display=False) as once:
        forward.run(pairs.clean_tokens[0][None])
    with FlopCounterMode(display=False) as everything:
        attribution_patching(testbed, pairs, baseline="zero")
    forwards = everything.get_total_flops() - comparing.get_total_flops()
    assert 3 <= forwards / once.get_total_flops() <= 6


def test_all_methods_agree_where_the_metric_is_linear(tiny, mixed):
    """The last layer's neurons, read before the final norm: scores are the weights' alone."""
    (part, *_) = Plan(forward_of(tiny), mixed).parts()
    *_, site = part.sites(("neurons",))
    direction = torch.randn(site.writes.shape[-1], generator=torch.manual_seed(0))
    linear = replace(
        site, resume=lambda change, prompts=None: site.base + change[..., -1, :] @ direction
    )
    expected = (site.difference[:, -1] * (site.writes @ direction)).sum(dim=2)
    at_base, _ = gradient(linear, torch.zeros_like(linear.joint_change()))
    for scores in (patch_each(linear), along(linear, at_base)):
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_a_gap_is_the_sum_less_the_joint_effect(testbed):
    """Both methods mean one joint effect; IG leaves next to no gap, and AP the interaction."""
    pairs = load_task("gender-bias", testbed, n=4)
    ap, ig = activation_patching(testbed, pairs), integrated_gradients(testbed, pairs)
    for kind in KINDS:
        ap_gap, ig_gap = (getattr(scores, f"{kind}_gap") for scores in (ap, ig))
        joint = ig.of(kind).sum(dim=2) - ig_gap
        torch.testing.assert_close(ap.of(kind).sum(dim=2) - ap_gap, joint, rtol=1e-3, atol=1e-4)
        assert ap_gap.abs().max() > 10 * ig_gap.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_mean_baseline_is_the_source_sides_mean_by_length(tiny, method):
    """With one source prompt for all pairs its mean is itself: mean and source agree."""
    pairs = load_task("greater-than", tiny, n=9)
    one_source = replace(
        pairs,
        corrupted=[pairs.corrupted[0]] * 9,
        corrupted_tokens=[pairs.corrupted_tokens[0]] * 9,
    )
    same(method(tiny, one_source, baseline="mean"), method(tiny, one_source))


def test_mean_baseline_does_not_depend_on_memory(tiny):
    pairs = load_task("greater-than", tiny, n=8)
    settings = {"kinds": ("heads",), "steps": 2}
    mean = integrated_gradients(tiny, pairs, baseline="mean", **settings)
    same(mean, integrated_gradients(tiny, pairs, baseline="mean", memory=1, **settings))
    assert (mean.heads - integrated_gradients(tiny, pairs, **settings).heads).abs().max() > 1e-4


def test_mean_baseline_leaves_small_groups_out_and_counts_them(tiny):
    """What remains is scored as it is without the others."""
    pairs = load_task("ioi", tiny, n=60)
    large = [group for group in pairs.groups() if len(group) >= 8]
    remaining = sorted(place for group in large for place in group)
    assert 0 < len(remaining) < 60
    scores, alone = (
        activation_patching(tiny, some, baseline="mean", kinds=("heads",))
        for some in (pairs, pairs.select(remaining))
    )
    assert scores.prompts.tolist() == remaining
    assert (scores.left_out, alone.left_out) == (60 - len(remaining), 0)
    same(scores, alone)


def test_zero_baseline_differs_from_source(scored):
    zero, source = (scored(activation_patching, baseline=b) for b in ("zero", "source"))
    torch.testing.assert_close(zero.total, source.total)
    assert (zero.heads - source.heads).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_can_be_chosen(scored, kind):
    (other,) = set(KINDS) - {kind}
    chosen = scored(activation_patching, kinds=(kind,))
    assert chosen.of(other).shape == (6, 3, 0)
    torch.testing.assert_close(chosen.of(kind), scored(activation_patching).of(kind))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "argument", [{"direction": "sideways"}, {"baseline": "noise"}, {"kinds": ("layers",)}]
)
def test_unknown_choices_are_named(tiny, mixed, method, argument):
    ((_, value),) = argument.items()
    with pytest.raises(ValueError, match=value[0] if isinstance(value, tuple) else value):
        method(tiny, mixed, **argument)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("argument", [{"rule": "simpson"}, {"path": "bent"}, {"steps": 0}])
def test_unknown_rules_paths_and_steps_are_named(tiny, mixed, argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=str(value)):
        integrated_gradients(tiny, mixed, **argument)


def test_too_few_prompts_for_a_mean_is_an_error(tiny, mixed):
    with pytest.raises(ValueError, match="mean.*8 prompts"):
        activation_patching(tiny, mixed, baseline="mean")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("side", ["clean", "corrupted", "both sides"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_the_prompt(tiny_directory, side, value, direction):
    """Read by one token of one side alone, or one logit of every prompt."""
    pairs = random_pairs("ioi", Shape(6, 4), 4, 3000)
    broken = load_model(tiny_directory)
    weights = dict(broken.tl_named_parameters())
    with torch.no_grad():
        if side == "both sides":
            weights["unembed.b_U"][7] = value
        else:
            {"clean": pairs.clean_tokens, "corrupted": pairs.corrupted_tokens}[side][2][4] = 3001
            weights["embed.W_E"][3001] = value
    named = 0 if side == "both sides" else 2
    with pytest.raises(ValueError, match=f"NaN or infinite on prompt {named} "):
        activation_patching(broken, pairs, direction=direction)


def test_scores_are_float32_on_the_cpu_in_the_order_of_the_prompts(scored):
    scores = scored(activation_patching)
    assert scores.heads.shape == (6, 3, 4) and scores.neurons.shape == (6, 3, 128)
    assert {scores.heads.dtype, scores.neurons.dtype, scores.total.dtype} == {torch.float32}
    assert scores.prompts.tolist() == list(range(6))
    torch.testing.assert_close(
        scores.normalised("heads"), scores.heads / (scores.source - scores.base).mean()
    )
    assert set(BASELINES) == {"source", "zero", "mean"}
