"""What the testbeds must have learnt for the report to mean anything."""

import json

import pytest
import torch

from analysis import Scores, activation_patching, load_model, load_task, paths
from analysis.models import available_testbeds
from analysis.tasks import TASKS
from analysis.testbed import card


def written(name: str, file: str = "evaluation.json") -> dict:
    return json.loads((paths.MODELS / name / file).read_text())


@pytest.fixture(scope="module", params=available_testbeds())
def trained(request):
    return request.param, load_model(request.param)


# The card's digits, but for what another machine's arithmetic does to the last ones.
def alike(found: dict, expected: dict) -> bool:
    return found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("task", TASKS)
def test_the_card_is_what_is_measured(trained, task):
    """The same held-out prompts, the same metric: another split would show here."""
    name, model = trained
    pairs = load_task(task, model, n=card.PROMPTS)
    runs = activation_patching(model, pairs, kinds=())
    by_template = torch.tensor(pairs.trained)
    subsets = {"trained": by_template, "unseen": ~by_template}
    expected = written(name)[task]
    for subset, chosen in subsets.items():
        assert (subset in expected) == bool(chosen.any())
        if chosen.any():
            assert alike(card._summary(runs, chosen), expected[subset])


def test_the_cards_largest_head_is_what_is_measured(trained):
    name, model = trained
    found, expected = card._evaluate_task(model, "gender-bias"), written(name)
    for part, values in expected["gender-bias"].items():
        if part == "largest_head":
            for direction, head in values.items():
                assert alike(found[part][direction], head)
        else:
            assert alike(found[part], values)


def made_up(heads: list[list[list[float]]], base: list[float], source: list[float]) -> Scores:
    prompts = len(heads)
    scores = torch.tensor(heads)
    return Scores(
        method="AP",
        task="made up",
        direction="noising",
        baseline="source",
        heads=scores,
        neurons=torch.zeros(*scores.shape[:2], 0),
        base=torch.tensor(base),
        source=torch.tensor(source),
        prompts=torch.arange(prompts),
        heads_gap=torch.zeros(scores.shape[:2]),
        neurons_gap=torch.zeros(scores.shape[:2]),
    )


def test_a_card_summarises_made_up_runs():
    """Three layers of two heads; head 2.0 does most, against the total effect of -4 on average."""
    quiet = [[0.1, 0.2], [0.0, -0.3], [2.5, 0.1]]
    loud = [[0.1, 0.2], [0.0, -0.3], [0.5, -2.0]]
    runs = made_up(
        [quiet, loud, quiet, quiet], base=[2.0, -1.0, 3.0, 5.0], source=[-1.0, -4.0, -3.0, 1.0]
    )
    assert card._largest_head(runs) == {"layer": 2, "head": 0, "share": 0.5}
    assert card._summary(runs, torch.tensor([True, True, True, False])) == {
        "prompts": 3,
        "accuracy": 0.6667,
        "clean": 1.3333,
        "corrupted": -2.6667,
    }


@pytest.mark.parametrize("name", available_testbeds())
def test_the_card_beside_the_weights_is_that_of_its_records(name):
    found = card._card(name, written(name, "training.json"), written(name))
    assert found == (paths.MODELS / name / "README.md").read_text()
    seed, ioi = written(name, "training.json")["seed"], written(name)["ioi"]
    assert f"analysis train {name} --seed {seed}" in found
    one = ioi["unseen"]
    numbers = f"{one['accuracy']:.1%} | {one['clean']:.2f} | {one['corrupted']:.2f} |"
    assert f"| ioi | unseen | {one['prompts']} | {numbers}" in found
    head = ioi["largest_head"]["denoising"]
    assert f"| ioi | denoising | {head['layer']}.{head['head']} | {head['share']:.2f} |" in found


@pytest.mark.parametrize("name", available_testbeds())
def test_cards_meet_the_bar(name):
    card = written(name)
    assert card["ioi"]["trained"]["accuracy"] >= 0.97
    assert card["ioi"]["unseen"]["accuracy"] >= 0.85
    assert 2 <= card["ioi"]["trained"]["clean"] <= 7
    assert 0.7 <= card["greater-than"]["trained"]["clean"] <= 0.95
    assert card["gender-bias"]["trained"]["accuracy"] >= 0.9
    assert card["capital-country"]["trained"]["accuracy"] >= 0.95
    for found in card.values():
        assert found["trained"]["corrupted"] < 0 < found["trained"]["clean"]
        assert found["largest_head"]["noising"]["share"] <= 2 / 3


def test_testbeds_share_a_tokenizer_but_no_weights():
    for file, alike in (("tokenizer.json", True), ("model.safetensors", False)):
        contents = {(paths.MODELS / name / file).read_bytes() for name in available_testbeds()}
        assert len(contents) == (1 if alike else len(available_testbeds()))
