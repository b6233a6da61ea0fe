"""The VMs of a volume, by pages: others have their turn however many there are.

What is made or removed meanwhile is among them or not.  A volume that is removed has none; one that
is restored is listed anew.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import NamedTuple, TypeVar

from engine import Volume, errors
from hypervisor.machines import MARK, Directory, Machine, machine_in
from service import hosts
from service.addresses import Context
from service.steps import Steps

LIST_STEP = 64  # about 1 ms
T = TypeVar("T")


class Listed(NamedTuple):
    """A VM; of a damaged mark, what is wrong and what to do."""

    path: str
    directory: Directory
    machine: Machine | None
    damaged: errors.Corrupt | None


def each_vm(volume: Volume, tell: Callable[[int, bytes], T]) -> Steps[list[T]]:
    """What is told of each mark: of the inode that has it, and what it says."""
    found: list[T] = []
    era, after = volume.era, 0
    while not volume.removed:
        page = volume.marks(MARK, after, LIST_STEP)
        found += [tell(ino, payload) for ino, payload in page]
        if len(page) < LIST_STEP:
            return found
        after = page[-1][0]
        yield None
        if volume.era != era:
            era, after = volume.era, 0
            found.clear()
    return []


def vms_of(context: Context, volume: Volume, uri: str | None = None) -> Steps[list[Listed]]:
    """By path, placed where the host of ``uri`` has the mount."""
    place = hosts.placing(context, uri)

    def listed(ino: int, payload: bytes) -> Listed | None:
        path = volume.path_of(ino)
        if path is None:
            return None
        directory = Directory(volume, path, place(volume, path))
        try:
            return Listed(path, directory, machine_in(volume, payload), None)
        except errors.Corrupt as error:
            at = f"{volume}:{path}"
            return Listed(
                path, directory, None, errors.Corrupt(f"{at}: {error}; {directory.remedy}")
            )

    every = yield from each_vm(volume, listed)
    found = [each for each in every if each is not None]
    in_order: list[Listed] = yield partial(sorted, found, key=attrgetter("path"))
    return in_order
