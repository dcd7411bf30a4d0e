import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis import cli, load_model, paths
from analysis.training import train as training

ROOT = Path(__file__).parents[1]
runner = CliRunner()


def test_help_names_the_commands():
    result = runner.invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for command in ("run", "bench", "train", "bundle", "reference", "preview"):
        assert command in result.output


def test_train_saves_a_checkpoint_with_its_card(tmp_path, monkeypatch):
    """The real command with a recipe of two steps."""
    recipe = replace(training.Recipe(), layers=1, width=16, heads=2, steps=2, sentences=2, warmup=1)
    short = partial(training.train, recipe=replace(recipe, tokenizer_sentences=20_000))
    monkeypatch.setattr(training, "train", partial(short, progress=False))
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    result = runner.invoke(cli.app, ["train", "small", "--seed", "3"])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "small" / "README.md").read_text()
    assert "Seed 3" in card and "| ioi | trained |" in card
    assert load_model(tmp_path / "small").cfg.n_layers == 1


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    """And says what its comments say: the attributions add up."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert float(re.findall(r"tensor\((\S+)\)", capsys.readouterr().out)[-1]) < 1e-3


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
