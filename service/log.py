"""The daemon's log: lines on stderr, which `ramet mount` turns into run/daemon.log.

The log lies on the disk whose fullness it reports: a line that cannot be written is lost, and
nothing else.
"""

import contextlib
import sys
import time
import traceback


def log(text: str) -> None:
    """One line, with its time (ISO 8601)."""
    printable = text.encode(errors="backslashreplace").decode()
    with contextlib.suppress(OSError, ValueError):
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {printable}", file=sys.stderr, flush=True)


def log_exception() -> None:
    """The exception that is being handled, with where it came from."""
    log(traceback.format_exc())
