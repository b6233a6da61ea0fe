"""Steps that are told to stop end, wherever that is, and take it for nothing else.

Each command is told at its first turn, then at its second, and so on: it must end with that, not
go on as if a host had not answered or a file were bad, and leave the store as it was.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import pytest
import trio

from engine import ROOT_INO, Store, errors
from hypervisor.machines import MARK, Directory, Machine
from service import hosts, maps, moments, operations, rescan, vm_listing, vms, volume_maps
from service.addresses import Context
from service.beside import Beside
from service.steps import Insisted, Steps, Stopping, insist, run_here

URI = "test:///default"
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd43a01"
TURNS_MAX = 40
XML = (
    f"<domain type='test'><name>told-to-stop</name><uuid>{UUID}</uuid><memory>8192</memory><os>"
    "<type>hvm</type></os><devices><disk type='file' device='disk'><source file='disk.raw'/>"
    "<target dev='vda'/></disk></devices></domain>"
)
Call = Callable[[Context, Path], Steps[Any]]


@pytest.fixture
def connection() -> Iterator["libvirt.virConnect"]:
    """The mock hypervisor lives as long as somebody has a connection to it."""
    made = libvirt.open(URI)
    made.defineXML(XML)
    yield made
    with suppress(libvirt.libvirtError):  # a test has removed it
        made.lookupByUUIDString(UUID).undefine()
    made.close()


@pytest.fixture
def context(
    tmp_path: Path, connection: "libvirt.virConnect", monkeypatch: pytest.MonkeyPatch
) -> Iterator[Context]:
    monkeypatch.setattr(vm_listing, "LIST_STEP", 2)
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        made = Context(store)
        lab = store.create_volume("lab")
        for n in range(3):
            top = lab.mkdir(ROOT_INO, b"vm%d" % n, 0o755, 0, 0)
            lab.write(lab.create(top.ino, b"disk.raw", 0o644, 0, 0).ino, 0, os.urandom(8192))
            Directory(lab, f"/vm{n}", None).set_machine(Machine(f"vm{n}", f"{UUID[:-1]}{n + 2}"))
        first = Directory(lab, "/vm0", None)
        first.write("domain.xml", XML.encode(), 0o644)
        first.set_machine(Machine("told-to-stop", UUID, uri=URI))
        run(hosts.host_add(made, URI, "here", None, None), store)
        yield made


def run(steps: Steps[Any], store: Store, told_at: int | None = None) -> None:
    """To its end.  Nothing is begun afterwards but what it insists
    on, and of that it is told again."""
    seen: list[Any] = []

    def between() -> None:
        if len(seen) - 1 == told_at:
            raise Stopping("told to stop")

    try:
        run_here(watched(steps, seen), store.commit, between)
        assert told_at is None or all(isinstance(todo, Insisted) for todo in seen[told_at:])
    except Stopping:
        assert told_at is not None
        after = [todo for todo in seen[told_at + 1 :] if not isinstance(todo, Insisted)]
        assert len(after) <= isinstance(seen[told_at], Insisted)
        raise


def watched(steps: Steps[Any], seen: list[Any]) -> Steps[Any]:
    """The same steps; ``seen`` gets what each of them yields."""
    value: Any = None
    error: Exception | None = None
    while True:
        try:
            todo = steps.throw(error) if error else steps.send(value)
        except StopIteration as end:
            return end.value
        seen.append(todo)
        try:
            value, error = (yield todo), None
        except Exception as raised:
            error = raised


def what_there_is(context: Context) -> Any:
    store = context.store
    return (
        store.records.items(),
        [
            (volume.name, volume.marks(MARK), [e.name for e in volume.readdir(ROOT_INO)])
            for volume in store.volumes()
        ],
    )


COMMANDS: dict[str, Call] = {
    "vm ls": lambda context, _: vms.vm_ls(context, None),
    "vm show": lambda context, _: vms.vm_show(context, "lab:/vm0"),
    "vm add": lambda context, _: vms.vm_add(
        context, "lab:/vm1", None, "told-to-stop", URI, None
    ),
    "vm map": lambda context, _: maps.vm_map(context, "lab:/vm0", None, URI),
    "vm rm": lambda context, _: vms.vm_rm(context, "lab:/vm0", False, False),
    "host add": lambda context, _: hosts.host_add(context, URI, "again", None, None),
    "host rm": lambda context, _: hosts.host_rm(context, "here", False, False),
    "host rm --force": lambda context, _: hosts.host_rm(context, "here", True, False),
    "host rescan": lambda context, _: rescan.host_rescan(context, None, 30.0),
    "volume map": lambda context, _: volume_maps.volume_domains(context, "lab"),
    "du": lambda context, _: operations.du(context, "lab:/"),
    "import": lambda context, tmp: operations.import_file(
        context, str(tmp / "raw"), "lab:/new", None, False
    ),
    "export": lambda context, tmp: operations.export_file(
        context, "lab:/vm1/disk.raw", str(tmp / "out")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_ends_wherever_it_is_told(name: str, context: Context, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(os.urandom(8192))
    context.store.commit()
    before, files = what_there_is(context), sorted(os.listdir(tmp_path))
    for turn in range(TURNS_MAX):
        steps = COMMANDS[name](context, tmp_path)
        try:
            run(steps, context.store, turn)
        except Stopping:
            assert what_there_is(context) == before
            assert sorted(os.listdir(tmp_path)) == files
        except errors.AlreadyExists:  # its own end, before it was told
            assert (name, turn) in (("host add", 1), ("vm add", 1))
            return
        else:
            assert turn, "it has no turn at which it could be told"
            return  # told nowhere, or in what it insists on, at its very end
    pytest.fail("more turns than anybody needs")


def test_a_guest_is_thawed_although_the_daemon_is_told_to_stop_at_once(context: Context) -> None:
    """The record of it goes in the same stretch: nobody would thaw it later."""
    context.store.records.put(
        f"{moments.PREFIX}x", moments.msgspec.msgpack.encode(moments.Record(uri=URI, uuid=UUID))
    )
    done: list[object] = []
    steps = moments.recover(context)
    todo = next(steps)
    while todo is not None:
        assert isinstance(todo, Insisted)
        done.append(todo)
        if len(done) == 1:
            todo = steps.throw(Stopping("told to stop"))
            continue
        try:
            todo = steps.send(todo())
        except StopIteration:
            break
    assert len(done) == 2
    assert context.store.records.items(moments.PREFIX) == []


def test_the_daemon_tells_steps_again_after_what_they_insist_on() -> None:
    done: list[str] = []

    async def at_once() -> None:
        await trio.lowlevel.checkpoint()

    def told(scope: trio.CancelScope) -> Steps[None]:
        def stop() -> None:
            done.append("insisted")
            trio.from_thread.run_sync(scope.cancel)

        yield from insist(stop)
        yield from insist(partial(done.append, "insisted again"))
        yield partial(done.append, "more")

    async def main() -> None:
        with trio.CancelScope() as scope:
            await Beside(at_once, at_once, nullcontext).run(told(scope))

    trio.run(main)
    assert set(done) == {"insisted", "insisted again"}
