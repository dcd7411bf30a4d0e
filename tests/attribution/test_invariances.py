"""DESIGN.md section 3, facts 4 to 6, on whole sweeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import PromptPairs, Scores, activation_patching, integrated_gradients, load_task
from analysis.attribution.parts import BASELINES, DIRECTIONS

METHODS = (activation_patching, integrated_gradients)
methods = st.sampled_from(METHODS)
directions = st.sampled_from(DIRECTIONS)
baselines = st.sampled_from(("source", "zero"))


@pytest.fixture(scope="module")
def mixed(tiny) -> PromptPairs:
    """Prompts of several lengths."""
    pairs = load_task("ioi", tiny, n=6)
    assert len(list(pairs.groups())) > 2
    return pairs


def same(first: Scores, second: Scores, tolerance: float = 1e-4) -> None:
    scale = max(first.base.abs().max(), first.source.abs().max()).item()
    for name in ("heads", "neurons", "base", "source"):
        torch.testing.assert_close(
            getattr(first, name), getattr(second, name), rtol=0, atol=tolerance * scale
        )


@settings(max_examples=12)
@given(method=methods, direction=directions, baseline=baselines, order=st.permutations(range(6)))
def test_order_and_company_change_nothing(tiny, mixed, method, direction, baseline, order):
    together = method(tiny, mixed, direction=direction, baseline=baseline)
    shuffled = method(tiny, mixed.select(order), direction=direction, baseline=baseline)
    alone = method(tiny, mixed.select(order[:1]), direction=direction, baseline=baseline)
    for place, original in enumerate(order):
        for kind in ("heads", "neurons"):
            torch.testing.assert_close(
                shuffled.of(kind)[place], together.of(kind)[original], rtol=1e-3, atol=1e-4
            )
    for kind in ("heads", "neurons"):
        torch.testing.assert_close(
            alone.of(kind)[0], together.of(kind)[order[0]], rtol=1e-3, atol=1e-4
        )


@settings(max_examples=6)
@given(method=methods, memory=st.integers(2**18, 2**24))
def test_batch_size_changes_nothing(tiny, mixed, method, memory):
    same(method(tiny, mixed, memory=memory), method(tiny, mixed))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_weight_processing_changes_nothing(tiny, tiny_raw, mixed, method, direction):
    same(method(tiny, mixed, direction=direction), method(tiny_raw, mixed, direction=direction))


@pytest.mark.parametrize("method", METHODS)
def test_source_equal_to_base_scores_nothing(tiny, mixed, method):
    from dataclasses import replace

    same_sides = replace(mixed, corrupted_tokens=mixed.clean_tokens)
    scores = method(tiny, same_sides)
    assert scores.heads.abs().max() == scores.neurons.abs().max() == 0
    assert scores.total.abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_directions_swap_base_and_source(tiny, mixed, method):
    noising = method(tiny, mixed)
    denoising = method(tiny, mixed, direction="denoising")
    torch.testing.assert_close(noising.total, -denoising.total)
    assert (noising.heads + denoising.heads).abs().max() > 1e-3, "denoising is not -noising"


@pytest.mark.parametrize("method", METHODS)
def test_only_changed_positions_matter(tiny, mixed, method):
    """Before the first differing token Δa is 0: scores come from the later positions alone."""
    from analysis.forward import forward_of

    forward = forward_of(tiny)
    for clean, corrupted in zip(mixed.clean_tokens, mixed.corrupted_tokens, strict=True):
        first = int((clean != corrupted).nonzero()[0])
        base, source = forward.run(clean[None]), forward.run(corrupted[None])
        for site, activations in base.activations.items():
            difference = source.activations[site] - activations
            assert difference[:, :first].abs().max() == 0
            if site[1] > 0 or site[0] == "neurons":
                assert difference[:, first:].abs().max() > 0


@settings(max_examples=6)
@given(method=methods, grad=st.booleans())
def test_grad_mode_is_neither_needed_nor_changed(tiny, mixed, method, grad):
    expected = method(tiny, mixed)
    with torch.set_grad_enabled(grad):
        same(method(tiny, mixed), expected)
        assert torch.is_grad_enabled() == grad
    assert all(weight.grad is None for weight in tiny.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("method", METHODS)
def test_the_device_changes_nothing(tiny_directory, tiny, mixed, method):
    from analysis import load_model

    same(method(load_model(tiny_directory, device="cuda"), mixed), method(tiny, mixed))


def test_single_path_ig_is_ap(tiny, mixed):
    pairs = mixed.select([0, 1])
    single = integrated_gradients(tiny, pairs, path="single", steps=64)
    same(single, activation_patching(tiny, pairs), tolerance=1e-3)


def test_the_last_layers_sum_is_what_it_does_to_the_metric(testbed):
    """The gap is the sum of the scores minus the joint effect; for AP it is the interaction."""
    pairs = load_task("gender-bias", testbed, n=4)
    ap, ig = (method(testbed, pairs) for method in METHODS)
    joint = ig.heads.sum(dim=2) - ig.heads_gap
    torch.testing.assert_close(ap.heads.sum(dim=2) - ap.heads_gap, joint, rtol=1e-3, atol=1e-4)
    assert ap.heads_gap.abs().max() > 10 * ig.heads_gap.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_mean_baseline_is_the_source_sides_mean_by_length(tiny, method):
    """With one source prompt for all pairs its mean is itself: mean and source agree."""
    from dataclasses import replace

    pairs = load_task("greater-than", tiny, n=9)
    one_source = replace(pairs, corrupted_tokens=[pairs.corrupted_tokens[0]] * 9)
    same(method(tiny, one_source, baseline="mean"), method(tiny, one_source))


def test_mean_baseline_does_not_depend_on_memory(tiny):
    pairs = load_task("greater-than", tiny, n=10)
    mean = integrated_gradients(tiny, pairs, baseline="mean")
    same(mean, integrated_gradients(tiny, pairs, baseline="mean", memory=1))
    assert (mean.heads - integrated_gradients(tiny, pairs).heads).abs().max() > 1e-4


def test_mean_baseline_leaves_small_groups_out_and_counts_them(tiny):
    pairs = load_task("ioi", tiny, n=60)
    sizes = [len(group) for group in pairs.groups()]
    small = sum(size for size in sizes if size < 8)
    assert small > 0
    scores = activation_patching(tiny, pairs, baseline="mean", kinds=("heads",))
    assert scores.left_out == small
    assert len(scores.prompts) == len(scores.heads) == 60 - small
    assert sorted(scores.prompts.tolist()) == scores.prompts.tolist()


def test_zero_baseline_differs_from_source(tiny, mixed):
    zero, source = (activation_patching(tiny, mixed, baseline=b) for b in ("zero", "source"))
    torch.testing.assert_close(zero.total, source.total)
    assert (zero.heads - source.heads).abs().max() > 1e-3


def test_kinds_can_be_chosen(tiny, mixed):
    heads = activation_patching(tiny, mixed, kinds=("heads",))
    assert heads.neurons.shape == (6, 3, 0)
    torch.testing.assert_close(heads.heads, activation_patching(tiny, mixed).heads)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "argument", [{"direction": "sideways"}, {"baseline": "noise"}, {"kinds": ("layers",)}]
)
def test_unknown_choices_are_named(tiny, mixed, method, argument):
    ((_, value),) = argument.items()
    with pytest.raises(ValueError, match=value[0] if isinstance(value, tuple) else value):
        method(tiny, mixed, **argument)


@pytest.mark.parametrize("argument", [{"rule": "simpson"}, {"path": "bent"}, {"steps": 0}])
def test_unknown_rules_paths_and_steps_are_named(tiny, mixed, argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=str(value)):
        integrated_gradients(tiny, mixed, **argument)


def test_too_few_prompts_for_a_mean_is_an_error(tiny, mixed):
    with pytest.raises(ValueError, match="mean.*8 prompts"):
        activation_patching(tiny, mixed, baseline="mean")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_the_prompt(tmp_path, tiny_directory, mixed, value):
    from analysis import load_model

    broken = load_model(tiny_directory)
    with torch.no_grad():
        broken.blocks[1].mlp.out.original_component.bias[0] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        activation_patching(broken, mixed)


def test_scores_are_float32_on_the_cpu_in_the_order_of_the_prompts(tiny, mixed):
    scores = activation_patching(tiny, mixed)
    assert scores.heads.shape == (6, 3, 4) and scores.neurons.shape == (6, 3, 128)
    assert {scores.heads.dtype, scores.neurons.dtype, scores.total.dtype} == {torch.float32}
    assert scores.prompts.tolist() == list(range(6))
    torch.testing.assert_close(
        scores.normalised("heads"), scores.heads / (scores.source - scores.base).mean()
    )
    assert set(BASELINES) == {"source", "zero", "mean"}
