"""A connection to libvirt, and its errors as ours.  All calls block: not on the loop.

libvirt prints errors on stderr unless told not to; we report them ourselves.

Its calls have no timeout, and a daemon that hangs, or a host that is gone, answers nothing.  So the
opening of a connection is given up after OPEN_S, and whoever runs calls on a thread may have itself
told (``watched_by``) whenever one begins: then it knows how long the last one has been silent.
(libvirt's own keepalive needs an event loop, whose thread made each define a fifth slower.)
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from engine import errors

_CLASSES = {
    libvirt.VIR_ERR_NO_DOMAIN: errors.NotFound,
    libvirt.VIR_ERR_NO_STORAGE_POOL: errors.NotFound,
    libvirt.VIR_ERR_NO_STORAGE_VOL: errors.NotFound,
    libvirt.VIR_ERR_DOM_EXIST: errors.AlreadyExists,
    libvirt.VIR_ERR_XML_ERROR: errors.InvalidArgument,
    libvirt.VIR_ERR_AUTH_FAILED: errors.NotPermitted,
    libvirt.VIR_ERR_ACCESS_DENIED: errors.NotPermitted,
}
libvirt.registerErrorHandler(lambda _context, _error: None, None)
OPEN_S = 30.0
_watch = threading.local()


def _nobody() -> None: ...


def watched_by(tick: Callable[[], None]) -> None:
    """Call ``tick`` whenever a call of libvirt's begins on this thread."""
    _watch.tick = tick


@contextmanager
def translated(what: str) -> Iterator[None]:
    """libvirt's errors come out as one of ours: ``what``, and libvirt's reason on one line."""
    getattr(_watch, "tick", _nobody)()
    try:
        yield
    except libvirt.libvirtError as error:
        reason = (error.get_error_message() or "no reason given").replace("\n", " ")
        kind = _CLASSES.get(error.get_error_code(), errors.RametError)
        raise kind(f"{what}: {reason}") from None


@contextmanager
def connected(uri: str) -> Iterator["libvirt.virConnect"]:
    """A connection while the block runs; RametError when nobody answers there."""
    connection = open_connection(uri)
    try:
        yield connection
    finally:
        with suppress(libvirt.libvirtError):
            connection.close()


def open_connection(uri: str) -> "libvirt.virConnect":
    """RametError when nobody answers there, or nothing for OPEN_S."""
    opening: Future[libvirt.virConnect] = Future()
    threading.Thread(target=_open, args=(uri, opening), daemon=True).start()
    with translated(f"cannot reach libvirt at {uri}; is its daemon running?"):
        try:
            return opening.result(OPEN_S)
        except TimeoutError:
            if not opening.cancel():  # it came at this very moment
                opening.result().close()
            raise errors.RametError(
                f"libvirt at {uri} gives no answer in {OPEN_S:g} s; does its daemon hang?"
            ) from None


def _open(uri: str, opening: "Future[libvirt.virConnect]") -> None:
    try:
        connection = libvirt.open(uri)
    except BaseException as error:
        with suppress(InvalidStateError):
            opening.set_exception(error)
        return
    try:
        opening.set_result(connection)
    except InvalidStateError:  # nobody waits any more
        with suppress(libvirt.libvirtError):
            connection.close()


def or_none(look: Callable[[], Any], *missing: int) -> Any:
    """What ``look`` finds; None when libvirt's error is one of the codes ``missing``."""
    try:
        return look()
    except libvirt.libvirtError as error:
        if error.get_error_code() in missing:
            return None
        raise
