"""The command line: `analysis`, or `python -m analysis`. Scores of one's own are for Python."""

import os
import re
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Annotated

import polars as pl
from typer import Argument, Option, Typer, echo

from analysis import paths
from analysis.checks import one_of

app = Typer(
    help="Compute the report's studies, and measure and train what it uses.",
    epilog="To score components on prompts of your own, use Python: README.md shows how.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs a command; bad input ends in one sentence, not in a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        raise SystemExit(f"analysis: {error}") from None


@app.command()
def run(
    model: Annotated[
        str, Option(help="The language model's name; by default ANALYSIS_MODEL, or smollm2.")
    ] = "",
    n: Annotated[int | None, Option(help="Prompts per task; by default the report's.")] = None,
    seed: Annotated[int, Option(help="Which prompts are drawn.")] = 0,
) -> None:
    """Compute every study that the report shows, unless that was done before, and keep it."""
    from analysis.studies import exact_model
    from analysis.studies.aligned_baselines import aligned_baselines
    from analysis.studies.run import run as run_studies

    if model:
        os.environ["ANALYSIS_MODEL"] = model  # which the studies' processes inherit
    about = exact_model() if n is None else exact_model()._replace(prompts=n)
    run_studies(about.prompts, seed)
    found = aligned_baselines(about.model, n=about.prompts, seed=seed)
    line = "{task:16} {direction:10} {kind:8} r of the means {estimate:.3f} [{low:.3f}, {high:.3f}]"
    shown = found.filter(statistic="Pearson", scope="of the means").fill_null(float("nan"))
    for row in shown.iter_rows(named=True):
        echo(line.format(**row))
    echo(f"Results are kept in {os.path.relpath(paths.RESULTS)}.")


@app.command()
def bench(
    json: Annotated[Path | None, Option(help="A file for every measurement.")] = None,
    mediation: Annotated[bool, Option("--mediation", help="Neurons on neurons instead.")] = False,
) -> None:
    """Time the methods beside a hook loop and Captum, on three models; it takes minutes."""
    if find_spec("captum") is None:
        raise ValueError("bench needs Captum: in a clone of the project, pip install '.[dev]'.")
    from analysis.bench import measure

    if mediation:
        measured = measure.bench_mediation()
        echo(f"{measured['pairs']:,} pairs of neurons in {measured['seconds']:.0f} s")
    else:
        measured = measure.bench()
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160):
            for name, table in measure.tables(measured).items():
                echo(f"{name}: {table}")
    echo(f"Peak memory in bytes: {measured['memory']}")
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(dumps(measured, indent=1) + "\n", encoding="utf-8")
        echo(f"Every measurement is in {json}.")


@app.command()
def train(
    name: Annotated[str, Argument(help="The model's folder in data/models.")],
    seed: Annotated[int, Option(help="Decides the weights and the order of the texts.")],
) -> None:
    """Train a testbed model in a clone of the project; an interrupted run goes on where it was."""
    if not paths.IN_CLONE:
        raise ValueError("train needs a clone of the project in which make test was run once.")
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"The name {name!r} was given: expected letters, digits and dashes.")
    from analysis.testbed.card import write_card
    from analysis.testbed.train import train as train_model

    directory = train_model(paths.MODELS / name, seed)
    write_card(directory)
    echo(f"{name} is trained: {os.path.relpath(directory / 'README.md')} says how well.")


@app.command()
def card(
    name: Annotated[str, Argument(help="A model that comes in a package: smollm2.")],
) -> None:
    """Write the card of a language model: what it is, and how well it does the tasks."""
    if not paths.IN_CLONE:
        raise ValueError("card needs a clone of the project, whose data/models it writes to.")
    from analysis.gguf_files import PACKAGES
    from analysis.model_card import write_card

    one_of("model in a package", name, PACKAGES)
    write_card(name)
    echo(f"{os.path.relpath(paths.MODELS / name / 'README.md')} says how well {name} does.")
