"""A VM's directory as commands name it: in its volume, and where the host sees it; what is told."""

from pathlib import PurePosixPath
from typing import Any

from hypervisor.machines import Directory, Machine
from service.addresses import Address, Context


def directory_at(context: Context, address: Address) -> Directory:
    """NotFound, NotADirectory."""
    return Directory(address.volume, address.path.rstrip("/") or "/", place_of(context, address))


def place_of(context: Context, address: Address) -> PurePosixPath | None:
    """Its path on the mount; None while the store is not mounted."""
    if context.mountpoint is None:
        return None
    return PurePosixPath(context.mounted_path(address.volume, address.path))


def told(directory: Directory, machine: Machine) -> dict[str, Any]:
    """What every command says of a VM."""
    return {
        "name": machine.name,
        "address": f"{directory.volume}:{directory.path}",
        "uuid": machine.uuid,
        "macs": machine.macs,
        "registered": machine.uri,
    }
