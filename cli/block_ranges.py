"""``SRCBLK:DSTBLK:COUNT`` on the command line."""

import re

import click

from engine.block_range import BlockRange

_FORM = re.compile(r"(\d{1,15}):(\d{1,15}):(\d{1,15})", re.ASCII)


class Range(click.ParamType[BlockRange]):
    """A block range; nothing but plain decimal numbers."""

    name = "SRCBLK:DSTBLK:COUNT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> BlockRange:
        if isinstance(value, BlockRange):
            return value
        found = _FORM.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r}: write SRCBLK:DSTBLK:COUNT, as in 0:2048:512", param, ctx)
        return BlockRange(*map(int, found.groups()))


RANGE = Range()
