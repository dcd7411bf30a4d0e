"""The frame of the language model, from scores made up by hand and from a tiny model."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from studies import made

from analysis import agreement, paths
from analysis.studies import one, records
from analysis.studies.stand_ins import Means, compare, every_neuron, sampled_neurons


@pytest.fixture
def scores():
    """AP, AtP and IG of the same two layers, on 12 prompts."""
    return tuple(made.random_scores(name, seed) for seed, name in enumerate(("AP", "AtP", "IG")))


def frame(ap, atp, ig, patched=None):
    means = Means(atp.neurons.mean(dim=0), ig.neurons.mean(dim=0), 12)
    return compare([ap] if patched is None else patched, atp, ig, means)


def whole(found):
    return found.filter(pl.col("layer").is_null())


def test_heads_and_neurons_are_compared_as_agreement_does(scores):
    ap, atp, ig = scores
    found = frame(*scores)
    for method in (atp, ig):
        about = {"method": method.method, "against": "AP"}
        heads = (of.heads.flatten(1).numpy() for of in (ap, method))
        expected = agreement.correlation_of_means(*heads, "heads")
        assert one(whole(found), **about, kind="heads", statistic="Pearson")[0] == expected[0]
        for layer in (0, 1):
            sides = [of.neurons[:, layer].numpy() for of in (ap, method)]
            here = about | {"kind": "neurons", "layer": layer}
            r = agreement.correlation_across_prompts(*sides)
            slope = agreement.slope_across_prompts(*sides)
            for statistic, expected in (("Pearson", r), ("slope", slope)):
                row = one(found, **here, statistic=statistic)
                assert (row.mean, row.low, row.high) == pytest.approx(
                    (expected.mean, expected.low, expected.high)
                )


def test_a_methods_slope_is_that_of_the_method_on_ap(scores):
    ap, _, ig = scores
    twice = replace(ap, method="AtP", heads=2 * ap.heads, neurons=2 * ap.neurons)
    found = frame(ap, twice, ig).filter(method="AtP", statistic="slope")
    assert found["estimate"].to_list() == pytest.approx([2.0] * found.height)


def test_of_sampled_neurons_only_all_together_and_whole_layers_are_compared(scores):
    ap, atp, ig = scores
    sample, layer = (torch.full_like(ap.neurons, torch.nan) for _ in range(2))
    sample[:, 0, [1, 4, 9]] = ap.neurons[:, 0, [1, 4, 9]]
    sample[:, 1, [0, 2, 14]] = ap.neurons[:, 1, [0, 2, 14]]
    layer[:, 1] = ap.neurons[:, 1]
    patched = [replace(ap, heads=ap.heads[..., :0], neurons=of) for of in (sample, layer)]
    found = frame(ap, atp, ig, patched).filter(against="AP", method="IG", statistic="Pearson")
    rows = found.select("kind", "layer", "components", "of").rows()
    assert rows == [("neurons", None, 6, 30), ("neurons", 1, 15, 15)]


def first(prompts, scores):
    tensors = {name: of for name, of in vars(scores).items() if isinstance(of, torch.Tensor)}
    return replace(scores, **{name: of[:prompts] for name, of in tensors.items()})


def test_methods_are_compared_on_the_prompts_that_both_have(scores):
    ap, atp, ig = scores
    few = first(5, ig)
    found, shorter = frame(ap, atp, few), frame(first(5, ap), atp, few)
    assert found.filter(method="IG", against="AP")["n"].unique().to_list() == [5]
    assert found.filter(method="AtP")["n"].unique().to_list() == [12]
    assert found.filter(method="IG").equals(shorter.filter(method="IG"))


def test_ig_against_atp_is_of_all_neurons_by_layer(scores):
    _, atp, ig = scores
    found = frame(*scores).filter(against="AtP")
    assert found["layer"].to_list() == [None, 0, 1]
    means = [of.neurons[:, 1].double().mean(dim=0) for of in (atp, ig)]
    expected = np.corrcoef(*means)[0, 1]
    assert one(found, layer=1).mean == pytest.approx(expected, abs=1e-6)


def test_a_model_is_compared_through_its_measurements(tiny, tiny_directory, tmp_path, monkeypatch):
    """What is sampled is a part of what is exact; heads are the same."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    monkeypatch.setattr(records, "SAMPLE", 10)
    exact = every_neuron(tiny, n=4, tasks=("ioi",))
    sampled = sampled_neurons([str(tiny_directory)], n=4, tasks=("ioi",))
    assert exact.columns == sampled.columns
    for of in (exact, sampled):
        assert of["task"].unique().to_list() == ["ioi"] and set(of["method"]) == {"AtP", "IG"}
    heads = [of.filter(kind="heads")["estimate"].to_numpy() for of in (exact, sampled)]
    np.testing.assert_allclose(*heads, atol=1e-5)
    every, neurons = 3 * tiny.cfg.d_mlp, whole(sampled).filter(kind="neurons", against="AP")
    assert set(neurons.filter(direction="noising")["components"]) == {30, every}
    assert set(neurons.filter(direction="denoising")["components"]) == {30}
    known = whole(exact).filter(kind="neurons", against="AP", direction="noising")
    found = neurons.filter(components=every)
    assert found["statistic"].to_list() == known["statistic"].to_list()
    np.testing.assert_allclose(found["estimate"], known["estimate"], atol=1e-5)
    assert set(whole(exact).filter(kind="neurons")["components"]) == {every}
