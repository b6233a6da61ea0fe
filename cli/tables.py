"""Tables on a terminal, fitted to its width by rich."""

from rich.console import Console
from rich.table import Table


def on_terminal(head: list[str], numbers: list[bool], rows: list[list[str]]) -> None:
    """``numbers``: which columns stand on the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name, number in zip(head, numbers, strict=True):
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    Console(markup=False, highlight=False, emoji=False).print(made)
