"""Registering and unregistering many VMs that are there, over a real libvirtd: killed, cut off."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet
from libvirt_door import Door

from engine import errors
from service.rpc import Request

VMS = 40
DEADLINE_S = 60


@pytest.fixture
def fleet(fleet: Fleet) -> Iterator[Fleet]:
    """Its volume has VMs that are registered nowhere."""
    names = f"{fleet.name}:/{fleet.name}-{{n}}"
    fleet.ramet.run("vm", "clone", f"{fleet.name}:/golden", names, "--count", VMS - 1)
    fleet.ramet.run(
        "vm", "customize", f"{fleet.name}:/golden", "--name", f"{fleet.name}-golden"
    )  # fmt: skip
    yield fleet
    fleet.ramet.run("volume", "rm", "--force", fleet.name)


def registered(fleet: Fleet) -> set[str]:
    return {vm["name"] for vm in fleet.ramet.json("vm", "ls") if vm["registered"]}


def register(fleet: Fleet, uri: str | None, *, wait: bool) -> Any:
    return fleet.ask(Request("vm_register_all", [f"{fleet.name}:", uri], wait=wait))


def unregister(fleet: Fleet, *, wait: bool) -> Any:
    return fleet.ask(Request("vm_unregister_all", [f"{fleet.name}:", False], wait=wait))


def test_killed_on_the_way_all_is_as_it_was(fleet: Fleet, tmp_path: Path) -> None:
    names = set(fleet.names())
    told = fleet.killed_as_it_defines(
        tmp_path / "door", lambda uri: register(fleet, uri, wait=False)["job"]
    )
    assert (told["state"], told["left"]) == ("failed", None)
    assert (fleet.domains(), fleet.pools(), registered(fleet)) == ([], [], set())

    made = register(fleet, fleet.uri, wait=True)
    assert len(made["vms"]) == len(registered(fleet)) == len(fleet.domains()) == VMS
    assert len(fleet.pools()) == 1
    gone = unregister(fleet, wait=True)
    assert (fleet.domains(), fleet.pools(), registered(fleet)) == ([], [], set())
    job = fleet.job(gone["job"])
    assert (job["state"], job["items_done"], job["percent"]) == ("completed", VMS, 100)
    assert set(fleet.names()) == names


def test_a_hypervisor_lost_on_the_way_is_told_and_nothing_unknown(
    fleet: Fleet, tmp_path: Path
) -> None:
    path = tmp_path / "door"
    uri = f"qemu+unix:///system?socket={path}"
    door = Door(path, b"<domain", 30)
    with pytest.raises(errors.PartlyDone, match="job cancel"):
        register(fleet, uri, wait=True)
    assert len(fleet.domains()) == 30
    assert set(fleet.domains()) <= registered(fleet)  # `vm rm` would find each of them
    number = fleet.ramet.json("job", "ls")[-1]["job"]
    path.unlink()
    door = Door(path, b"<domain", 1000)
    told = fleet.ramet.json("job", "cancel", number)
    assert (told["state"], told["left"]) == ("failed", None)
    door.close()
    assert (fleet.domains(), fleet.pools(), registered(fleet)) == ([], [], set())
    assert fleet.ramet.json("fsck", "--data")["clean"]
