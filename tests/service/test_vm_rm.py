"""`vm rm` and `volume rm` wait for libvirt in the middle: what is there then is looked at again."""

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from engine import ROOT_INO, Store, errors
from hypervisor.machines import Directory, Machine
from service.addresses import Context
from service.datastores import volume_rm
from service.share_records import Smb, Table
from service.steps import run_here
from service.vms import vm_rm

URI = "test:///default"


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        lab.mkdir(ROOT_INO, b"web", 0o755, 0, 0)
        machine = Machine("web", "6ba7b810-9dad-11d1-80b4-00c04fd430c9", uri=URI)
        Directory(lab, "/web", None).set_machine(machine)
        yield Context(store)


def test_what_has_taken_the_place_of_a_vm_stays(context: Context) -> None:
    lab, moved = context.store.volume("lab"), []

    def between() -> None:
        if not moved:
            moved.append(True)
            lab.rename(ROOT_INO, b"web", ROOT_INO, b"elsewhere")
            other = lab.mkdir(ROOT_INO, b"web", 0o755, 0, 0)
            lab.create(other.ino, b"precious", 0o644, 0, 0)

    alive = libvirt.open(URI)
    with pytest.raises(errors.Stale, match="moved"):
        run_here(vm_rm(context, "lab:/web", False, False), context.store.commit, between)
    assert lab.resolve("/web/precious")
    assert lab.resolve("/elsewhere")
    run_here(vm_rm(context, "lab:/elsewhere", False, False), context.store.commit, lambda: None)
    assert [e.name for e in lab.readdir(ROOT_INO)] == [b"web"]
    alive.close()


def test_a_volume_that_is_shared_meanwhile_stays(context: Context) -> None:
    lab = context.store.volume("lab")

    def between() -> None:
        Table(context.store).put(Smb("lab", lab.id, "127.0.0.1:445", None, False, "lab"))

    alive = libvirt.open(URI)
    with pytest.raises(errors.Busy, match="SMB share"):
        run_here(volume_rm(context, "lab", False, True), context.store.commit, between)
    assert context.store.volume("lab").resolve("/web")
    alive.close()
