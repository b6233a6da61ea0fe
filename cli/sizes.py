"""Sizes as people write them: 4096, 100M, 10GiB.  IEC units, whatever the spelling."""

import re
from typing import Any

import click

_SIZE = re.compile(r"(\d{1,18})\s*(?:([KMGTP])(?:i?B)?|B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}


class Size(click.ParamType[int]):
    """A click type: text to bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        size = int(match[1]) << _POWERS[(match[2] or "").upper()] if match else -1
        if not 0 <= size < 1 << 63:
            self.fail(f"{value!r} is no size; write 4096, 100M or 10GiB", param, ctx)
        return size
