"""``ramet vm map``: from a domain's disk to the slots that hold its bytes.

domain -> disk -> mount, share or LUN -> volume:file -> extents -> slab:slot (MISSION.md A2).  The
domain may be anybody's: libvirt is asked for it, each disk is followed to a file of this store or
told not to lead to one, and images that are based on others are followed down.
"""

import os
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from engine import Inode, Volume, errors, numbers
from hypervisor import sources
from hypervisor.machines import Directory
from hypervisor.sources import Image, Place
from service import hosts, shares
from service.addresses import Address, Context, from_mount, parse
from service.extents import Row, file_row, slabs
from service.operations import Operation, Result
from service.share_records import Table
from service.steps import Steps

NO_FILE: Row = dict.fromkeys((
    "file", "volume", "inode", "size_bytes", "extent_count", "mapped_bytes", "shared_bytes",
    "unique_bytes", "as_of",
))  # fmt: skip


class Found(NamedTuple):
    volume: Volume
    inode: Inode
    path: str | None


def vm_map(
    context: Context, address: str | None, domain_name: str | None, uri: str
) -> Steps[Result]:  # fmt: skip
    """The images of a VM of ours, or of any domain at ``uri``."""
    if address is None:
        told = yield hosts.answered(partial(sources.ask, uri, domain_name))
        head = {"name": told.name, "uuid": told.uuid, "state": told.state, "address": None,
                "connect": uri}  # fmt: skip
        rows = yield from _rows(context, uri, told.images)
        return head | slabs(context) | {"images": rows}
    where = parse(context, address)
    directory = Directory(where.volume, where.path.rstrip("/") or "/", None)
    machine = directory.machine
    head = {"name": machine.name, "uuid": machine.uuid, "state": "not registered",
            "address": str(where), "connect": machine.uri}  # fmt: skip
    if machine.uri is not None:
        told = yield hosts.answered(partial(sources.ask, machine.uri, None, machine.uuid))
        head["state"], images, at = told.state, told.images, machine.uri
    else:
        images = [_inside(context, directory, each) for each in _stored_images(directory)]
        at = uri
    rows = yield from _rows(context, at, images)
    return head | slabs(context) | {"images": rows}


def _stored_images(directory: Directory) -> list[Image]:
    unknown = partial(Place, via="pool", note="registered nowhere, so no host can be asked")
    return list(
        sources.images_of(directory.xml(), lambda pool, name: unknown(f"{pool}/{name}"))
    )  # fmt: skip


def _inside(context: Context, directory: Directory, image: Image) -> Image:
    """An image of a VM that no host knows: a path is one of the directory's, if that has it."""
    relative = directory.own(image.place.path or "")
    if relative is None:
        return image
    path = Address(directory.volume, f"{directory.path}/{relative}")
    return image._replace(place=image.place._replace(path=str(path), via="volume"))


def _rows(context: Context, uri: str, images: list[Image]) -> Steps[list[Row]]:
    """A row an image; those it is based on follow, if the XML has not told them already."""
    device = yield partial(device_of, context.own_mount)
    rows: list[Row] = []
    for image in images:
        pending: Image | None = image
        while pending is not None:
            found, note = find(context, uri, pending.place, device)
            row, below = yield from _row(context, pending, found, note)
            rows.append(row)
            if below is not None and sources.is_local(uri):
                below = below._replace(place=(yield partial(sources.identify, below.place)))
            pending = below
    return rows


def _row(
    context: Context, image: Image, found: Found | None, note: str | None
) -> Steps[tuple[Row, Image | None]]:
    place, file, below = image.place, NO_FILE, None
    via = place.via
    if found is not None:
        via = "mount" if via == "file" else via
        if image.form == "qcow2" and not image.chain_known and image.level < sources.CHAIN_MAX:
            head = found.volume.read(found.inode.ino, 0, sources.HEADER_BYTES)
            below, note = _below(image, sources.backing(head))
        file = yield from file_row(context, *found)
    head_row = {
        "target": image.target, "device": image.device, "level": image.level,
        "source": place.source, "via": via, "format": image.form,
    }  # fmt: skip
    return head_row | file | {"note": note}, below


def _below(image: Image, told: sources.Backing | None) -> tuple[Image | None, str | None]:
    """What a qcow2 image of the store is based on."""
    if told is None:
        return None, None
    note = None if told.data_file is None else f"its data is in another file: {told.data_file}"
    if not told.name:
        return None, note
    place = sources.based_on(image.place, told.name)
    return Image(image.target, image.device, image.level + 1, told.form, place, False), note


def device_of(mountpoint: Path | None) -> int | None:
    """The device number of our own mount.  Blocks."""
    return None if mountpoint is None else os.stat(mountpoint).st_dev


def find(
    context: Context, uri: str, place: Place, device: int | None
) -> tuple[Found | None, str | None]:
    """The file of the store that a place is; else why it is none."""
    if place.note is not None:
        return None, place.note
    if place.lun is not None:
        return _find_lun(context, *place.lun)
    if place.nfs is not None:
        return _find_exported(context, *place.nfs)
    assert place.path is not None
    try:
        if place.identity is not None and place.identity[0] == device:
            return _by_number(context, place.identity[1]), None
        return _by_path(context, uri, place.path)
    except (errors.NotFound, errors.Stale, errors.NotADirectory) as error:
        return None, f"in the store's mount, and not there: {error}"
    except errors.InvalidArgument:
        return None, "not a file of the store"


def _by_number(context: Context, number: int) -> Found:
    """What the mount shows under an inode number, whatever path led there."""
    volume_id, ino = numbers.split(number)
    volume = context.store.volume_by_id(volume_id)
    inode = volume.file(ino)
    return Found(volume, inode, volume.path_of(ino))


def _by_path(context: Context, uri: str, path: str) -> tuple[Found | None, str | None]:
    if not path.startswith("/"):  # an address
        volume, inside = parse(context, path)
    else:
        root = hosts.mount_path(context, hosts.at(context.store, uri))
        if root is None:
            return None, "the store is not mounted, so no path of a host leads into it"
        if not Path(path).is_relative_to(root):
            return None, f"not in the store: not under its mount {root}"
        volume, inside = parse(context, from_mount(root, path))
    return Found(volume, volume.file(volume.resolve(inside).ino), inside), None


def _find_lun(context: Context, iqn: str, lun: int) -> tuple[Found | None, str | None]:
    record = Table(context.store).lun_at(iqn, lun)
    if record is None:
        return None, f"LUN {lun} of {iqn} is none of this store's"
    try:
        volume = context.store.volume_by_id(record.volume_id)
        return Found(volume, volume.file(record.ino), volume.path_of(record.ino)), None
    except errors.Stale:
        return None, f"the file of LUN {lun} of {iqn} is gone"


def _find_exported(context: Context, server: str, path: str) -> tuple[Found | None, str | None]:
    """The file at a path of an NFS server, if that is ours."""
    head = path.strip("/").partition("/")[0]
    if not any(
        shares.is_at(nfs.listen, server) and shares.address_of(context, nfs) == head
        for nfs in Table(context.store).exports()
    ):
        return None, f"this store has no NFS export /{head} at {server}"
    try:
        volume, inside = parse(context, from_mount(PurePosixPath("/"), os.path.normpath(path)))
        return Found(volume, volume.file(volume.resolve(inside).ino), inside), None
    except (errors.NotFound, errors.NotADirectory, errors.InvalidArgument, errors.IsADirectory):
        return None, f"exported by this store, and no file is there: {path}"


READS: tuple[Operation, ...] = (vm_map,)
CHANGES: tuple[Operation, ...] = ()
