"""Jobs that register: killed, failing and cut off in the middle, with a real libvirtd."""

from pathlib import Path

import libvirt
import pytest
from fleet import Fleet
from libvirt_door import Door

from engine import errors
from service.rpc import Request


def clash(fleet: Fleet, n: int) -> libvirt.virDomain:
    """Somebody else's domain that has the name of a clone by the time it is defined."""
    connection = libvirt.open(fleet.uri)
    return connection.defineXML(
        f"<domain type='qemu'><name>{fleet.name}-{n}</name><memory>4096</memory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )


def test_a_killed_daemon_leaves_no_domain(fleet: Fleet) -> None:
    number = fleet.clone_vms(1000, register=True, wait=False)["job"]
    fleet.until(number, 200)
    assert fleet.job(number)["state"] == "running"
    fleet.kill()
    assert len(fleet.domains()) >= 200
    fleet.serve()
    told = fleet.ask(Request("job_wait", [number]))
    assert (told["state"], told["items_done"], told["left"]) == ("failed", 0, None)
    assert fleet.untouched()
    assert len(fleet.clone_vms(3, register=True)["vms"]) == 3
    assert len(fleet.domains()) == 3


def test_a_cancelled_job_leaves_no_domain(fleet: Fleet) -> None:
    number = fleet.clone_vms(1000, register=True, wait=False)["job"]
    fleet.until(number, 100)
    assert fleet.ask(Request("job_cancel", [number]))["state"] == "cancelled"
    assert fleet.untouched()


@pytest.mark.parametrize(
    ("on_error", "made"), [("undo", []), ("stop", [1, 2, 3]), ("continue", [1, 2, 3, 5, 6])]
)
def test_one_vm_that_fails_is_undone(fleet: Fleet, on_error: str, made: list[int]) -> None:
    (fleet.mount / fleet.name / f"{fleet.name}-4").mkdir()
    words = [
        "vm", "clone", f"{fleet.name}:/golden", f"{fleet.name}:/{fleet.name}-{{n}}", "--count", 6,
        "--register", "--on-error", on_error,
    ]  # fmt: skip
    failed = fleet.ramet.run(*words, code=3 if made else 13)
    assert "exists" in failed.stderr
    names = [f"{fleet.name}-{n}" for n in made]
    assert fleet.domains() == names
    assert fleet.names() == [*sorted([*names, f"{fleet.name}-4"]), "golden"]
    told = fleet.job(1)
    assert (told["state"], told["failed_item"]) == ("failed", f"{fleet.name}-4")
    assert (told["items_done"], told["items_failed"], told["left"]) == (len(made), 1, None)
    if not made:
        assert fleet.pools() == []
    assert fleet.ramet.json("fsck", "--data")["clean"]
    fleet.ramet.run("rm", "-r", f"{fleet.name}:/{fleet.name}-4")


@pytest.mark.parametrize(
    ("on_error", "made"), [("undo", []), ("stop", [1, 2, 3]), ("continue", [1, 2, 3, 5, 6])]
)
def test_one_domain_that_libvirt_refuses_is_undone(
    fleet: Fleet, tmp_path: Path, on_error: str, made: list[int]
) -> None:
    """Its name is taken after the job has looked, by somebody else's domain."""
    others = []

    def take_the_fourth_name(left: int) -> None:
        if left == 96:
            others.append(clash(fleet, 4))

    door = Door(tmp_path / "door", b"<domain", 100, take_the_fourth_name)
    words = [
        "vm", "clone", f"{fleet.name}:/golden", f"{fleet.name}:/{fleet.name}-{{n}}", "--count", 6,
        "--register", "--on-error", on_error, "-c", f"qemu+unix:///system?socket={tmp_path}/door",
    ]  # fmt: skip
    failed = fleet.ramet.run(*words, code=3 if made else 1)
    assert "already exists" in failed.stderr
    for other in others:
        other.undefine()
    names = [f"{fleet.name}-{n}" for n in made]
    assert fleet.domains() == names
    assert fleet.names() == [*names, "golden"]
    told = fleet.job(1)
    assert (told["state"], told["failed_item"]) == ("failed", f"{fleet.name}-4")
    assert (told["items_done"], told["items_failed"], told["left"]) == (len(made), 1, None)
    for name in names:
        fleet.ramet.run("vm", "rm", f"{fleet.name}:/{name}")
    door.close()
    assert fleet.untouched()


def test_what_a_lost_hypervisor_keeps_is_undone_later(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "door"
    uri = f"qemu+unix:///system?socket={path}"
    door = Door(path, b"<domain", 20)
    with pytest.raises(errors.PartlyDone, match="job cancel 1"):
        fleet.clone_vms(40, register=True, uri=uri)
    told = fleet.job(1)
    assert (told["state"], len(fleet.names())) == ("failed", 41)
    assert "job cancel 1" in told["left"]
    assert len(fleet.domains()) == 20
    assert "left" in fleet.ramet.run("job", "clear", 1, code=1).stderr
    assert "hypervisor" in fleet.ramet.run("job", "cancel", 1, code=3).stderr
    fleet.kill()  # the next daemon tries, and keeps it in mind too
    fleet.serve()
    assert "job cancel 1" in fleet.ask(Request("job_wait", [1]))["left"]
    path.unlink()
    door = Door(path, b"<domain", 1000)
    told = fleet.ramet.json("job", "cancel", 1)
    assert (told["state"], told["left"], told["items_done"]) == ("failed", None, 0)
    door.close()
    assert fleet.untouched()
    fleet.ramet.run("job", "clear", 1)


def test_a_hypervisor_lost_at_a_clone_that_may_stop_keeps_the_others(
    fleet: Fleet, tmp_path: Path
) -> None:
    """What is complete stays; of the one whose answer was lost nobody knows: its files stay."""
    path = tmp_path / "door"
    door = Door(path, b"<domain", 20)
    uri = f"qemu+unix:///system?socket={path}"
    result = fleet.clone_vms(40, register=True, on_error="continue", uri=uri)
    assert [each["item"] for each in result["failures"]] == [
        f"{fleet.name}-20", f"storage pool ramet-{fleet.name}",
    ]  # fmt: skip
    assert len(fleet.domains()) == 20
    assert len(fleet.names()) == 21
    told = fleet.job(1)
    assert (told["state"], told["items_done"]) == ("failed", 19)
    path.unlink()
    door = Door(path, b"<domain", 1000)
    for vm in fleet.ramet.json("vm", "ls"):
        if vm["registered"] is not None:
            fleet.ramet.run("vm", "rm", vm["address"])
    door.close()
    assert fleet.untouched()
