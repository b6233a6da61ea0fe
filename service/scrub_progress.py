"""How far a scrub is, for those who wait for it."""

from engine.scrub import ScrubResult
from engine.superblock import BLOCK_BYTES
from service.addresses import Context


def progress(context: Context) -> str | None:
    """How far the scrub that runs has come."""
    result = context.running.get("scrub")
    if not isinstance(result, ScrubResult):
        return None
    percent = 100 * result.slots_passed // max(result.slots, 1)
    checked = result.blocks_checked * BLOCK_BYTES >> 20
    speed = checked / result.read_s if result.read_s else 0
    return f"scrub: {percent} %, {checked:,} MiB checked, {speed:,.0f} MiB/s"
