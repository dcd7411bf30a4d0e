"""What was computed with what: found by any version, refused by another computation."""

import json
from dataclasses import replace

import pytest
import torch

from analysis import load_model
from analysis.provenance import Provenance


@pytest.fixture(scope="module")
def provenance(tiny):
    return Provenance.of(tiny)


def test_it_comes_back_as_it_was(provenance):
    assert Provenance.read(provenance.text()) == provenance


def test_it_names_versions_and_machine(provenance):
    import platform

    assert provenance.made_with["torch"] == torch.__version__
    assert platform.machine() in provenance.made_with["machine"]


def test_the_same_model_on_another_machine_passes(provenance, tmp_path):
    """Other versions, and log-probabilities apart by float error."""
    moved = [[value * (1 + 1e-6) for value in row] for row in provenance.log_probabilities]
    other = replace(provenance, made_with={"torch": "1.0"}, log_probabilities=moved)
    provenance.check(other.text(), tmp_path)


@pytest.mark.parametrize("row", range(3))
def test_another_computation_is_refused_whichever_prompt_shows_it(provenance, tmp_path, row):
    rows = [list(values) for values in provenance.log_probabilities]
    rows[row][-1] += 0.1
    other = replace(provenance, made_with={"torch": "1.0"}, log_probabilities=rows)
    with pytest.raises(ValueError, match="computed something else.*torch 1.0.*delete the file"):
        provenance.check(other.text(), tmp_path / "kept.parquet")


def test_a_file_that_does_not_say_what_it_was_made_with_is_refused(provenance, tmp_path):
    with pytest.raises(ValueError, match="does not say what it was made with: delete it"):
        provenance.check(None, tmp_path / "kept.parquet")


def test_prompts_of_different_lengths_are_compared(tiny, provenance):
    """Each row is the model's own, at the last token of its prompt."""
    from analysis.models import random_prompts

    prompts = random_prompts(tiny.cfg.d_vocab, tiny.cfg.n_ctx)
    assert [tokens.shape[1] for tokens in prompts] == [2, 9, 24]
    for tokens, row in zip(prompts, provenance.log_probabilities, strict=True):
        expected = tiny(tokens)[0, -1].log_softmax(dim=-1)[[0, -1]].tolist()
        assert [row[0], row[-1]] == pytest.approx(expected, rel=1e-5)


def test_it_is_json(provenance):
    assert set(json.loads(provenance.text())) == {"made_with", "log_probabilities"}


def test_it_is_another_one_for_other_weights(provenance, tiny_directory):
    model = load_model(tiny_directory)
    with torch.no_grad():
        model.blocks[2].mlp.out.original_component.bias[0] += 0.5
    assert Provenance.of(model).log_probabilities != provenance.log_probabilities
