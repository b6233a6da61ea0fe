"""Undo when the hypervisor does not answer: whatever else is wrong, the job knows what is left."""

from pathlib import Path

import pytest

from engine import ROOT_INO, Store, errors
from hypervisor.machines import Directory, Machine
from service.addresses import Context
from service.job_states import FAILED
from service.steps import run_here
from service.work import Work, recover

NOWHERE = "qemu+unix:///system?socket=/nonexistent/socket"


def test_a_full_disk_does_not_hide_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VMs cannot be noted as registered; the job still knows them, and the daemon starts."""
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        context, lab = Context(store), store.create_volume("lab")
        job = context.jobs.create("vm clone", "a -> b")
        context.jobs.begin(job)
        work = Work(job)
        work.registers(NOWHERE)
        made = lab.mkdir(ROOT_INO, b"vm", 0o755, 0, 0)
        Directory(lab, "/vm", None).set_machine(Machine("vm", "some uuid"))
        work.made(lab, made, ROOT_INO, b"vm", "some uuid")
        context.jobs.save(job, work.take())

        def full() -> None:
            raise errors.NoSpace("the disk is full")

        monkeypatch.setattr(store.pool, "check_room", full)
        run_here(recover(context, [job]), store.commit, lambda: None)
        assert job.state == FAILED
        assert f"job cancel {job.id}" in job.left
        assert [each.uuid for each in context.jobs.made(job)] == ["some uuid"]
        assert lab.resolve("/vm").ino == made.ino
