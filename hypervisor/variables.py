"""Variables of clones from a file: one row per clone, columns by name.

CSV with a header line, or JSON: a list of objects with the same keys.  Every value is one line of
text (or, in JSON, a whole number or a boolean), so that it can stand in a template; whatever is
wrong is told with its row.
"""

import csv
import io
import json
import re
from typing import Any

from engine import errors
from hypervisor.patterns import Value

ROWS_MAX = 100_000
VALUE_MAX = 4096  # characters
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_INT_MAX = 1 << 53
_BUILT_IN = re.compile(r"n|hostname|uuid|machine_id|instance_id|mac[0-9]*")
"""What Ramet sets for each clone; ``name`` too, unless a column has that name."""

Row = dict[str, Value]


def read(text: str, name: str) -> list[Row]:
    """The rows of a file; ``name`` ends in .json for JSON.  InvalidArgument names the row."""
    text = text.removeprefix("\ufeff")
    try:
        rows = _json_rows(text) if name.endswith(".json") else _csv_rows(text)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"{name}: {error}") from None
    if not rows:
        raise errors.InvalidArgument(f"{name} has no rows; write one for each clone")
    return rows


def _csv_rows(text: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue  # an empty line
            if header is None:
                header = [cell.strip() for cell in cells]
                _check_columns(header)
                continue
            where = f"row {len(rows) + 1} (line {reader.line_num})"
            if len(cells) != len(header):
                raise errors.InvalidArgument(
                    f"{where} has {len(cells)} values for {len(header)} columns; "
                    'put values with a comma in "quotes"'
                )
            rows.append(dict(zip(header, cells, strict=True)))
            _check_row(where, rows)
    except csv.Error as error:
        raise errors.InvalidArgument(f"line {reader.line_num} is no CSV: {error}") from None
    return rows


def _json_rows(text: str) -> list[Row]:
    try:
        found = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidArgument(f"this is no JSON: {error}") from None
    if not isinstance(found, list):
        raise errors.InvalidArgument("write a JSON list with one object for each clone")
    rows: list[Row] = []
    for n, each in enumerate(found, 1):
        if not isinstance(each, dict):
            raise errors.InvalidArgument(f'row {n} is no object; write {{"column": value}}')
        rows.append(each)
        if n == 1:
            _check_columns(list(each))
        if each.keys() != rows[0].keys():
            odd = sorted(each.keys() ^ rows[0].keys())
            raise errors.InvalidArgument(f"row {n}: every row needs the same keys; see {odd[0]!r}")
        _check_row(f"row {n}", rows)
    return rows


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise errors.InvalidArgument(f"a key stands twice in one object: {[k for k, _ in pairs]}")
    return made


def _check_columns(columns: list[str]) -> None:
    for column in columns:
        if not _COLUMN.fullmatch(column):
            raise errors.InvalidArgument(
                f"{column[:60]!r} is no column name; use letters, digits and _ (first a letter)"
            )
        if _BUILT_IN.fullmatch(column):
            raise errors.InvalidArgument(
                f"column {column!r} has the name of a variable that each clone has; rename it"
            )
    if len(set(columns)) < len(columns):
        raise errors.InvalidArgument("two columns have the same name; rename one")


def _check_row(where: str, rows: list[Row]) -> None:
    if len(rows) > ROWS_MAX:
        raise errors.InvalidArgument(f"more than {ROWS_MAX} rows; clone in several runs")
    for column, value in rows[-1].items():
        if isinstance(value, str):
            good = len(value) <= VALUE_MAX and (value.isprintable() or not value)
        else:
            good = isinstance(value, int) and abs(value) < _INT_MAX
        if not good:
            raise errors.InvalidArgument(
                f"{where}: {column} must be one line of text of at most {VALUE_MAX} characters"
                ", or in JSON a whole number or true or false"
            )
