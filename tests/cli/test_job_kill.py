"""The daemon is killed in the middle of jobs: what they say afterwards is true."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet

from engine import Store
from service.rpc import Request


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="ramet-fleet-", dir="/var/tmp") as name:
        made = Fleet(Path(name))
        yield made
        made.close()


def test_a_thousand_vms_half_made_are_none(fleet: Fleet) -> None:
    before = fleet.clone_vms(3, register=False)["job"]
    number = fleet.clone_vms(1000, register=False, wait=False)["job"]
    # names 1 to 3 are taken: it fails at once, and undoes nothing of the other's
    assert fleet.ask(Request("job_wait", [number]))["failed_item"] == f"{fleet.name}-1"
    for n in (1, 2, 3):
        fleet.ramet.run("vm", "rm", f"{fleet.name}:/{fleet.name}-{n}")

    number = fleet.clone_vms(1000, register=False, wait=False)["job"]
    queued = fleet.ask(
        Request("volume_clone", [fleet.name, "copy", 1, 1], wait=False, after=[number])
    )["job"]
    fleet.until(number, 300)
    assert fleet.job(number)["state"] == "running"
    fleet.kill()
    fleet.serve()

    told = fleet.job(number)
    assert (told["state"], told["items_done"], told["items_total"]) == ("failed", 0, 1000)
    assert "ended in the middle" in told["error"]
    assert (fleet.job(before)["state"], fleet.job(before)["items_done"]) == ("completed", 3)
    waiter = fleet.job(queued)
    assert (waiter["state"], waiter["started"]) == ("failed", None)
    assert fleet.untouched()
    assert [row["name"] for row in fleet.ramet.json("volume", "ls")] == [
        f"beside{number}",
        fleet.name,
    ]
    fleet.ramet.run("gc")
    assert fleet.ramet.json("fsck")["garbage_bytes"] == 0

    assert len(fleet.clone_vms(2, register=False)["vms"]) == 2
    fleet.ramet.run("job", "clear")
    fleet.ramet.run("umount")
    with Store.open(fleet.ramet.store) as store:
        assert [key for key, _ in store.records.items("job/")] == ["job/next"]


def test_a_killed_command_is_undone_by_the_daemon(fleet: Fleet) -> None:
    """Twice in a row: the second daemon is killed while it undoes, or right after."""
    number = fleet.clone_vms(1000, register=False, wait=False)["job"]
    fleet.until(number, 500)
    fleet.kill()
    fleet.serve()
    fleet.kill()
    assert fleet.ramet.json("job", "show", number)["state"] == "failed"
    fleet.serve()
    assert fleet.untouched()
