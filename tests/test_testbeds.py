"""What the testbeds must have learnt for the report to mean anything."""

import json

import pytest

from analysis import paths
from analysis.models import available_testbeds
from analysis.training.card import evaluate


@pytest.fixture(scope="module")
def evaluation(testbed):
    return evaluate(testbed, n=50)


def test_the_card_is_what_is_measured(evaluation):
    card = json.loads((paths.MODELS / "testbed" / "evaluation.json").read_text())
    for task, found in evaluation.items():
        measured, written = found["trained"], card[task]["trained"]
        assert measured["accuracy"] == pytest.approx(written["accuracy"], abs=0.05)
        assert measured["clean"] == pytest.approx(written["clean"], rel=0.15)


@pytest.mark.parametrize("name", available_testbeds())
def test_cards_meet_the_bar(name):
    card = json.loads((paths.MODELS / name / "evaluation.json").read_text())
    assert card["ioi"]["trained"]["accuracy"] >= 0.97
    assert card["ioi"]["unseen"]["accuracy"] >= 0.85
    assert 2 <= card["ioi"]["trained"]["clean"] <= 7
    assert 0.7 <= card["greater-than"]["trained"]["clean"] <= 0.95
    assert card["gender-bias"]["trained"]["accuracy"] >= 0.9
    assert card["capital-country"]["trained"]["accuracy"] >= 0.95
    for found in card.values():
        assert found["trained"]["corrupted"] < 0 < found["trained"]["clean"]
        assert found["largest_head"]["noising"]["share"] <= 2 / 3


@pytest.mark.parametrize("name", available_testbeds())
def test_the_card_beside_the_weights_names_its_seed(name):
    training = json.loads((paths.MODELS / name / "training.json").read_text())
    assert (
        f"analysis train {name} --seed {training['seed']}"
        in (paths.MODELS / name / "README.md").read_text()
    )


def test_testbeds_share_a_tokenizer_but_no_weights():
    for file, alike in (("tokenizer.json", True), ("model.safetensors", False)):
        contents = {(paths.MODELS / name / file).read_bytes() for name in available_testbeds()}
        assert len(contents) == (1 if alike else len(available_testbeds()))
