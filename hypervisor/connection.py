"""A connection to libvirt, and its errors as ours.  All calls block: not on the loop.

libvirt prints errors on stderr unless told not to; we report them ourselves.
"""

from collections.abc import Callable, Iterator
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


@contextmanager
def translated(what: str) -> Iterator[None]:
    """libvirt's errors come out as one of ours: ``what``, and libvirt's reason on one line."""
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
    with translated(f"cannot reach libvirt at {uri}; is its daemon running?"):
        return libvirt.open(uri)


def or_none(look: Callable[[], Any], *missing: int) -> Any:
    """What ``look`` finds; None when libvirt's error is one of the codes ``missing``."""
    try:
        return look()
    except libvirt.libvirtError as error:
        if error.get_error_code() in missing:
            return None
        raise
