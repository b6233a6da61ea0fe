"""File systems of a running guest, frozen for the instant in which it is cloned.

A frozen guest cannot write, so nothing may keep it frozen: not an error, not a daemon that is
killed, not a disk that hangs.  Whoever freezes starts a guard first, a process of its own session
that has its own connection to the hypervisor: it thaws when our end of its pipe closes (we died),
and LIMIT_S after it was started (we hang), whichever comes first; it ends without a word when it is
told that the guest is thawed.  (A service manager that kills whole control groups kills the guard
too; the daemon thaws such guests when it starts again, see service/moments.py.)

A guest that somebody has thawed before us was not still: then thawing says so, and what was made of
it is not called quiesced.

Source: libvirt, virDomainFSFreeze, virDomainFSThaw; QEMU guest agent, guest-fsfreeze-freeze.
"""

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

from engine import errors
from hypervisor.driver import connect
from hypervisor.interface import Hypervisor

LIMIT_S = 20  # frozen no longer than this
DONE = b"thawed\n"


class Frozen:
    """A guest that stands still.  ``thaw`` ends it, always, and once is enough."""

    def __init__(
        self, hypervisor: Hypervisor, uuid: str, count: int, guard: subprocess.Popen[bytes]
    ) -> None:
        self._hypervisor = hypervisor
        self._uuid = uuid
        self._count = count
        self._guard = guard

    def thaw(self) -> None:
        """RametError when the guest did not stay frozen until now; then it was not still.

        When the hypervisor does not thaw it the guard tries again, by its own connection.
        """
        try:
            thawed = self._hypervisor.thaw(self._uuid, LIMIT_S)
        except BaseException:
            dismiss(self._guard, thawed=False)
            raise
        dismiss(self._guard, thawed=True)
        if thawed < self._count:
            raise errors.RametError(
                f"the guest thawed by itself before it was cloned ({thawed} of {self._count} file "
                "systems were still frozen); try again, or clone without --quiesce"
            )


def freeze(hypervisor: Hypervisor, uuid: str, name: str) -> Frozen:
    """Flush and freeze a running guest.

    Unsupported when it has no guest agent, or none that answers; then nothing was frozen.
    """
    agent = hypervisor.agent(uuid)
    if agent != "connected":
        why = "has no guest agent channel" if agent == "none" else "runs no guest agent"
        raise errors.Unsupported(
            f"{name} {why}, so it cannot be frozen; start qemu-guest-agent in it, or clone it "
            "without --quiesce"
        )
    guard = start_guard(hypervisor.uri, uuid, LIMIT_S)
    try:
        count = hypervisor.freeze(uuid, LIMIT_S)
    except BaseException:
        with contextlib.suppress(errors.RametError):  # it may have frozen some of them
            hypervisor.thaw(uuid, LIMIT_S)
        dismiss(guard, thawed=False)
        raise
    return Frozen(hypervisor, uuid, count, guard)


def start_guard(uri: str, uuid: str, limit_s: int) -> subprocess.Popen[bytes]:
    """A process that thaws the guest when nobody else does; returns when it is ready for that.

    ``-P`` and another working directory: where we were called, a user's modules may lie.
    """
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "hypervisor.quiesce", uri, uuid, str(limit_s)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, cwd="/", env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert guard.stdout is not None
    with guard.stdout as told:
        if not told.read(1):
            dismiss(guard, thawed=True)
            raise errors.RametError(f"no second connection to {uri} to thaw the guest by")
    return guard


def dismiss(guard: subprocess.Popen[bytes], *, thawed: bool) -> None:
    """Let the guard go, with its work done or for it to do now."""
    assert guard.stdin is not None
    with contextlib.suppress(OSError), guard.stdin as pipe:
        if thawed:
            pipe.write(DONE)
    guard.wait()


def watch(uri: str, uuid: str, limit_s: int) -> None:
    """The guard: wait for word, for the end of the pipe, or for the limit; then thaw."""
    hypervisor = connect(uri)
    os.write(sys.stdout.fileno(), b"+")
    readable, _, _ = select.select([sys.stdin], [], [], limit_s)
    if not readable or os.read(sys.stdin.fileno(), len(DONE)) != DONE:
        with contextlib.suppress(errors.RametError):
            hypervisor.thaw(uuid, limit_s)
    hypervisor.close()


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2], int(sys.argv[3]))
