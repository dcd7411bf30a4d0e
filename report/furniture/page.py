"""How the pages speak of results: a guard for a sentence, and the model that numbers are of."""

from typing import Any

from IPython import get_ipython
from IPython.display import Markdown

from analysis.studies import is_testbed, record

_GUARD = """\
::: {{.callout-warning .claim title="Does this hold here?"}}
What follows was written for other results, and does not hold for the model `{model}` with {prompts}
prompts per task.
:::"""


def claim(holds: bool) -> Markdown | None:
    """Nothing where a sentence holds; where it doesn't, a callout that says so to the reader."""
    if holds:
        return None
    about = record()
    return Markdown(_GUARD.format(model=about.name, prompts=about.prompts))


def badge() -> Markdown:
    """Which model the page's numbers are of."""
    name = record().name
    what = "4-layer testbed" if is_testbed(name) else "not the shipped testbed"
    return Markdown(f"[Model: `{name}`, {what}]{{.badge}}")


def _write_as_it_is(text: str, printer: Any, _: bool) -> None:
    printer.text(f"'{text}'")


# Quarto takes an inline string from its repr, in which a no-break space would stand as "\xa0".
if shell := get_ipython():
    shell.display_formatter.formatters["text/plain"].for_type(str, _write_as_it_is)
