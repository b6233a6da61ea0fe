"""A directory with disks becomes a VM: what its XML says is checked, and the VM is marked."""

import xml.etree.ElementTree as ET

from engine import Store, errors
from hypervisor import domain, images
from hypervisor.identity import Identity, check_name
from hypervisor.machine_index import index_of
from hypervisor.machines import XML, XML_MODE, Directory, Machine
from hypervisor.placing import localize

HEAD_BYTES = 512


def add(store: Store, directory: Directory, text: bytes | None, virt_type: str | None) -> Machine:
    """Make a directory with disks a VM: ``text`` is its domain XML, None means it has one.

    Each disk must be in the directory, whole, or a read-only medium of the host's.
    """
    root = directory.xml() if text is None else domain.parse(text)
    if virt_type is not None:
        root.set("type", virt_type)
    name = check_name(domain.name_of(root))
    for disk, source in domain.disks(root):
        _check_disk(directory, disk, source)
    if not domain.text_of(root, "uuid"):
        _new_uuid(root, name)
    localize(root, directory.place)
    uuid, macs = domain.text_of(root, "uuid"), domain.macs(root)
    other = index_of(store).clash(
        [uuid, *macs], but=(directory.volume.id, directory.inode.ino)
    )  # fmt: skip
    if other is not None:
        volume = store.volume_by_id(other[0])
        raise errors.AlreadyExists(
            f"{volume}:{volume.path_of(other[1])} has the same UUID or MAC; a copy of a VM gets "
            "its identity by `ramet vm clone` or `ramet vm customize`"
        )
    directory.write(XML, domain.serialize(root), XML_MODE)
    made = Machine(name, uuid, macs)
    directory.set_machine(made)
    return made


def _new_uuid(root: ET.Element, name: str) -> None:
    element = ET.Element("uuid")
    element.text = Identity.new(name).uuid
    root.insert(1, element)


def _check_disk(directory: Directory, disk: ET.Element, source: ET.Element) -> None:
    path = source.get("file", "")
    relative = directory.own(path)
    inode = None if relative is None else directory.child(relative)
    if inode is None:
        if domain.is_shared_medium(disk):
            return
        raise errors.NotFound(
            f"disk {path} is not in {directory.volume}:{directory.path}; `ramet import` it there"
        )
    driver = disk.find("driver")
    said = "raw" if driver is None else driver.get("type", "raw")
    head = directory.volume.read(directory.volume.file(inode.ino).ino, 0, HEAD_BYTES)
    if said != "raw" and images.detect(head) == "raw" and driver is not None:
        driver.set("type", "raw")  # an image that was made raw on import
    elif said != "raw":
        images.check_head(head, path)
