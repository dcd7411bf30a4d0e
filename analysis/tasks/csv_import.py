"""Prompt pairs from a CSV file, with the columns that EAP-IG's data sets use."""

import csv
import json
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from reprlib import repr as short_repr
from typing import NamedTuple

from transformer_lens.model_bridge import TransformerBridge

from analysis.metrics import Metric, logit_diff, prob_diff
from analysis.tasks.example import Example
from analysis.tasks.greater_than import labels_after
from analysis.tasks.pairs import PromptPairs, build_pairs
from analysis.tasks.vocabulary import Vocabulary

_PROMPT_COLUMNS = ("clean", "corrupted")
_ID_COLUMNS = (
    ("correct_idx", "incorrect_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("country_idx", "corrupted_country_idx"),
)
_TEXT_COLUMNS = ("correct", "incorrect")
_YEAR_COLUMN = "correct_idx"
_LFS = "version https://git-lfs.github.com/spec/"


class _Row(NamedTuple):
    """A row by its columns' names, and where it stands: `row 2 (line 4)`."""

    name: str
    cells: dict[str, str]


Answers = Callable[[dict[str, str]], tuple[tuple[str | int, ...], tuple[str | int, ...]]]


def read_csv(path: Path, model: TransformerBridge, n: int | None = None) -> PromptPairs:
    """The first `n` rows (all, if None) that are usable with `model`, in the file's order.

    Columns: `clean` and `corrupted`, the prompts verbatim; and the answers, in one of these forms:

    - `correct_idx` and `incorrect_idx`, `clean_answer_idx` and `corrupted_answer_idx`, or
      `country_idx` and `corrupted_country_idx`: token ids of the model's vocabulary;
    - `correct` and `incorrect`: texts that add one token to either prompt;
    - `correct_idx` alone: a two-digit start year (7 means 07), scored by probability difference.

    Several ids or texts in one cell are a JSON list: `[12, 34]`, `[" a", " b"]`. Other columns
    and blank lines are ignored. A prompt that holds a comma stands in double quotes.

    Raises:
        ValueError: for a file that is missing, empty or not CSV in UTF-8, a missing column, a row
            of too many or too few cells, a value that is not an id or year, and for all that
            `build_pairs` raises.

    Examples:
        >>> import csv
        >>> from pathlib import Path
        >>> from analysis import load_model
        >>> from analysis.tasks.csv_import import read_csv
        >>> prompts = [f"When Mary and John ran, {name} saw" for name in ("John", "Mary")]
        >>> rows = [["clean", "corrupted", "correct", "incorrect"], [*prompts, " Mary", " John"]]
        >>> with open("runners.csv", "w", newline="") as file:
        ...     csv.writer(file).writerows(rows)
        >>> read_csv(Path("runners.csv"), load_model("testbed")).clean
        ['When Mary and John ran, John saw']
    """
    columns, rows = _table(path, _text(path))
    metric, labels = _answers(path, columns, Vocabulary(model).tokens)
    examples = _examples(path, rows, labels, completes=labels is _later_years)
    return build_pairs(str(path), metric, examples, model, n)


def _text(path: Path) -> str:
    """What the file holds."""
    try:
        if not path.exists():
            raise ValueError(f"There is no file {path}: give a task's name or a CSV file.")
        if not path.is_file():
            raise ValueError(f"{path} is a directory or a device: give a CSV file.")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        text = data.decode("utf-8-sig")
        readable, end = "\0" not in text, text.find("\0")
    except UnicodeDecodeError as error:
        text, readable, end = "", False, error.start
    if not readable:
        raise ValueError(
            f"{path} is not UTF-8 text (line {data[:end].count(10) + 1}): save it as UTF-8, "
            "unpacked if it is compressed."
        )
    if text.startswith(_LFS):
        raise ValueError(f"{path} is a Git LFS pointer: fetch the file itself with `git lfs pull`.")
    return text


def _table(path: Path, text: str) -> tuple[list[str], list[_Row]]:
    """The columns' names, and the rows below them."""
    records = list(_records(path, text))
    if not records:
        raise ValueError(f"{path} is empty: a header and one prompt pair a row are expected.")
    columns = [cell.strip() for cell in records[0][1]]
    _check_header(path, columns)
    if len(records) == 1:
        raise ValueError(f"{path} has no rows: one prompt pair a row is expected.")
    rows = []
    for number, (line, cells) in enumerate(records[1:], start=1):
        name = f"row {number} (line {line})"
        if len(cells) != len(columns):
            raise ValueError(
                f"{path}, {name}: the header has {len(columns)} cells and this row has "
                f"{len(cells)}: put prompts that hold a comma in double quotes."
            )
        rows.append(_Row(name, dict(zip(columns, cells, strict=True))))
    return columns, rows


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number in the file."""
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: invalid CSV ({error}): close every double quote, and "
                "double those inside a quoted prompt."
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _check_header(path: Path, columns: list[str]) -> None:
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has two columns {twice[0]!r}: leave one out.")
    missing = [name for name in _PROMPT_COLUMNS if name not in columns]
    if not missing:
        return
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(separator in name for name in columns):
            raise ValueError(f"{path} has {word} between its columns: commas are expected.")
    raise ValueError(f"{path} has no column {missing[0]!r}: it has {', '.join(columns)}.")


def _answers(path: Path, columns: list[str], tokens: frozenset[int]) -> tuple[Metric, Answers]:
    """How the file's columns give a row's right and wrong labels, and the metric they are for."""
    for right, wrong in _ID_COLUMNS:
        if right in columns and wrong in columns:
            return logit_diff, lambda row, right=right, wrong=wrong: (
                _ids(row, right, tokens),
                _ids(row, wrong, tokens),
            )
    if all(column in columns for column in _TEXT_COLUMNS):
        return logit_diff, lambda row: (_items(row, "correct", str), _items(row, "incorrect", str))
    if _YEAR_COLUMN in columns:
        return prob_diff, _later_years
    expected = ", ".join(" and ".join(pair) for pair in (*_ID_COLUMNS, _TEXT_COLUMNS))
    raise ValueError(
        f"{path} has no columns for the answers: {expected}, or {_YEAR_COLUMN} alone with a "
        f"two-digit year are expected; it has {', '.join(columns)}."
    )


def _items(row: dict[str, str], column: str, kind: type) -> tuple:
    """What a cell holds: one value, or those of a JSON list."""
    cell = row[column]
    if not cell.strip().startswith("[") or cell.strip() == "[":
        return (cell,)
    try:
        items = json.loads(cell)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or any(type(item) is not kind for item in items):
        like = {int: "[12, 34]", str: '[" a", " b"]'}[kind]
        raise ValueError(
            f"column {column} holds {short_repr(cell)}, expected one answer or a JSON list "
            f"such as {like}."
        )
    return tuple(items)


def _ids(row: dict[str, str], column: str, tokens: frozenset[int]) -> tuple[int, ...]:
    values = [_whole(item) for item in _items(row, column, int)]
    if not tokens.issuperset(values):
        raise ValueError(
            f"column {column} holds {short_repr(row[column])}, expected ids of tokens: the model's "
            f"tokenizer has {len(tokens)}, 0 to {max(tokens)}."
        )
    return tuple(values)


def _later_years(row: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    cell = row[_YEAR_COLUMN]
    if (year := _whole(cell)) not in range(100):
        raise ValueError(
            f"column {_YEAR_COLUMN} holds {short_repr(cell)}, expected a two-digit year, 0 to 99."
        )
    return labels_after(year)


def _whole(item: str | int) -> int:
    """The number that a cell holds, -1 where it holds something else."""
    digits = str(item).strip()
    return int(digits) if digits.isdecimal() and len(digits) < 12 else -1


def _examples(
    path: Path, rows: list[_Row], labels: Answers, completes: bool
) -> Iterator[list[Example]]:
    for row in rows:
        try:
            right, wrong = labels(row.cells)
        except ValueError as error:
            raise ValueError(f"{path}, {row.name}: {error}") from None
        clean, corrupted = (row.cells[column] for column in _PROMPT_COLUMNS)
        yield [Example(clean, corrupted, right, wrong, completes=completes)]
