"""Jobs on VMs that are there, against a model: registering, unregistering, customizing copies.

One job at a time, driven step by step over libvirt's mock hypervisor (domains without guests, which
outlive a crash of ours as a real one's do).  Between two steps others rename, remove,
re-mark and add, the job is cancelled, the store commits or crashes.  The model knows what each VM
was when the job began, and what others have made of it since.  Whatever becomes of the job:

- undone (or never begun), each VM is byte for byte what it was, mark, XML and seed; no domain of it
  is left; what others have done since stays;
- complete, each has its domain, or its new identity;
- an unregistering that ends on the way has told the truth of each: no mark without a domain is
  lost, and the same again finishes it;
- no snapshot of the job's is left.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import libvirt
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from engine import ROOT_INO, Store, errors, fsck
from hypervisor import adopting, machine_index
from hypervisor.customize import SEED
from hypervisor.machines import MARK, XML, Directory, Machine, machine_in
from service import customizing, registration, vm_batch, vm_listing
from service.addresses import Context
from service.jobs import COMPLETED
from service.steps import Steps, durable
from service.work import Result, Work, queue, recover, run

URI = "test:///default"
PICK = st.integers(0, 1 << 16)
TEXT = (
    "<domain type='test'><name>{0}</name><uuid>6ba7b810-9dad-11d1-80b4-{1:012x}</uuid>"
    "<memory>8192</memory><os><type>hvm</type></os><devices><disk type='file' device='disk'>"
    "<source file='disk.raw'/><target dev='vda'/></disk><serial type='file'><source "
    "path='console.log'/></serial></devices></domain>"
)
COUNT = 5
STEPS = (
    (vm_batch, "GROUP", 2), (vm_batch, "MAKE_STEP", 1), (vm_batch, "DEFINE_STEP", 1),
    (registration, "UNDEFINE_STEP", 1), (customizing, "CUSTOMIZE_STEP", 1),
    (machine_index, "STEP", 2), (vm_listing, "LIST_STEP", 2),
)  # fmt: skip
COMMANDS = {
    "register": (registration.vm_register_all, (URI,)),
    "unregister": (registration.vm_unregister_all, (False,)),
    "customize": (customizing.vm_customize_all, ("{vm}-new", {})),
}


class ProcessEndedError(BaseException):
    """Thrown into steps, which do what they insist on, and no more."""


class Was(NamedTuple):
    """What a VM is: its mark, and what its directory holds (a file that is not there: None)."""

    mark: bytes | None
    files: tuple[bytes | None, ...]


class VmJobMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._before = [(module, name, getattr(module, name)) for module, name, _ in STEPS]
        for module, name, value in STEPS:
            setattr(module, name, value)
        self.hypervisor = libvirt.open(URI)  # the mock lives as long as somebody is connected
        self.foreign = {each.UUIDString() for each in self.hypervisor.listAllDomains()}
        self.path = Path(tempfile.mkdtemp(prefix="ramet-vmjobs-"))
        Store.create(self.path / "s")
        self._open()
        self._make()
        self.serial = 0
        self.begin: dict[int, Was] = {}
        self.others: set[int] = set()  # VMs that somebody has changed since
        self.steps: Steps[Result] | None = None
        self.work: Work | None = None
        self.command = ""
        self.by_hand: set[str] = set()  # domains that somebody else has defined
        self.mend: Callable[[], object] = lambda: None  # what a test has broken, before all is seen
        self.store.commit()

    def _open(self) -> None:
        self.store = Store.open(self.path / "s")
        self.context = Context(self.store, self.path / "mnt")

    def _make(self) -> None:
        lab = self.store.create_volume("lab")
        for n in range(COUNT):
            top = lab.mkdir(ROOT_INO, b"vm%d" % n, 0o755, 0, 0)
            lab.write(lab.create(top.ino, b"disk.raw", 0o644, 0, 0).ino, 0, os.urandom(4096))
            lab.write(lab.create(top.ino, b"console.log", 0o644, 0, 0).ino, 0, b"said")
            text = TEXT.format(f"vm{n}", n + 1).encode()
            adopting.add(self.store, Directory(lab, f"/vm{n}", None), text, None)
        self.store.clone_volume(lab, "copy")

    # --- what there is

    def was(self, volume: str, ino: int) -> Was:
        found = self.store.volume(volume)
        files = []
        for name in (XML, SEED, "disk.raw", "console.log"):
            entry = found.entry(ino, name.encode())
            files.append(None if entry is None else found.read(entry.ino, 0, 1 << 20))
        return Was(found.get_mark(ino, MARK), tuple(files))

    def all(self, volume: str) -> dict[int, Was]:
        found = self.store.volume(volume)
        return {entry.ino: self.was(volume, entry.ino) for entry in found.readdir(ROOT_INO)}

    def machine(self, volume: str, ino: int) -> Machine | None:
        found = self.store.volume(volume)
        payload = found.get_mark(ino, MARK)
        return None if payload is None else machine_in(found, payload)

    def domains(self) -> set[str]:
        return {each.UUIDString() for each in self.hypervisor.listAllDomains()} - self.foreign

    @property
    def volume(self) -> str:
        return "copy" if self.command == "customize" else "lab"

    # --- the job

    @precondition(lambda self: self.steps is None)
    @rule(command=st.sampled_from(sorted(COMMANDS)), spoil=st.integers(0, 4))
    def start(self, command: str, spoil: int) -> None:
        """``spoil``: one VM's XML is broken, if it is one of the first."""
        self.command = command
        volume = self.store.volume(self.volume)
        if command != "unregister" and spoil < 2:
            ino = volume.readdir(ROOT_INO)[spoil].ino
            entry = volume.entry(ino, XML.encode())
            if entry is not None:
                volume.setattr(entry.ino, size=17)
        self.store.commit()
        self.begin, self.others = self.all(self.volume), set()
        self.domains_before = self.domains()
        call, arguments = COMMANDS[command]
        where = f"{self.volume}:"
        job = queue(self.context, call, [where, *arguments], ())
        self.work = Work(job)
        self.of_command = call(self.context, self.work, where, *arguments)
        self.steps = run(self.context, self.work, self.of_command)
        self.error: Exception | None = None
        self.value: Any = None
        self.result: Result = {}

    @precondition(lambda self: self.steps is not None)
    @rule(times=st.integers(1, 6))
    def go_on(self, times: int) -> None:
        for _ in range(times):
            if self.steps is not None:
                self._step()

    def _step(self) -> None:
        assert self.steps is not None
        try:
            todo = self.steps.throw(self.error) if self.error else self.steps.send(self.value)
        except StopIteration as end:
            self.result = end.value
            self._ended(complete=True)
            return
        except errors.RametError:
            self._ended(complete=False)
            return
        self.error, self.value = None, None
        try:
            self.value = (self.store.commit if todo is durable else todo)() if todo else None
        except Exception as raised:
            self.error = raised

    @precondition(lambda self: self.steps is not None)
    @rule()
    def cancel(self) -> None:
        assert self.work is not None
        self.work.cancelled = True

    def _ended(self, *, complete: bool) -> None:
        assert self.work is not None
        job, self.steps = self.work.job, None
        self.mend()
        self.context.jobs.unsettled.discard(job.id)
        assert job.ended
        assert not job.left
        assert not self.store.snapshots(self.store.volume(self.volume))
        assert complete == (job.state == COMPLETED or bool(self.result.get("failed")))
        self._check(complete=complete)
        self._settle()

    def _check(self, *, complete: bool) -> None:
        """What the job has left, of the VMs that were there when it began."""
        now, domains = self.all(self.volume), self.domains()
        for ino, was in self.begin.items():
            if ino not in now or ino in self.others or was.mark is None:
                continue
            before = machine_in(self.store.volume(self.volume), was.mark)
            if self.command == "unregister":
                self._unregistered(ino, before, complete=complete)
            elif not complete or (self.command == "customize" and self._own(before)):
                assert now[ino] == was, f"{self.command} is not undone"
                assert (before.uuid in domains) == (before.uuid in self.domains_before)
            else:
                machine = self.machine(self.volume, ino)
                assert machine is not None
                if self.command == "register":
                    assert (machine.uri, machine.uuid in domains) == (URI, True)
                else:
                    assert machine.uuid != before.uuid
                    assert now[ino].files[1] is not None
                    assert now[ino].files[2:] == (was.files[2], None)

    def _own(self, machine: Machine) -> bool:
        """It had an identity of its own already."""
        return machine.home == self.store.volume("copy").id

    def _unregistered(self, ino: int, before: Machine, *, complete: bool) -> None:
        machine = self.machine("lab", ino)
        assert machine is not None
        if complete:
            assert machine.uri is None
        if machine.uri is None and before.uri is not None:
            assert before.uuid not in self.domains()

    def _settle(self) -> None:
        """XML that was spoiled is mended, and no domain is without its VM."""
        registered = set()
        for volume in ("lab", "copy"):
            for ino, was in self.all(volume).items():
                machine = self.machine(volume, ino)
                if machine is not None and machine.uri is not None:
                    registered.add(machine.uuid)
                if machine is not None and was.files[0] is not None and len(was.files[0]) == 17:
                    path = self.store.volume(volume).path_of(ino)
                    assert path is not None
                    text = TEXT.format(machine.name, int(machine.uuid[-12:], 16)).encode()
                    Directory(self.store.volume(volume), path, None).write(XML, text, 0o644)
        assert self.domains() <= registered | self.by_hand
        self.store.commit()

    # --- others, meanwhile

    def _pick(self, pick: int) -> int | None:
        found = self.store.volume(self.volume).readdir(ROOT_INO)
        return found[pick % len(found)].ino if found else None

    @precondition(lambda self: self.steps is not None)
    @rule(pick=PICK)
    def somebody_moves_a_vm(self, pick: int) -> None:
        """It is the same VM; but a job that looks for it by its name will fail."""
        volume, ino = self.store.volume(self.volume), self._pick(pick)
        if ino is not None:
            self.serial += 1
            name = volume.last_name(volume.inode(ino))
            assert name is not None
            volume.rename(ROOT_INO, name, ROOT_INO, b"moved%d" % self.serial)

    @precondition(lambda self: self.steps is not None and self.command == "customize")
    @rule(pick=PICK)
    def somebody_gives_it_another_identity(self, pick: int) -> None:
        volume, ino = self.store.volume(self.volume), self._pick(pick)
        if ino is not None:
            self.serial += 1
            path = volume.path_of(ino)
            assert path is not None
            theirs = Machine("theirs", f"6ba7b810-9dad-11d1-80b5-{self.serial:012x}")
            Directory(volume, path, None).set_machine(theirs)
            self.others.add(ino)
            self.theirs = self.was(self.volume, ino)

    # --- the store

    @rule()
    def commit(self) -> None:
        self.store.commit()

    @rule(interrupted_after=st.none() | st.integers(0, 6), commits=st.booleans())
    def crash(self, interrupted_after: int | None, commits: bool) -> None:
        """Also once more in the middle of the recovery."""
        running = self.steps is not None
        if self.steps is not None:
            self._end_process(self.of_command)
            self._end_process(self.steps)
        self.steps = None
        self.store.abandon()
        self._open()
        if interrupted_after is not None:
            steps = recover(self.context, self.context.jobs.interrupted())
            self._drive(steps, interrupted_after, commits=commits)
            self._end_process(steps)
            self.store.abandon()
            self._open()
        self._drive(recover(self.context, self.context.jobs.interrupted()), None, commits=True)
        self.context.jobs.unsettled.clear()
        assert not self.context.jobs.interrupted()
        if running:
            self.others |= {ino for ino in self.begin if self._changed_durably(ino)}
            assert not self.store.snapshots(self.store.volume(self.volume))
            self._check(complete=False)
            self._finish()
        self._settle()

    @staticmethod
    def _end_process(steps: Steps[Any]) -> None:
        """No thread of it is left that could define something later."""
        with suppress(ProcessEndedError, StopIteration):
            todo = steps.throw(ProcessEndedError())
            while True:
                todo = steps.send(todo() if todo else None)

    def _changed_durably(self, ino: int) -> bool:
        machine = None
        with suppress(errors.RametError):
            machine = self.machine(self.volume, ino)
        return machine is not None and machine.name == "theirs"

    def _drive(self, steps: Steps[Any], limit: int | None, *, commits: bool) -> None:
        with suppress(StopIteration):
            error: Exception | None = None
            value: Any = None
            while limit is None or limit > 0:
                limit = None if limit is None else limit - 1
                todo = steps.throw(error) if error else steps.send(value)
                error, value = None, None
                try:
                    value = (self.store.commit if todo is durable else todo)() if todo else None
                except Exception as raised:
                    error = raised
        if commits:
            self.store.commit()

    def _finish(self) -> None:
        """What was cut short is finished by the same again."""
        if self.command == "unregister":
            call, arguments = COMMANDS["unregister"]
            work = Work(queue(self.context, call, ["lab:", *arguments], ()))
            self._drive(
                run(self.context, work, call(self.context, work, "lab:", *arguments)), None,
                commits=True,
            )  # fmt: skip
            self.context.jobs.unsettled.clear()
            assert work.job.state == COMPLETED

    def teardown(self) -> None:
        try:
            self.crash(None, False)
            for each in self.hypervisor.listAllDomains():
                if each.UUIDString() not in self.foreign:
                    each.undefine()
            report = fsck.check(self.store, data=True)
            assert report.clean, report.findings
            self.store.close()
        finally:
            for module, name, value in self._before:
                setattr(module, name, value)
            self.store.abandon()
            self.hypervisor.close()
            shutil.rmtree(self.path)
