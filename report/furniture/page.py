"""How the pages speak of results: a guard for a sentence, and the models that numbers are of."""

from typing import Any

from IPython import get_ipython
from IPython.display import Markdown

from analysis.studies import Studied, exact_model, is_testbed

_GUARD = """\
::: {{.callout-warning .claim title="Does this hold here?"}}
What follows was written for other results, and does not hold for {models} with {prompts}
prompts per task.
:::"""


def claim(holds: bool, *beside: Studied) -> Markdown | None:
    """Nothing where a sentence holds; where it doesn't, a callout that says so to the reader.

    A sentence is about the exact model and the ones `beside` it.
    """
    if holds:
        return None
    names = [f"`{about.name}`" for about in (exact_model(), *beside)]
    models = f"the model{'s' * bool(beside)} {' and '.join(names)}"
    return Markdown(_GUARD.format(models=models, prompts=exact_model().prompts))


def badge(*beside: Studied) -> Markdown:
    """Which model the page's numbers are of, and which language models it shows beside it."""
    name = exact_model().name
    what = "4-layer testbed" if is_testbed(name) else "not the shipped testbed"
    others = "".join(f"; `{about.name}`, language model" for about in beside)
    return Markdown(f"[Model{'s' * bool(beside)}: `{name}`, {what}{others}]{{.badge}}")


def _write_as_it_is(text: str, printer: Any, _: bool) -> None:
    printer.text(f"'{text}'")


# Quarto takes an inline string from its repr, in which a no-break space would stand as "\xa0".
if shell := get_ipython():
    shell.display_formatter.formatters["text/plain"].for_type(str, _write_as_it_is)
