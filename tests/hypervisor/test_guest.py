"""Real guests: what a clone's guest says of itself is what the store and libvirt say."""

from pathlib import Path
from typing import TYPE_CHECKING

from guests import Guest

if TYPE_CHECKING:
    from conftest import Lab


def boot(lab: "Lab", *names: str) -> list[dict[str, str]]:
    guests = [Guest(lab.libvirt, n, lab.mount / "lab" / n / "console.log") for n in names]
    for guest in guests:
        guest.start()
    told = [guest.identity() for guest in guests]
    for guest in guests:
        guest.shut_down()
    return told


def test_guests_have_identities_of_their_own(lab: "Lab", golden: Path) -> None:
    lab.ramet.run("rm", "lab:/golden/golden.raw")
    lab.ramet.run("import", golden, "lab:/golden/golden.raw")
    made = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/Web_{n}", "--count", 2, "--register")
    first, second = boot(lab, "Web_1", "Web_2")
    for vm, guest in zip(made["vms"], (first, second), strict=True):
        assert guest["uuid"] == vm["uuid"]
        assert guest["mac"] == vm["macs"][0]
        assert guest["hostname"] == vm["name"].lower().replace("_", "-")
        assert guest["boots"] == "1"
    lab.ramet.run("vm", "rm", "lab:/golden")

    # a clone of a VM that has been up is a new individual as well
    lab.ramet.run("vm", "clone", "lab:/Web_1", "lab:/third", "--register")
    (third,) = boot(lab, "third")
    assert third["boots"] == "2"
    for key in first.keys() - {"boots"}:
        assert len({first[key], second[key], third[key]}) == 3, key

    # and a reboot keeps the identity
    (again,) = boot(lab, "Web_1")
    assert again == first | {"boots": "2"}
