"""Who a VM is: everything that must differ between two VMs made from one."""

import hashlib
import re
import secrets
import uuid
from collections.abc import Container
from dataclasses import dataclass, field

from engine import errors

NAME_MAX = 200
LABEL_MAX = 63
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LABEL = re.compile(r"[^a-z0-9]+")


def check_name(name: str) -> str:
    """A name that is safe as a file name, a domain name and an XML text."""
    if len(name) > NAME_MAX or not _NAME.fullmatch(name):
        raise errors.InvalidArgument(
            f"{name[:60]!r} is no VM name; use letters, digits and _ . + -, at most {NAME_MAX}"
        )
    return name


def hostname_of(name: str) -> str:
    """The name as a host name label (RFC 1123: letters, digits, hyphens, at most 63).

    One that has to be cut ends in a hash of the whole: long names with one beginning differ.
    """
    label = _LABEL.sub("-", name.lower()).strip("-") or "vm"
    if len(label) <= LABEL_MAX:
        return label
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{label[: LABEL_MAX - 9].rstrip('-')}-{mark}"


def new_mac(*taken: Container[str]) -> str:
    """A MAC in QEMU's range 52:54:00 that is in none of ``taken``."""
    for _ in range(1000):
        tail = secrets.token_bytes(3)
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in tail)
        if not any(mac in each for each in taken):
            return mac
    raise errors.InvalidArgument("no MAC address of 52:54:00 is free; remove VMs first")


@dataclass(frozen=True, slots=True)
class Identity:
    """A new identity.  ``machine_id`` is what systemd's /etc/machine-id will hold."""

    name: str
    hostname: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    genid: str = field(default_factory=lambda: str(uuid.uuid4()))
    machine_id: str = field(default_factory=lambda: secrets.token_hex(16))
    instance_id: str = field(default_factory=lambda: f"ramet-{uuid.uuid4()}")

    @classmethod
    def new(cls, name: str) -> "Identity":
        return cls(check_name(name), hostname_of(name))
