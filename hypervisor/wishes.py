"""What a clone shall be like, beside being itself: seed templates, variables, hardware."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine import errors
from hypervisor.identity import Identity
from hypervisor.patterns import Value
from hypervisor.template import Template

JINJA = "## template: jinja"


@dataclass(frozen=True, slots=True)
class Wishes:
    """Of one clone.  Sizes in bytes; None leaves what the base has.

    ``xml``: the domain XML to start from, None is the one in the base's directory.
    """

    user_data: Template | None = None
    network: Template | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    memory_bytes: int | None = None
    vcpus: int | None = None
    disk_bytes: int | None = None
    virt_type: str | None = None
    xml: bytes | None = None

    def render(self, identity: Identity, macs: list[str]) -> tuple[str | None, str | None]:
        """user-data and network-config of the clone; None where there is none."""
        values = built_in(identity, macs) | dict(self.values)
        return (
            None if self.user_data is None else self.user_data.render(values),
            None if self.network is None else self.network.render(values),
        )


def user_data_template(text: str) -> Template:
    """InvalidArgument unless it is cloud-config, a script, or cloud-init's own template."""
    if not text.startswith(("#cloud-config", "#!", JINJA)):
        raise errors.InvalidArgument("user-data must begin with #cloud-config or #!")
    return Template("user-data", text, is_yaml=text.startswith("#cloud-config"))


def network_template(text: str) -> Template:
    """cloud-init's network-config, version 1 or 2."""
    made = Template("network", text, is_yaml=True)
    if not made.keys() & {"version", "network"}:
        raise errors.InvalidArgument(
            "network must be cloud-init's network-config, with `version: 2` (or 1) at its top"
        )
    return made


def built_in(identity: Identity, macs: list[str], n: int = 1) -> dict[str, Value]:
    """The variables that every clone has: ``mac`` and ``mac1`` are the first interface's."""
    values: dict[str, Value] = {
        "n": n,
        "name": identity.name,
        "hostname": identity.hostname,
        "uuid": identity.uuid,
        "machine_id": identity.machine_id,
        "instance_id": identity.instance_id,
    }
    for at, mac in enumerate(macs, 1):
        values[f"mac{at}"] = mac
    if macs:
        values["mac"] = macs[0]
    return values
