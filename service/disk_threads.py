"""Threads that wait for the store's disk to read (engine/cold.py), for all doors together.

They have a limit of their own, so that a slow disk takes no thread from commits or from calls of a
hypervisor.  As many as a fast disk needs to be busy; who comes when all of them wait, waits too.
"""

import trio

from engine.cold import Work

_DISK_READS = trio.CapacityLimiter(32)


async def on_thread(work: Work) -> None:
    """Not to be cancelled while it runs: its pins and buffers are in use until it ends."""
    await trio.to_thread.run_sync(work, limiter=_DISK_READS)
