import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from analysis import cli, load_model, paths
from analysis.testbed import train as training

ROOT = Path(__file__).parents[1]
runner = CliRunner()


COMMANDS = [command.callback.__name__ for command in cli.app.registered_commands]


def test_help_names_the_commands():
    result = runner.invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert set(COMMANDS) == {"run", "bench", "train", "card"}
    for command in COMMANDS:
        assert command in result.output
    assert "README.md" in result.output and "completion" not in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_explains_each_argument(command):
    result = runner.invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    options = typer.main.get_command(cli.app).commands[command].params
    assert options and all(getattr(option, "help", "") for option in options)


@pytest.mark.parametrize(
    ("arguments", "what_is_missing"),
    [
        (["train", "small", "--seed", "3"], "a clone of the project"),
        (["card", "smollm2"], "a clone of the project"),
        (["bench"], "pip install"),
    ],
)
def test_elsewhere_a_command_says_what_it_needs(tmp_path, monkeypatch, arguments, what_is_missing):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "IN_CLONE", False)
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    result = runner.invoke(cli.app, arguments)
    assert isinstance(result.exception, ValueError)
    assert re.search(what_is_missing, str(result.exception))


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


@pytest.fixture
def said(monkeypatch, tmp_path):
    """What the command line ends with, in this process."""
    monkeypatch.delenv("ANALYSIS_TESTBED", raising=False)
    monkeypatch.setenv("ANALYSIS_MODEL", "testbed")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["analysis", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return str(ended.value.code)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--n", "0"], "n=0"),
        (["run", "--n", "999999"], "n=999999"),
        (["run", "--model", "/nowhere"], "Model '/nowhere' not found"),
        (["run", "--model", ""], "n=|name was expected"),
        (["run", "--model", "../../nowhere"], "not found"),
        (["train", "../elsewhere", "--seed", "1"], "'../elsewhere'.*letters"),
        (["card", "testbed"], "'testbed'.*'smollm2'"),
    ],
)
def test_bad_input_ends_in_one_sentence(said, arguments, message):
    if arguments == ["run", "--model", ""]:
        arguments = [*arguments, "--n", "0"]  # unset: the testbed
    sentence = said(*arguments)
    assert re.search(message, sentence)
    assert sentence.startswith("analysis: ") and "\n" not in sentence


@pytest.mark.parametrize("spoil", ["weights", "tokenizer"])
def test_a_model_that_cannot_be_loaded_ends_in_one_sentence(said, tiny_directory, tmp_path, spoil):
    """`tests/test_models.py` has every kind."""
    model = shutil.copytree(tiny_directory, tmp_path / "model")
    for file in {"weights": ["model.safetensors"], "tokenizer": ["tokenizer.json"]}[spoil]:
        (model / file).write_text("damaged")
    assert f"{spoil}" in said("run", "--model", str(model), "--n", "2")


def test_a_process_ends_in_one_sentence_without_a_traceback():
    ran = subprocess.run(
        [sys.executable, "-m", "analysis", "run", "--n", "0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip().splitlines()[-1].startswith("analysis: n=0")
