"""The index of VMs: against a scan of all marks, and what it does not do in one stretch."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from index_machine import IndexMachine

from engine import ROOT_INO, Store, Volume, errors
from hypervisor import adopting, machine_index
from hypervisor.machine_index import index_of
from hypervisor.machines import MARK, Directory, Machine
from service.addresses import Context
from service.steps import run_here
from service.vms import vm_ls, vm_rm

TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
MAC = "52:54:00:ab:cd:ef"
XML = (
    f"<domain type='test'><name>golden</name><uuid>{UUID}</uuid><memory>8192</memory><os>"
    "<type>hvm</type></os><devices><disk type='file' device='disk'><source file='disk.raw'/>"
    f"<target dev='vda'/></disk><interface type='user'><mac address='{MAC}'/></interface></devices>"
    "</domain>"
).encode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as opened:
        opened.create_volume("lab")
        yield opened


def marked(store: Store, name: str, machine: Machine) -> Directory:
    lab = store.volume("lab")
    lab.mkdir(ROOT_INO, name.encode(), 0o755, 0, 0)
    directory = Directory(lab, f"/{name}", None)
    directory.set_machine(machine)
    return directory


def with_disk(store: Store, name: str) -> Directory:
    lab = store.volume("lab")
    top = lab.mkdir(ROOT_INO, name.encode(), 0o755, 0, 0)
    lab.write(lab.create(top.ino, b"disk.raw", 0o644, 0, 0).ino, 0, os.urandom(8192))
    return Directory(lab, f"/{name}", None)


@pytest.mark.parametrize(
    ("payload", "xml"),
    [
        (b"\xc1 " + UUID.upper().encode() + b" " + MAC.encode(), None),
        (b"\xc1", XML),
        (b"\xc1", XML[:-20]),
    ],
)
def test_a_damaged_mark_keeps_the_identity_that_can_still_be_told(
    store: Store, payload: bytes, xml: bytes | None
) -> None:
    damaged, other = with_disk(store, "damaged"), with_disk(store, "other")
    if xml is not None:
        damaged.write("domain.xml", xml, 0o644)
    damaged.volume.set_mark(damaged.inode.ino, MARK, payload)
    index = index_of(store)
    assert index.damaged() == [(damaged.volume.id, damaged.inode.ino)]
    assert MAC in index.macs
    with pytest.raises(errors.AlreadyExists, match="lab:/damaged"):
        adopting.add(store, other, XML, None)
    if xml is XML:  # the way out that its message names
        adopting.add(store, damaged, None, None)
        assert index.damaged() == []
        assert damaged.machine.uuid == UUID


def test_a_damaged_mark_is_listed_and_stops_nothing_else(store: Store) -> None:
    marked(store, "sound", Machine("sound", UUID))
    damaged = marked(store, "damaged", Machine("damaged", UUID))
    damaged.volume.set_mark(damaged.inode.ino, MARK, b"\xc1")
    context = Context(store)
    rows = run_here(vm_ls(context, None), store.commit, lambda: None)
    assert isinstance(rows, list)
    first, second = rows
    assert (first["address"], first["name"]) == ("lab:/damaged", None)
    assert "`ramet vm add lab:/damaged`" in first["damaged"]
    assert (second["name"], second["damaged"]) == ("sound", None)
    with pytest.raises(errors.Corrupt, match="vm add lab:/damaged"):
        run_here(vm_rm(context, "lab:/damaged", False, False), store.commit, lambda: None)
    run_here(vm_rm(context, "lab:/sound", False, False), store.commit, lambda: None)


def test_marks_are_read_in_short_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    put = machine_index.MachineIndex._put

    def counted(self: machine_index.MachineIndex, volume: Volume, ino: int, mark: bytes) -> None:
        read[-1] += 1
        put(self, volume, ino, mark)

    monkeypatch.setattr(machine_index.MachineIndex, "_put", counted)
    count = 5 * machine_index.STEP + 1
    found = [marked(store, f"vm{n}", Machine(f"vm{n}", f"uuid {n}")) for n in range(count)]
    index = index_of(store)

    def steps() -> list[int]:
        read[:] = [0]
        for _ in index.ready():
            read.append(0)  # noqa: PERF401 - what is read meanwhile is counted in the last
        return list(read)

    first = steps()
    assert (sum(first), max(first)) == (count, machine_index.STEP)
    assert steps() == [0]
    for each in found:  # all change at once: that is read in short steps as well
        each.set_machine(each.machine.at("test:///default"))
    again = steps()
    assert (sum(again), max(again)) == (count, machine_index.STEP)
    found[0].set_machine(found[0].machine.at(None))
    assert steps() == [1]


def test_removing_vms_reads_each_mark_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """N removals are O(N): each asks whether its pool is needed, and none reads the others."""
    count = 60
    for n in range(count):
        uuid = f"6ba7b810-9dad-11d1-80b4-00c04fd4{n:04d}"
        marked(store, f"vm{n}", Machine(f"vm{n}", uuid, uri="test:///default"))
    context, reads = Context(store), []
    entry = machine_index._entry

    def counted(volume: Volume, ino: int, payload: bytes) -> machine_index.Entry | None:
        reads.append(ino)
        return entry(volume, ino, payload)

    monkeypatch.setattr(machine_index, "_entry", counted)
    for n in range(count):
        run_here(vm_rm(context, f"lab:/vm{n}", False, False), store.commit, lambda: None)
    assert len(reads) <= 2 * count
    assert index_of(store).places() == []
