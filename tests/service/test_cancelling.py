"""A cancelled job: what it must still do it does, and nothing is undone under a running call."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import pytest

from engine import ROOT_INO, Store, errors
from hypervisor import adopting
from hypervisor.driver import LibvirtDriver
from hypervisor.interface import Hypervisor
from hypervisor.machines import Directory, Machine
from service import clones, moments
from service.addresses import Context
from service.job_states import CANCELLED, COMPLETED
from service.libvirt_calls import connected
from service.steps import Started, Steps, insist, run_here
from service.vms import vm_clone
from service.work import Work, queue, run

URI = "test:///default"
RUNNING_UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # the mock's own domain, which runs
XML = (
    b"<domain type='test'><name>golden</name><memory>8192</memory><os><type>hvm</type></os>"
    b"<devices><disk type='file' device='disk'><source file='disk.raw'/>"
    b"<target dev='vda'/></disk></devices></domain>"
)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        top = lab.mkdir(ROOT_INO, b"golden", 0o755, 0, 0)
        disk = lab.create(top.ino, b"disk.raw", 0o644, 0, 0)
        lab.write(disk.ino, 0, os.urandom(8192))
        adopting.add(store, Directory(lab, "/golden", None), XML, None)
        yield Context(store, tmp_path / "mnt")


@pytest.fixture
def connection() -> Iterator["libvirt.virConnect"]:
    """The mock hypervisor lives as long as somebody has a connection to it."""
    made = libvirt.open(URI)
    yield made
    made.close()


class Case:
    """One job, driven here; ``until`` says at which turn it is cancelled."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.job = queue(context, vm_clone, ["a", "b"], ())
        self.work = Work(self.job)

    def run(self, steps: Steps[Any], until: Any) -> Any:
        def between() -> None:
            self.work.cancelled = self.work.cancelled or until()

        store = self.context.store
        return run_here(run(self.context, self.work, steps), store.commit, between)


def test_what_is_insisted_on_is_done_for_a_cancelled_job(context: Context) -> None:
    done: list[str] = []
    case = Case(context)

    def steps() -> Steps[dict[str, Any]]:
        try:
            yield None
            yield None
        finally:
            yield from insist(partial(done.append, "first"))
            yield from insist(partial(done.append, "second"))
        return {}

    with pytest.raises(errors.Cancelled):
        case.run(steps(), lambda: True)
    assert done == ["first", "second"]
    assert case.job.state == CANCELLED


def test_a_job_that_goes_on_although_it_was_told_is_undone(context: Context) -> None:
    case = Case(context)
    lab = context.store.volume("lab")

    def steps() -> Steps[dict[str, Any]]:
        made = lab.create(ROOT_INO, b"made", 0o644, 0, 0)
        case.work.made(lab, made, ROOT_INO, b"made")
        for _ in range(3):
            try:
                yield None
            except errors.RametError:
                continue
        return {}

    with pytest.raises(errors.Cancelled):
        case.run(steps(), lambda: True)
    assert lab.entry(ROOT_INO, b"made") is None
    assert case.job.state == CANCELLED


def test_domains_are_not_taken_back_while_they_are_being_defined(
    context: Context, connection: "libvirt.virConnect", monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {each.name() for each in connection.listAllDomains()}
    begun, go_on = threading.Event(), threading.Event()
    waited: list[bool] = []
    define, undefine, wait = LibvirtDriver.define_all, LibvirtDriver.undefine_all, Started.wait

    def slow_define(self: LibvirtDriver, texts: list[str]) -> None:
        begun.set()
        go_on.wait()
        define(self, texts)

    def seen_undefine(self: LibvirtDriver, uuids: list[str], *, stop: bool = False) -> None:
        waited.append(go_on.is_set())
        go_on.set()
        undefine(self, uuids, stop=stop)

    def seen_wait(self: "Started[Any]") -> None:
        go_on.set()
        wait(self)

    monkeypatch.setattr(LibvirtDriver, "define_all", slow_define)
    monkeypatch.setattr(LibvirtDriver, "undefine_all", seen_undefine)
    monkeypatch.setattr(Started, "wait", seen_wait)
    case = Case(context)
    spec = {"count": 300, "register": True, "virt_type": "test", "uri": URI}
    steps = vm_clone(context, case.work, "lab:/golden", "lab:/vm-{n}", spec)
    with pytest.raises(errors.Cancelled):
        case.run(steps, begun.is_set)
    assert waited == [True]
    assert {each.name() for each in connection.listAllDomains()} == before
    assert [e.name for e in context.store.volume("lab").readdir(ROOT_INO)] == [b"golden"]


def test_vms_that_are_being_started_are_taken_back(
    context: Context, connection: "libvirt.virConnect", monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {each.name() for each in connection.listAllDomains()}
    started: list[str] = []
    start = LibvirtDriver.start

    def seen_start(self: LibvirtDriver, uuid: str) -> None:
        started.append(uuid)
        start(self, uuid)

    monkeypatch.setattr(LibvirtDriver, "start", seen_start)
    case = Case(context)
    spec = {"count": 4, "power_on": True, "virt_type": "test", "uri": URI}
    steps = vm_clone(context, case.work, "lab:/golden", "lab:/vm-{n}", spec)
    with pytest.raises(errors.Cancelled):
        case.run(steps, lambda: len(started) == 2)
    assert len(started) <= 3
    assert case.job.state == CANCELLED
    assert {each.name() for each in connection.listAllDomains()} == before
    assert [e.name for e in context.store.volume("lab").readdir(ROOT_INO)] == [b"golden"]


def test_a_guest_that_was_frozen_is_thawed_for_a_cancelled_job(
    context: Context, connection: "libvirt.virConnect", monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    freeze, thaw = LibvirtDriver.freeze, LibvirtDriver.thaw

    def seen_freeze(self: LibvirtDriver, uuid: str, limit_s: int) -> int:
        done.append("freeze")
        return freeze(self, uuid, limit_s)

    def seen_thaw(self: LibvirtDriver, uuid: str, limit_s: int) -> int:
        done.append("thaw")
        return thaw(self, uuid, limit_s)

    monkeypatch.setattr(LibvirtDriver, "freeze", seen_freeze)
    monkeypatch.setattr(LibvirtDriver, "thaw", seen_thaw)
    assert connection.lookupByUUIDString(RUNNING_UUID).isActive()
    base = Directory(context.store.volume("lab"), "/golden", None)
    base.set_machine(Machine("test", RUNNING_UUID, uri=URI))
    case = Case(context)

    def steps() -> Steps[dict[str, Any]]:
        moment = yield from moments.hold(context, base, URI, quiesce=True)
        try:
            yield None
        finally:
            moments.release(context, moment)
        return {}

    with pytest.raises(errors.Cancelled):
        case.run(steps(), lambda: "freeze" in done)
    assert done == ["freeze", "thaw"]
    assert context.store.snapshots(context.store.volume("lab")) == []
    assert context.store.records.items(moments.PREFIX) == []


def test_a_job_hears_of_it_after_what_it_insists_on(context: Context) -> None:
    done: list[str] = []
    case = Case(context)

    def steps() -> Steps[dict[str, Any]]:
        yield from insist(partial(done.append, "insisted"))
        yield partial(done.append, "more")
        return {}

    with pytest.raises(errors.Cancelled):
        case.run(steps(), lambda: True)
    assert done == ["insisted"]


def test_a_cancelled_job_closes_its_connection(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[LibvirtDriver] = []
    close = LibvirtDriver.close

    def seen_close(self: LibvirtDriver) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(LibvirtDriver, "close", seen_close)
    case = Case(context)

    def use(_: Hypervisor) -> Steps[dict[str, Any]]:
        yield None
        return {}

    with pytest.raises(errors.Cancelled):
        case.run(connected(URI, use), lambda: True)
    assert len(closed) == 1


def test_what_was_replaced_is_not_called_undone(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clones, "CLONES_STEP", 2)
    lab = context.store.volume("lab")
    for n in range(6):
        lab.create(ROOT_INO, b"f%d" % n, 0o644, 0, 0)
    case = Case(context)
    steps = clones.clone(context, case.work, "lab:/golden/disk.raw", "lab:/f{n}", 6, 0, True)
    with pytest.raises(errors.PartlyDone, match="4 of 6 were replaced"):
        case.run(steps, lambda: True)
    sizes = [lab.resolve(f"/f{n}").size for n in range(6)]
    assert sizes == [8192] * 4 + [0] * 2


def test_ranges_are_cloned_and_their_job_ended_in_one_step(context: Context) -> None:
    case = Case(context)
    steps = clones.clone_ranges(
        context, case.work, "lab:/golden/disk.raw", "lab:/new", [[0, 0, 2]], True
    )
    assert case.run(steps, lambda: pytest.fail("others had a turn"))["blocks"] == 2
    assert case.job.state == COMPLETED
