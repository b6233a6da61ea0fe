"""Jobs on VMs that are there: what a cancelled, failed or cut one leaves (the mock hypervisor)."""

from collections.abc import Iterator
from typing import Any

import pytest
from vm_job_machine import COUNT, VmJobMachine

from engine import ROOT_INO
from hypervisor.machines import MARK
from service.jobs import CANCELLED, FAILED


@pytest.fixture
def machine() -> Iterator[VmJobMachine]:
    """Driven here; it looks at everything whenever a job ends, and at its own end."""
    made = VmJobMachine()
    yield made
    made.teardown()


def told(machine: VmJobMachine) -> Any:
    assert machine.work is not None
    return machine.context.jobs.told(machine.work.job)


def until(machine: VmJobMachine, items: int) -> None:
    assert machine.work is not None
    while machine.work.job.items_done < items:
        machine.go_on(1)
        assert machine.steps is not None


def test_a_cancelled_customizing_gives_back_what_each_vm_was(machine: VmJobMachine) -> None:
    copy = machine.store.volume("copy")
    before = machine.all("copy")
    assert all(each.files[3] == b"said" for each in before.values())
    machine.start("customize", 4)
    until(machine, 3)
    done = [ino for ino, was in machine.all("copy").items() if was != before[ino]]
    assert len(done) == 3
    for ino in done:
        assert machine.was("copy", ino).files[3] is None  # the old one's output is dropped
    machine.cancel()
    machine.go_on(100)
    assert told(machine)["state"] == CANCELLED
    assert machine.all("copy") == before
    assert machine.store.snapshots(copy) == []


def test_a_crash_in_the_midst_of_customizing_gives_it_back_too(machine: VmJobMachine) -> None:
    before = machine.all("copy")
    machine.start("customize", 4)
    until(machine, 3)
    machine.commit()
    machine.crash(2, True)
    assert machine.all("copy") == before
    (job,) = machine.context.jobs.all()
    assert (job.state, job.items_done) == (FAILED, 0)


def test_one_that_fails_names_the_vm_and_all_are_as_they_were(machine: VmJobMachine) -> None:
    machine.start("customize", 1)
    machine.go_on(100)
    assert (told(machine)["state"], told(machine)["failed_item"]) == (FAILED, "vm1-new")


def test_a_cancelled_registering_takes_its_domains_back(machine: VmJobMachine) -> None:
    machine.start("register", 4)
    until(machine, 2)
    assert len(machine.domains()) >= 2
    machine.cancel()
    machine.go_on(100)
    assert told(machine)["state"] == CANCELLED
    assert machine.domains() == set()


def test_a_domain_that_was_there_before_is_not_taken_back(machine: VmJobMachine) -> None:
    """Somebody has defined one VM by hand; a job that registers it as well is cancelled."""
    machine.start("register", 4)
    machine.go_on(100)
    lab = machine.store.volume("lab")
    first = lab.readdir(ROOT_INO)[0].ino
    found = machine.machine("lab", first)
    assert found is not None
    kept = machine.hypervisor.lookupByUUIDString(found.uuid).XMLDesc()
    machine.start("unregister", 4)
    machine.go_on(100)
    machine.hypervisor.defineXML(kept)
    machine.by_hand.add(found.uuid)
    machine.start("register", 4)
    until(machine, 1)
    machine.cancel()
    machine.go_on(100)
    assert machine.domains() == {found.uuid}
    machine.hypervisor.lookupByUUIDString(found.uuid).undefine()


def test_a_stopped_unregistering_says_how_far_it_came(machine: VmJobMachine) -> None:
    machine.start("register", 4)
    machine.go_on(100)
    assert len(machine.domains()) == COUNT
    machine.start("unregister", 4)
    until(machine, 2)
    machine.cancel()
    machine.go_on(100)
    gone = COUNT - len(machine.domains())
    assert gone in (2, 3)  # the call that ran when it was told
    assert f"told to stop; {gone} of {COUNT} are unregistered" in told(machine)["error"]
    machine.start("unregister", 4)
    machine.go_on(100)
    assert machine.domains() == set()


@pytest.mark.parametrize("command", ["register", "unregister", "customize"])
def test_a_damaged_mark_fails_by_itself(machine: VmJobMachine, command: str) -> None:
    if command == "unregister":
        machine.start("register", 4)
        machine.go_on(100)
    volume = machine.store.volume("copy" if command == "customize" else "lab")
    damaged = volume.readdir(ROOT_INO)[2].ino
    before = volume.get_mark(damaged, MARK)
    assert before is not None
    volume.set_mark(damaged, MARK, b"\xc1")
    machine.start(command, 4)
    machine.others.add(damaged)
    machine.begin.pop(damaged)
    machine.mend = lambda: volume.set_mark(damaged, MARK, before)
    machine.go_on(100)
    assert (machine.result["failed"], len(machine.result["vms"])) == (1, COUNT - 1)
    assert "vm add" in machine.result["failures"][0]["error"]
