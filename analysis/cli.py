"""The command line: `analysis`, or `python -m analysis`. Scores of one's own are for Python."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from analysis import paths

app = typer.Typer(
    help="When do integrated gradients and activation patching agree? Compute the report's "
    "studies, make its pages, and measure and train what it uses.",
    epilog="To score components on prompts of your own, call the library from Python: "
    "README.md shows how.",
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


def _need(met: bool, sentence: str) -> None:
    if not met:
        raise ValueError(sentence)


@app.command()
def run(
    model: Annotated[
        str,
        typer.Option(
            help="testbed, gpt2-small, a hub id or a directory; if unset, the one named in "
            "ANALYSIS_MODEL, else testbed."
        ),
    ] = "",
    n: Annotated[
        int | None, typer.Option(help="Prompts a task; if unset, as many as the report shows.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which prompts are drawn.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw the README's picture, an .svg file.")
    ] = None,
) -> None:
    """Compute every study that the report shows, and keep the results for its pages.

    What was computed before is not computed again.
    """
    from analysis import charts
    from analysis.studies import model_of_record
    from analysis.studies.aligned_baselines import PROMPTS, aligned_baselines
    from analysis.studies.everything import everything

    if model:
        os.environ["ANALYSIS_MODEL"] = model  # which the studies' processes inherit
    prompts = PROMPTS if n is None else n
    everything(prompts, seed)
    study = aligned_baselines(model_of_record(), n=prompts, seed=seed)
    for task, direction, kind in study.cells():
        r = study.estimate(task, kind, direction=direction)
        typer.echo(
            f"{task:16} {direction:10} {kind:8} r of the means {r.mean:.3f} "
            f"[{r.low:.3f}, {r.high:.3f}]"
        )
    if picture:
        chart = charts.plot_correlation_comparison(study.scores_of("ioi"), study.labels("ioi"))
        picture.parent.mkdir(parents=True, exist_ok=True)
        chart.save(picture)
    typer.echo(f"Results are kept in {os.path.relpath(paths.RESULTS)}.")


@app.command()
def bench(
    json: Annotated[
        Path | None, typer.Option(help="Where to write every measurement, a .json file.")
    ] = None,
    mediation: Annotated[
        bool,
        typer.Option(
            "--mediation",
            help="Instead, time what every neuron changes in every later one, on one prompt.",
        ),
    ] = False,
) -> None:
    """Time both methods beside a hook loop and Captum, in about five minutes.

    On a network of GPT-2 small's shape and on the testbed. Needs Captum.
    """
    _need(
        find_spec("captum") is not None,
        "bench times Captum too, which is not installed: in a clone of the project, "
        "pip install '.[dev]'.",
    )
    from analysis.bench.measure import bench as measure
    from analysis.bench.mediation import bench_mediation
    from analysis.bench.results import Bench, MediationBench

    found = MediationBench(bench_mediation()) if mediation else Bench(measure())
    typer.echo(found.text())
    if json:
        found.write(json)
        typer.echo(f"Every measurement is in {json}.")


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="The model's folder in data/models.")],
    seed: Annotated[int, typer.Option(help="Decides the weights and the order of the texts.")],
) -> None:
    """Train a testbed model on generated text, in a clone of the project.

    An interrupted run goes on where it was.
    """
    _need(
        paths.IN_CLONE,
        "train writes to data/models of a clone of the project: get one with git clone, and run "
        "make test there once.",
    )
    _need(
        re.fullmatch(r"[\w-]+", name) is not None,
        f"the model's folder {name!r} was given: expected a name of letters, digits and dashes.",
    )
    from analysis.testbed.card import write_card
    from analysis.testbed.train import train as train_model

    directory = train_model(paths.MODELS / name, seed)
    write_card(directory)
    typer.echo(f"{name} is trained: {os.path.relpath(directory / 'README.md')} says how well.")


@app.command()
def bundle(
    script: Annotated[Path, typer.Argument(help="Where the script goes, a .js file.")],
) -> None:
    """Write the script that draws the pages' charts; Quarto's render does so by itself."""
    from analysis.charts import write_script

    write_script(script)


@app.command()
def reference(
    folder: Annotated[Path, typer.Argument(help="Where the pages go.")] = Path("report/reference"),
) -> None:
    """Write the reference's pages, from the library's docstrings."""
    from analysis.reference import write_reference

    write_reference(folder, app)


@app.command()
def offline(
    site: Annotated[
        Path,
        typer.Argument(
            envvar="QUARTO_PROJECT_OUTPUT_DIR", help="The folder that Quarto rendered to."
        ),
    ] = Path("_site"),
) -> None:
    """Make Quarto's pages read the same from disk, and need no other host."""
    from analysis.offline import make_offline

    make_offline(site)


@app.command()
def preview(
    source: Annotated[Path, typer.Argument(help="The folder of documents.")] = Path("report"),
    site: Annotated[Path, typer.Argument(help="Where the pages go.")] = Path("_site"),
) -> None:
    """Make plain pages of the report where Quarto is not installed, in a clone of the project."""
    _need(
        source.is_dir(),
        f"there is no folder {str(source)!r} here: run preview in a clone of the project, or name "
        "the folder of documents.",
    )
    from analysis.preview import render

    reference(source / "reference")
    render(source, site)
    typer.echo(
        f"This is a plain preview of the paper, in {site / 'index.html'}; for the paper itself "
        "install Quarto (https://quarto.org, or pip install '.[quarto]') and run this again."
    )
