"""The program that owns a store while it runs: grouped commits, and the front ends.

``Client`` (service/client.py) is its door for Python programs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.client import Client, JobHandle
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("service.client"), name)


__all__ = ["Client", "JobHandle"]
