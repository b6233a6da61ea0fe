"""Addresses of this machine that no other test run has: QEMU wants NFS at its usual ports."""

import itertools
import os

_numbers = itertools.count()
_EACH = 4  # addresses a process


def own_address() -> str:
    """One of 127.0.0.0/8 for this process alone; the same ones come again after a few."""
    number = os.getpid() * _EACH + next(_numbers) % _EACH
    assert number < 1 << 24
    return f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"
