"""What all studies share: the models that the report is about, and the shape of their frames."""

import polars as pl
import pytest

from analysis.agreement import Estimate
from analysis.studies import (
    UNTRAINED,
    Studied,
    exact_model,
    is_testbed,
    language_model,
    loaded,
    models_compared,
    one,
    tidy,
    wide,
)

ROWS = [
    {"task": task, "kind": kind, "estimate": mean, "low": mean - 0.1, "high": mean + 0.2}
    for task, kind, mean in (("ioi", "heads", 0.5), ("ioi", "neurons", 0.3), ("abc", "heads", 0.1))
]


def test_both_models_are_what_the_environment_says(monkeypatch):
    for name in ("ANALYSIS_TESTBED", "ANALYSIS_MODEL", "ANALYSIS_PROMPTS"):
        monkeypatch.delenv(name, raising=False)
    assert (exact_model(), language_model()) == (Studied("testbed", 100), Studied("smollm2", 100))
    monkeypatch.setenv("ANALYSIS_TESTBED", "testbed-2")
    monkeypatch.setenv("ANALYSIS_MODEL", "gpt2-small")
    monkeypatch.setenv("ANALYSIS_PROMPTS", "12")
    assert exact_model() == Studied("testbed-2", 12)
    assert language_model() == Studied("gpt2-small", 12)


@pytest.mark.parametrize("prompts", ["", "0", "-3", "many", "1.5"])
def test_a_record_of_no_prompts_is_an_error(monkeypatch, prompts):
    monkeypatch.setenv("ANALYSIS_PROMPTS", prompts)
    with pytest.raises(ValueError, match=f"ANALYSIS_PROMPTS='{prompts}'.*whole number"):
        exact_model()


def test_a_testbed_is_compared_with_all_testbeds_and_another_model_with_its_control(monkeypatch):
    monkeypatch.setenv("ANALYSIS_TESTBED", "testbed-3")
    assert models_compared() == ["testbed", "testbed-2", "testbed-3", UNTRAINED]
    monkeypatch.setenv("ANALYSIS_TESTBED", "gpt2-small")
    assert models_compared() == ["gpt2-small", UNTRAINED]


def test_a_folder_with_a_testbeds_name_is_no_testbed(monkeypatch, tmp_path, tiny_directory):
    monkeypatch.chdir(tmp_path)
    assert is_testbed("testbed")
    (tmp_path / "testbed").symlink_to(tiny_directory)
    assert not is_testbed(str(tmp_path / "testbed")) and not is_testbed(str(tiny_directory))


def test_the_control_has_the_records_shape_and_other_weights(monkeypatch, tiny_directory):
    monkeypatch.setenv("ANALYSIS_TESTBED", str(tiny_directory))
    model, control = exact_model().model, loaded(UNTRAINED)
    assert loaded(UNTRAINED) is control and exact_model().model is model
    assert control.cfg.n_layers == model.cfg.n_layers == 3
    assert not control.W_E.equal(model.W_E)


def test_a_tidy_frame_has_its_numbers_last_and_undefined_ones_null():
    rows = [
        {"estimate": Estimate(0.9, 0.1, 0.8, 1.0), "task": "ioi", "n": 4},
        {"estimate": float("nan"), "task": "ioi", "k": 10},
        {"estimate": 3, "task": "abc", "low": 1, "high": 4},
    ]
    assert tidy(rows).columns == ["task", "k", "estimate", "low", "high", "n"]
    assert tidy(rows).rows() == [
        ("ioi", None, 0.9, 0.8, 1.0, 4),
        ("ioi", 10, None, None, None, None),
        ("abc", None, 3.0, 1.0, 4.0, None),
    ]
    assert tidy(rows).schema["n"] == pl.Int64 and tidy(rows).schema["low"] == pl.Float64


def test_one_row_is_picked_by_its_columns():
    found = one(tidy(ROWS), task="ioi", kind="neurons")
    assert (found.mean, found.low, found.high) == (0.3, 0.3 - 0.1, 0.3 + 0.2)


@pytest.mark.parametrize(("columns", "rows"), [({"task": "ioi"}, 2), ({"task": "none"}, 0)])
def test_no_row_or_several_are_an_error(columns, rows):
    with pytest.raises(ValueError, match=f"{rows} rows have task="):
        one(tidy(ROWS), **columns)


def test_a_wide_table_has_a_column_for_each_value_and_a_dash_for_none():
    table = wide(tidy(ROWS), by="kind", keys=["task"])
    assert table.columns == ["task", "heads", "neurons"]
    texts = [[text.replace("\N{NO-BREAK SPACE}", " ") for text in row] for row in table.rows()]
    assert texts == [
        ["ioi", "0.50 [0.40, 0.70]", "0.30 [0.20, 0.50]"],
        ["abc", "0.10 [0.00, 0.30]", "–"],
    ]
    chosen = wide(tidy(ROWS), by="kind", keys=["task"], names=("neurons", "heads", "layers"))
    assert chosen.columns == ["task", "neurons", "heads"]
