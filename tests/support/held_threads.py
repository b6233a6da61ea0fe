"""A thread that is held, so that a test sees who goes on meanwhile."""

import trio

from engine.cold import Work


class Threads:
    """The first thing it is given it runs when told, and anything else at once."""

    def __init__(self) -> None:
        self.released = trio.Event()
        self.waiting = trio.Event()

    async def run(self, work: Work) -> None:
        with trio.CancelScope(shield=True):  # as a thread that runs
            if not self.waiting.is_set():
                self.waiting.set()
                await self.released.wait()
            await trio.to_thread.run_sync(work)


async def nothing() -> None:
    pass
