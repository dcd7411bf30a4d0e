"""The studies: each measures one thing and returns one tidy frame.

A study takes a model, `n` prompts a task, the `seed` that draws them, `progress` (None shows a bar
on a terminal) and the names of its `tasks`. Its frame has key columns such as task, direction and
kind, what was measured in the column statistic, and the number with its 95 % interval over
prompts in estimate, low and high; n counts the prompts behind it. It takes seconds to minutes on
the testbed and hours on GPT-2 small; what is in `data/results` already is read. Begin with `n=4`
and one task.

Examples:
    >>> from analysis.agreement import Estimate
    >>> from analysis.studies import language_model, one, exact_model, tidy, wide
    >>> exact_model()
    Studied(name='testbed', prompts=100)
    >>> language_model()
    Studied(name='smollm2', prompts=100)
    >>> rows = [{"task": "ioi", "kind": "heads", "estimate": Estimate(0.9, 0.1, 0.8, 1.0)}]
    >>> tidy(rows).columns
    ['task', 'kind', 'estimate', 'low', 'high', 'n']
    >>> one(tidy(rows), task="ioi").mean
    0.9
    >>> wide(tidy(rows), by="kind", keys=["task"]).row(0)
    ('ioi', '0.90\\xa0[0.80,\\xa01.00]')
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis import paths
from analysis.agreement import Estimate
from analysis.attribution import Scores, activation_patching, integrated_gradients
from analysis.choices import DIRECTIONS, Direction
from analysis.models import available_testbeds, load_model, load_untrained
from analysis.sources import find
from analysis.studies import store
from analysis.tasks import TASKS, PromptPairs, load_task

# What stands for a model's name where an untrained network of the exact model's shape is meant.
UNTRAINED = "untrained"
PROMPTS = 100
FEW_PROMPTS = 12  # where several models or all pairs of layers are measured
_NAN = float("nan")
Scored = tuple[PromptPairs, Scores, Scores]  # of a task in a direction: prompts, AP and IG


class Studied(NamedTuple):
    """A model that the report is about, by its name, and the number of prompts per task."""

    name: str
    prompts: int

    @property
    def model(self) -> TransformerBridge:
        """The model, loaded once a process."""
        return loaded(self.name)


def exact_model() -> Studied:
    """The model in which everything is exact, as `ANALYSIS_TESTBED` and `ANALYSIS_PROMPTS` say.

    Where they are unset it is the testbed, and 100 prompts per task.

    Raises:
        ValueError: where `ANALYSIS_PROMPTS` is no number of prompts.
    """
    return Studied(os.environ.get("ANALYSIS_TESTBED", "testbed"), _prompts())


def language_model() -> Studied:
    """The language model beside the testbed, as `ANALYSIS_MODEL` says; SmolLM2 where it is unset.

    Nothing is loaded before `.model` is asked for. Raises as `exact_model` does.
    """
    return Studied(os.environ.get("ANALYSIS_MODEL", "smollm2"), _prompts())


def _prompts() -> int:
    prompts = os.environ.get("ANALYSIS_PROMPTS", str(PROMPTS))
    if not prompts.isdecimal() or int(prompts) < 1:
        raise ValueError(f"ANALYSIS_PROMPTS={prompts!r} was given: expected a whole number from 1.")
    return int(prompts)


def loaded(name: str) -> TransformerBridge:
    """`load_model(name)`, or the control for the name `untrained`, loaded once a process.

    The control has the shape of the exact model and the weights that training began at.
    """
    return _untrained(exact_model().name) if name == UNTRAINED else _trained(name)


_trained, _untrained = functools.cache(load_model), functools.cache(load_untrained)


def is_testbed(name: str) -> bool:
    """Whether a name is of a model that ships with the project, and not of a directory here."""
    return name in available_testbeds() and find(name).place == paths.MODELS / name


def models_compared() -> list[str]:
    """Every testbed if the report is about one, else the exact model; and the control."""
    name = exact_model().name
    return [*(available_testbeds() if is_testbed(name) else [name]), UNTRAINED]


def both_methods(
    model: TransformerBridge,
    n: int = PROMPTS,
    seed: int = 0,
    progress: bool | None = None,
    tasks: Iterable[str] = tuple(TASKS),
    directions: Iterable[Direction] = DIRECTIONS,
) -> Iterator[Scored]:
    """Each task's prompts with AP's and IG's scores in each direction, which studies share."""
    for task, direction in product(tasks, directions):
        pairs = load_task(task, model, n=n, seed=seed)
        settings: dict[str, Any] = {"direction": direction, "progress": progress}
        ap = store.scores(activation_patching, model, pairs, **settings)
        yield pairs, ap, store.scores(integrated_gradients, model, pairs, **settings)


def tidy(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame: their keys first, the numbers last, NaN as null.

    A row may lack any of estimate, low, high and n, or have an `Estimate` in their stead.
    """
    numbers = {"estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64}
    plain = []
    for row in rows:
        found = row.get("estimate")
        if isinstance(found, Estimate):
            row = {**row, "estimate": found.mean, "low": found.low, "high": found.high}
        plain.append(dict.fromkeys(numbers) | dict(row))
    frame = pl.DataFrame(plain, infer_schema_length=None)
    cast = [pl.col(name).cast(dtype) for name, dtype in numbers.items()]
    return frame.select(pl.exclude(*numbers), *cast).fill_nan(None)


def one(frame: pl.DataFrame, **columns: Any) -> Estimate:
    """The single estimate in the row with these values.

    Raises:
        ValueError: where no row has them, or several.
    """
    rows = frame.filter(**columns)
    if rows.height != 1:
        wanted = ", ".join(f"{name}={value!r}" for name, value in columns.items())
        raise ValueError(f"{rows.height} rows have {wanted}: expected one.")
    (found,) = _estimates(rows)
    return found


def wide(
    frame: pl.DataFrame, by: str, keys: list[str], names: Iterable[str] | None = None
) -> pl.DataFrame:
    """Estimates with intervals as text, a row for `keys` and a column for each value of `by`.

    `names` chooses and orders the columns; by default all, in the frame's order. A dash stands
    where there is no estimate.
    """
    text = pl.Series("text", map(str, _estimates(frame)), dtype=pl.String)
    texts = frame.with_columns(text).pivot(by, index=keys, values="text", maintain_order=True)
    shown = [name for name in names or texts.columns if name in texts.columns and name not in keys]
    return texts.select(*keys, *shown).with_columns(pl.col(shown).fill_null("–"))


def _estimates(frame: pl.DataFrame) -> list[Estimate]:
    rows = frame.select(pl.col("estimate", "low", "high").fill_null(_NAN)).rows()
    return [Estimate(mean, _NAN, low, high) for mean, low, high in rows]
