"""``python -m service.serve STORE MOUNTPOINT [VOLUME]``: serve a store over FUSE until it ends.

Ends on SIGTERM or SIGINT, or when the mount is taken away; either way the mount is gone, the last
commit is on disk and the store is closed when the process exits.  Prints ``mounted`` when it is.
"""

import signal
import sys
from pathlib import Path

import trio

from engine import Store, errors
from fusefs.mount import serve as serve_mount
from service.commits import Committer

EXIT_CODES = {errors.NoSuchStore: 10, errors.StoreInUse: 11, errors.NotFound: 12,
              errors.AlreadyExists: 13, errors.Corrupt: 14, errors.NoSpace: 15}  # fmt: skip


async def serve(store: Store, mountpoint: Path, volume: str | None = None) -> None:
    """Run the committer and one mount of ``store``."""
    committer = Committer(store)
    target = None if volume is None else store.volume(volume)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)

        async def mount(task_status: trio.TaskStatus[None]) -> None:
            await serve_mount(
                store, mountpoint, volume=target, durable=committer.durable,
                admit=committer.admit, task_status=task_status,
            )  # fmt: skip
            nursery.cancel_scope.cancel()

        await nursery.start(mount)
        print("mounted", flush=True)


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    try:
        with Store.open(arguments[0]) as store:
            volume = arguments[2] if len(arguments) > 2 else None
            trio.run(serve, store, Path(arguments[1]), volume)
    except* errors.RametError as group:
        status = _report(group)
    return status


def _report(group: BaseException) -> int:
    """One line for the first error of a group; returns the exit code."""
    error = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    print(f"ramet: {error}", file=sys.stderr)
    return EXIT_CODES.get(type(error), 1)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
