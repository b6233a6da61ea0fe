"""A datastore's clone that registers its VMs is one job: killed or cut off, it is undone."""

import os
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
def fleet(fleet: Fleet) -> Fleet:
    """Its volume has VMs that are registered nowhere."""
    names = f"{fleet.name}:/vm-{{n}}"
    fleet.ramet.run("vm", "clone", f"{fleet.name}:/golden", names, "--count", VMS)
    return fleet


def clone(fleet: Fleet, uri: str, *, wait: bool) -> Any:
    spec = {"register": True, "uri": uri}
    arguments = [fleet.name, f"{fleet.name}-two", 1, 1, spec, "{volume}-{vm}"]
    return fleet.ask(Request("volume_clone", arguments, wait=wait))


def untouched(fleet: Fleet) -> bool:
    assert os.listdir(fleet.mount) == [fleet.name]
    assert (fleet.domains(), fleet.pools()) == ([], [])
    assert len(fleet.names()) == VMS + 1
    return bool(fleet.ramet.json("fsck", "--data")["clean"])


def test_a_killed_daemon_leaves_no_volume_and_no_domain(fleet: Fleet, tmp_path: Path) -> None:
    told = fleet.killed_as_it_defines(
        tmp_path / "door", lambda uri: clone(fleet, uri, wait=False)["job"]
    )
    assert (told["state"], told["left"]) == ("failed", None)
    assert untouched(fleet)
    assert len(clone(fleet, fleet.uri or "", wait=True)["vms"]) == VMS + 1
    assert len(fleet.domains()) == VMS + 1
    fleet.ramet.run("volume", "rm", "--force", f"{fleet.name}-two")
    assert untouched(fleet)


def test_a_hypervisor_that_is_lost_keeps_the_volume_until_it_answers(
    fleet: Fleet, tmp_path: Path
) -> None:
    path = tmp_path / "door"
    uri = f"qemu+unix:///system?socket={path}"
    door = Door(path, b"<domain", 30)
    with pytest.raises(errors.PartlyDone, match="job cancel"):
        clone(fleet, uri, wait=True)
    assert len(fleet.domains()) == 30
    number = fleet.ramet.json("job", "ls")[-1]["job"]
    assert "job cancel" in fleet.job(number)["left"]
    refused = fleet.ramet.run("volume", "rm", f"{fleet.name}-two", code=1)
    assert "are registered" in refused.stderr
    path.unlink()
    door = Door(path, b"<domain", 1000)
    told = fleet.ramet.json("job", "cancel", number)
    assert (told["state"], told["left"]) == ("failed", None)
    door.close()
    assert untouched(fleet)
