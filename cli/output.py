"""How results look: JSON for programs, lines and tables in IEC units for people."""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any
from unicodedata import combining, east_asian_width

import click

from cli.later import tables
from cli.settings import settings

Result = dict[str, Any] | list[dict[str, Any]]
LAYOUT = "\n\t"  # of a text of several lines


def show(result: Result) -> None:
    told = settings()
    if told.as_json:
        click.echo(json.dumps(result))
    elif told.quiet:
        return
    elif isinstance(result, list):
        table(result)
    else:
        for key, value in result.items():
            if key == "dry_run" and not value:
                continue
            if isinstance(value, list) and value and isinstance(value[0], dict):
                table(value)
            elif value is not None:
                lines(key, value)


class Stream(list[Any]):
    """A list of a JSON document that is made while it is written, and never held whole."""

    def __init__(self, rows: Iterator[Any]) -> None:
        super().__init__(itertools.islice(rows, 1))
        self._more = rows

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(super().__iter__(), self._more)


def stream_json(document: dict[str, Any]) -> None:
    """Print a document with ``Stream`` lists in it; its parts are asked for in their order."""
    for piece in json.JSONEncoder().iterencode(document):
        sys.stdout.write(piece)
    click.echo()


class Progress:
    """One line on stderr that is written over; nothing unless that is a terminal."""

    EVERY_S = 0.5

    def __init__(self) -> None:
        self._next = 0.0
        self._wide = 0
        self.wanted = sys.stderr.isatty() and not settings().quiet

    def tell(self, text: str | None) -> None:
        """At most twice a second; None takes the line away."""
        if not self.wanted or not (text or self._wide):
            return
        if text and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.EVERY_S
        line = text or ""
        sys.stderr.write("\r" + line.ljust(self._wide) + ("" if line else "\r"))
        sys.stderr.flush()
        self._wide = len(line)


def lines(key: str, value: Any) -> None:
    head = f"{title(key) + ':':<14}"
    if isinstance(value, list):
        click.echo(f"{head}{len(value)}")
        for each in value:
            click.echo(f"  {printable(str(each))}")
    elif "\n" in str(value):
        click.echo(f"{head}\n{printable(str(value), keep=LAYOUT)}")
    else:
        click.echo(f"{head}{text(key, value)}")


def table(rows: list[dict[str, Any]]) -> None:
    """Aligned columns, numbers on the right; on a terminal as wide as that, else whole lines."""
    if not rows:
        return
    head = [title(key) for key in rows[0]]
    numbers = [
        key.endswith("_bytes") or any(isinstance(row[key], int) for row in rows) for key in rows[0]
    ]
    cells = [[text(key, value) for key, value in row.items()] for row in rows]
    if sys.stdout.isatty():
        tables.on_terminal(head, numbers, cells)
    else:
        plain(head, numbers, cells)


def plain(head: list[str], numbers: list[bool], cells: list[list[str]]) -> None:
    lines = [head, *cells]
    widths = [max(map(columns, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        parts = []
        for each, wide, number in zip(line, widths, numbers, strict=True):
            pad = " " * (wide - columns(each))
            parts.append(pad + each if number else each + pad)
        click.echo("  ".join(parts))


def columns(text: str) -> int:
    """How wide a terminal shows it: East Asian signs take two columns, accents none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def title(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


def text(key: str, value: Any) -> str:
    """IEC units for sizes, yes and no, a dash for nothing; control characters never raw."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(printable(str(each)) for each in value) or "-"
    if key.endswith("_bytes"):
        return size(float(value))
    return printable(str(value))


def printable(text: str, *, keep: str = "") -> str:
    """A name may hold what makes a terminal do things, or half a character: written out instead."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
