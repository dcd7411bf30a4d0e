"""Prompt pairs from a CSV file, with the columns that EAP-IG's data sets use."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from reprlib import repr as short_repr

from transformer_lens.model_bridge import TransformerBridge

from analysis.metrics import logit_diff, prob_diff
from analysis.tasks.greater_than import labels_after
from analysis.tasks.pairs import PromptPairs, build_pairs
from analysis.tasks.reading import Vocabulary
from analysis.tasks.task import Example

_ANSWERS = (
    ("correct_idx", "incorrect_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("country_idx", "corrupted_country_idx"),
    ("correct", "incorrect"),
)
_YEAR = "correct_idx"


def read_csv(path: Path, model: TransformerBridge, n: int | None = None) -> PromptPairs:
    """The first `n` rows (all, if None) that are usable with `model`, in the file's order.

    Columns: `clean` and `corrupted`, the prompts verbatim; and the answers, in one of these forms:

    - `correct_idx` and `incorrect_idx`, `clean_answer_idx` and `corrupted_answer_idx`, or
      `country_idx` and `corrupted_country_idx`: token ids of the model's vocabulary;
    - `correct` and `incorrect`: texts that add one token to either prompt;
    - `correct_idx` alone: a two-digit start year (7 means 07), scored by probability difference.

    Several ids or texts in one cell are a JSON list: `[12, 34]`, `[" a", " b"]`. Other columns
    and blank lines are ignored.
    """
    columns, rows = _table(path, _text(path))
    answers = next((both for both in _ANSWERS if set(both) <= set(columns)), None)
    if answers is None and _YEAR not in columns:
        forms = ", ".join(" and ".join(both) for both in _ANSWERS)
        raise ValueError(
            f"{path} has no columns for the answers: expected {forms}, or {_YEAR} alone with a "
            f"two-digit year; it has {', '.join(columns)}."
        )
    examples = _examples(rows, answers, Vocabulary(model).tokens)
    return build_pairs(str(path), logit_diff if answers else prob_diff, examples, model, n)


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
        fault = text.find("\0")
    except UnicodeDecodeError as error:
        text, fault = "", error.start
    if fault >= 0:
        raise ValueError(
            f"{path} is not UTF-8 text (line {data[:fault].count(10) + 1}): save it as UTF-8, "
            "unpacked if it is compressed."
        )
    if text.startswith("version https://git-lfs.github.com/spec/"):
        raise ValueError(f"{path} is a Git LFS pointer: fetch the file itself with `git lfs pull`.")
    return text


def _table(path: Path, text: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The columns' names, and each row's cells by where it is: `my.csv, row 2 (line 4)`."""
    records = list(_records(path, text))
    if len(records) < 2:
        raise ValueError(f"{path} is empty or has no rows: expected a header and pairs below it.")
    columns = [cell.strip() for cell in records[0][1]]
    for name in columns:
        if name and columns.count(name) > 1:
            raise ValueError(f"{path} has two columns {name!r}: leave one out.")
    missing = [name for name in ("clean", "corrupted") if name not in columns]
    for name in missing:
        for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in "".join(columns):
                raise ValueError(f"{path} has {word} between its columns: commas are expected.")
        raise ValueError(f"{path} has no column {name!r}: it has {', '.join(columns)}.")
    rows = {}
    for number, (line, cells) in enumerate(records[1:], start=1):
        where = f"{path}, row {number} (line {line})"
        if len(cells) != len(columns):
            raise ValueError(
                f"{where}: the header has {len(columns)} cells and this row has {len(cells)}: put "
                "prompts that hold a comma in double quotes."
            )
        rows[where] = dict(zip(columns, cells, strict=True))
    return columns, rows


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number in the file."""
    reader, line = csv.reader(StringIO(text, newline=""), strict=True), 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: invalid CSV ({error}): close every double quote, and double "
            "those inside a quoted prompt."
        ) from error


def _examples(
    rows: dict[str, dict[str, str]], answers: tuple[str, str] | None, tokens: frozenset[int]
) -> Iterator[list[Example]]:
    """Each row's example; without columns of answers, the right ones are the later years."""
    for where, cells in rows.items():
        try:
            if answers is not None:
                right, wrong = (_labels(column, cells[column], tokens) for column in answers)
            elif (year := _whole(cells[_YEAR])) in range(100):
                right, wrong = labels_after(year)
            else:
                held = short_repr(cells[_YEAR])
                raise ValueError(f"{_YEAR} holds {held}, expected a two-digit year, 0 to 99.")
        except ValueError as error:
            raise ValueError(f"{where}: column {error}") from None
        yield [Example(cells["clean"], cells["corrupted"], right, wrong, completes=not answers)]


def _labels(column: str, cell: str, tokens: frozenset[int]) -> tuple[str | int, ...]:
    """What a cell holds, one answer or those of a JSON list: ids in a column `..._idx`."""
    kind, like = (int, "[12, 34]") if column.endswith("_idx") else (str, '[" a", " b"]')
    held, items = f"{column} holds {short_repr(cell)}, expected", [cell]
    if cell.strip().startswith("[") and cell.strip() != "[":
        try:
            items = json.loads(cell)
            fits = all(type(item) is kind for item in items)
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise ValueError(f"{held} one answer or a JSON list such as {like}.")
    if kind is str:
        return tuple(items)
    ids = [_whole(item) for item in items]
    if not tokens.issuperset(ids):
        raise ValueError(
            f"{held} ids of tokens: the model's tokenizer has {len(tokens)}, 0 to {max(tokens)}."
        )
    return tuple(ids)


def _whole(item: str | int) -> int:
    """The number that a cell holds, -1 where it holds something else."""
    digits = str(item).strip()
    return int(digits) if digits.isdecimal() and len(digits) < 12 else -1
