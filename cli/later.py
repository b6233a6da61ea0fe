"""What a command may not need: modules that are imported when a function of theirs is called.

A command that finds a daemon sends it the name of an operation and waits.  For that it needs
neither the operation nor the engine, libvirt and trio behind it, whose imports take longer than
all the rest of the command.  So modules of commands import the service's, and those of ``cli``
that only some commands need, from here: ``from cli.later import operations``.  To a type checker
that is ``from service import operations``; when it runs, ``operations.df`` is a ``Function``: a
name that imports its module when it is called.  Whatever is imported the ordinary way, as
``service.rpc``, has to be small; tests/cli/test_start.py looks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import command as benchmark
    from cli import bar, local, tables
    from service import (
        clones,
        customizing,
        daemon,
        datastores,
        extents,
        healing,
        hosts,
        integrity,
        job_commands,
        luns,
        maps,
        nfs_shares,
        operations,
        registration,
        rescan,
        shares,
        smb_shares,
        vms,
        volume_maps,
    )
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "benchmark":
            return Module("bench.command")
        return Module(f"cli.{name}" if name in ("bar", "local", "tables") else f"service.{name}")


__all__ = [
    "bar", "benchmark", "clones", "customizing", "daemon", "datastores", "extents", "healing",
    "hosts", "integrity", "job_commands", "local", "luns", "maps", "nfs_shares", "operations",
    "registration", "rescan", "shares", "smb_shares", "tables", "vms", "volume_maps",
]  # fmt: skip


class Function:
    """A function of a module, or a class, by its name."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self.__name__ = name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module(self._module), self.__name__)(*arguments, **options)


class Module:
    """A module of which nothing is known yet but its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        return Function(self._name, name)
