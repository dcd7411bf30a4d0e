import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis import cli, paths

ROOT = Path(__file__).parents[1]
runner = CliRunner()


def test_help_names_the_commands():
    result = runner.invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for command in ("run", "train", "preview"):
        assert command in result.output


def test_run_keeps_results_and_prints_the_agreement(tiny_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    result = runner.invoke(cli.app, ["run", "--model", str(tiny_directory), "--n", "3"])
    assert result.exit_code == 0, result.output
    assert "capital-country" in result.output
    assert len(list((tmp_path / "results").glob("*.parquet"))) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["run", "--n", "0"], "n=0"), (["run", "--model", "/nowhere"], "no model '/nowhere'")],
)
def test_bad_input_is_one_sentence_and_no_traceback(arguments, message):
    result = subprocess.run(
        [sys.executable, "-m", "analysis", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("analysis: ")
