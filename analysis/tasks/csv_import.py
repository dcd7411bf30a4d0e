"""Prompt pairs from a CSV file, with the columns that EAP-IG's data sets use."""

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
from transformer_lens.model_bridge import TransformerBridge

from analysis.metrics import Metric, logit_diff, prob_diff
from analysis.tasks.example import Example
from analysis.tasks.greater_than import labels_after
from analysis.tasks.pairs import PromptPairs, build_pairs

_ID_COLUMNS = (
    ("correct_idx", "incorrect_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("country_idx", "corrupted_country_idx"),
)
_TEXT_COLUMNS = ("correct", "incorrect")
_YEAR_COLUMN = "correct_idx"


def read_csv(path: Path, model: TransformerBridge, n: int | None = None) -> PromptPairs:
    """The first `n` rows (all, if None) that are usable with `model`, in the file's order.

    Columns: `clean` and `corrupted`, the prompts verbatim; and the answers, in one of these forms:

    - `correct_idx` and `incorrect_idx`, `clean_answer_idx` and `corrupted_answer_idx`, or
      `country_idx` and `corrupted_country_idx`: token ids of the model's vocabulary;
    - `correct` and `incorrect`: texts of one token;
    - `correct_idx` alone: a two-digit start year (7 means 07), scored by probability difference.

    Raises:
        ValueError: for a missing or empty file, a missing column, a value that is no id or year,
            and for all that `build_pairs` raises.

    Examples:
        >>> from pathlib import Path
        >>> import polars as pl
        >>> from analysis import load_model
        >>> from analysis.tasks.csv_import import read_csv
        >>> rows = pl.DataFrame(
        ...     {
        ...         "clean": ["When Mary and John ran, John saw"],
        ...         "corrupted": ["When Mary and John ran, Mary saw"],
        ...         "correct": [" Mary"],
        ...         "incorrect": [" John"],
        ...     }
        ... )
        >>> rows.write_csv("runners.csv")
        >>> read_csv(Path("runners.csv"), load_model("testbed")).clean
        ['When Mary and John ran, John saw']
    """
    rows = _rows(path)
    metric, labels = _answers(path, rows.columns, model.cfg.d_vocab)
    examples = _examples(path, rows, labels, completes=metric is prob_diff)
    return build_pairs(str(path), metric, examples, model, n)


Answers = Callable[[dict[str, str]], tuple[tuple[str | int, ...], tuple[str | int, ...]]]


def _rows(path: Path) -> pl.DataFrame:
    try:
        rows = pl.read_csv(path, infer_schema=False, glob=False).fill_null("")
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path}: give a task's name or a CSV file.") from error
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} is empty or no CSV file: {error}") from error
    if rows.is_empty():
        raise ValueError(f"{path} has no rows: one prompt pair a row is expected.")
    return rows


def _answers(path: Path, columns: list[str], vocabulary: int) -> tuple[Metric, Answers]:
    """How the file's columns give a row's right and wrong labels, and the metric they are for."""
    missing = [column for column in ("clean", "corrupted") if column not in columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}: it has {', '.join(columns)}.")
    for right, wrong in _ID_COLUMNS:
        if right in columns and wrong in columns:
            return logit_diff, lambda row, right=right, wrong=wrong: (
                (_integer(row, right, vocabulary),),
                (_integer(row, wrong, vocabulary),),
            )
    if all(column in columns for column in _TEXT_COLUMNS):
        return logit_diff, lambda row: ((row["correct"],), (row["incorrect"],))
    if _YEAR_COLUMN in columns:
        return prob_diff, lambda row: labels_after(_integer(row, _YEAR_COLUMN, 100))
    expected = ", ".join(" and ".join(pair) for pair in (*_ID_COLUMNS, _TEXT_COLUMNS))
    raise ValueError(
        f"{path} has no columns for the answers: {expected}, or {_YEAR_COLUMN} alone with a "
        f"two-digit year are expected; it has {', '.join(columns)}."
    )


def _integer(row: dict[str, str], column: str, limit: int) -> int:
    text = row[column].strip()
    if not text.isdecimal() or int(text) >= limit:
        raise ValueError(f"column {column} holds {text!r}, expected a whole number below {limit}.")
    return int(text)


def _examples(
    path: Path, rows: pl.DataFrame, labels: Answers, completes: bool
) -> Iterator[list[Example]]:
    for number, row in enumerate(rows.iter_rows(named=True), start=1):
        try:
            right, wrong = labels(row)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        yield [Example(row["clean"], row["corrupted"], right, wrong, completes=completes)]
