"""An emulated TPM is one VM's own, and what libvirt keeps of it goes with the VM."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Lab

KEPT = Path("/var/lib/libvirt/swtpm")
TPM = "<tpm model='tpm-tis'><backend type='emulator' version='2.0' persistent_state='yes'/></tpm>"


def state(uuid: str) -> bytes:
    """A TPM's state: its seeds, of which its keys are made."""
    (found,) = (KEPT / uuid).rglob("*.permall")
    return found.read_bytes()


def test_each_vm_has_a_tpm_of_its_own_and_none_is_left(lab: "Lab") -> None:
    xml = lab.mount / "lab/golden/domain.xml"
    xml.write_text(xml.read_text().replace("</devices>", f"{TPM}</devices>"))
    base = lab.ramet.json("vm", "register", "lab:/golden")
    lab.libvirt.lookupByUUIDString(base["uuid"]).create()
    made = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/tpm-{n}", "--count", 2, "--power-on")
    uuids = [base["uuid"], *(vm["uuid"] for vm in made["vms"])]
    assert len({state(uuid) for uuid in uuids}) == 3

    # another identity, another TPM: that of the old one goes with its domain
    lab.libvirt.lookupByUUIDString(uuids[1]).destroy()
    new = lab.ramet.json("vm", "customize", "lab:/tpm-1", "--name", "tpm-new", "--via", "api")
    assert not (KEPT / uuids[1]).exists()
    lab.libvirt.lookupByUUIDString(new["uuid"]).create()
    assert state(new["uuid"]) not in [state(uuid) for uuid in (uuids[0], uuids[2])]

    for address in ("lab:/tpm-1", "lab:/tpm-2", "lab:/golden"):
        lab.ramet.run("vm", "rm", "--force", address)
    assert [uuid for uuid in (*uuids, new["uuid"]) if (KEPT / uuid).exists()] == []
