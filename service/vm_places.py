"""A VM's directory as commands name it: in its volume, and where the host sees it; what is told."""

from pathlib import PurePosixPath
from typing import Any

from engine import errors
from hypervisor.machines import Directory, Machine
from service import hosts
from service.addresses import Address, Context


def directory_at(context: Context, address: Address, uri: str | None = None) -> Directory:
    """With its place at the host of ``uri``, or (None) at this one.  NotFound, NotADirectory."""
    place = place_of(context, address, uri)
    return Directory(address.volume, address.path.rstrip("/") or "/", place)


def place_of(context: Context, address: Address, uri: str | None = None) -> PurePosixPath | None:
    """Its path on a host's mount; None while the store is not mounted."""
    return hosts.placing(context, uri)(address.volume, address.path)


def told(directory: Directory, machine: Machine) -> dict[str, Any]:
    """What every command says of a VM."""
    return {
        "name": machine.name,
        "address": f"{directory.volume}:{directory.path}",
        "uuid": machine.uuid,
        "macs": machine.macs,
        "registered": machine.uri,
        "copy": machine.home not in (0, directory.volume.id),
    }


def told_damaged(directory: Directory, error: errors.Corrupt) -> dict[str, Any]:
    """The same of one whose mark is damaged, and what to do: its identity is not known."""
    return {
        "name": None,
        "address": f"{directory.volume}:{directory.path}",
        "uuid": None,
        "macs": [],
        "registered": None,
        "copy": False,
        "damaged": f"{error}; {directory.remedy}",
    }
