"""All that a user asks of `vm clone`, in one struct that travels as a plain dict.

The command line fills it in, RPC and a job's record carry it unchanged (``to_dict``, ``of``), and
``plan`` says which VMs it asks for: everything that can be wrong with it is told there, with the
row, before anything is made.
"""

from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import msgspec

from engine import errors
from hypervisor import hardware
from hypervisor.identity import Identity, check_name, hostname_of
from hypervisor.patterns import Value, expand
from hypervisor.template import Template
from hypervisor.variables import ROWS_MAX, Row
from hypervisor.wishes import Wishes, built_in, network_template, user_data_template

CLONES_MAX = ROWS_MAX
_SAMPLE_MAC = "52:54:00:00:00:00"  # all digits: what YAML misreads first


class Item(NamedTuple):
    """One clone of a batch: its address, its number, its variables; ``row`` counts from 1."""

    address: str
    name: str
    n: int
    values: dict[str, Value]
    row: int


class CloneSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """``count`` None: one for each of ``rows``, or one.  Sizes in bytes; None: as in the base.

    ``on_error``: what one that fails means for the others (``service.vm_batch``).
    ``via``: where the domain XML comes from, the base's directory (file) or libvirt (api).
    ``user_data``, ``network``: templates (``hypervisor.template``).  ``quiesce``: freeze the file
    systems of a running base by its guest agent while it is copied.
    """

    count: int | None = None
    start: int = 1
    step: int = 1
    rows: list[dict[str, bool | int | str]] = []
    user_data: str | None = None
    network: str | None = None
    memory_bytes: int | None = None
    vcpus: int | None = None
    disk_bytes: int | None = None
    virt_type: str | None = None
    via: Literal["file", "api"] = "file"
    register: bool = False
    power_on: bool = False
    quiesce: bool = False
    on_error: Literal["undo", "stop", "continue"] = "undo"
    uri: str = "qemu:///system"

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "CloneSpec":
        """InvalidArgument for what is none."""
        try:
            return msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise errors.InvalidArgument(f"no clone specification: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    @property
    def registers(self) -> bool:
        """What shall be powered on has to be registered."""
        return self.register or self.power_on

    def plan(self, target: str, interfaces: int = 1) -> "Plan":
        """The VMs that it asks for; ``interfaces``: how many the base has.

        InvalidArgument for anything wrong with it, the same name twice included.
        """
        hardware.check(self.memory_bytes, self.vcpus, self.disk_bytes)
        plan = Plan(
            self,
            [self._item(target, at) for at in range(self._count())],
            None if self.user_data is None else user_data_template(self.user_data),
            None if self.network is None else network_template(self.network),
        )
        if len({item.address for item in plan.items}) < len(plan.items):
            raise errors.InvalidArgument(
                "two clones would have the same name; put {n} into the target, as in "
                "lab:/web-{n:03d}, or a column whose values all differ"
            )
        if len({hostname_of(item.name) for item in plan.items}) < len(plan.items):
            raise errors.InvalidArgument(
                "two clones would have the same host name, in which case and other signs than "
                "letters and digits do not count; choose names that differ in more"
            )
        plan.check_templates(interfaces)
        return plan

    def _count(self) -> int:
        count = self.count if self.count is not None else len(self.rows) or 1
        if self.rows and count != len(self.rows):
            raise errors.InvalidArgument(
                f"--count is {count}, and --var has {len(self.rows)} rows, one for each clone; "
                "leave --count out"
            )
        if not 1 <= count <= CLONES_MAX or self.start < 0 or self.step < 1:
            raise errors.InvalidArgument(
                f"count must be 1 to {CLONES_MAX}, start 0 or more, step 1 or more"
            )
        return count

    def _item(self, target: str, at: int) -> Item:
        n = self.start + at * self.step
        row: Row = self.rows[at] if self.rows else {}
        try:
            address = expand(target, {"n": n, **row})
            name = check_name(PurePosixPath(address.partition(":")[2] or address).name)
        except errors.InvalidArgument as error:
            raise _in_row(error, at + 1, self.rows) from None
        return Item(address, name, n, row, at + 1)


class Plan(NamedTuple):
    """A specification taken apart: each template parsed once, each VM known by name."""

    spec: CloneSpec
    items: list[Item]
    user_data: Template | None
    network: Template | None

    def check_templates(self, interfaces: int) -> None:
        """Fill in every row once, with MACs that are none yet."""
        templates = [each for each in (self.user_data, self.network) if each and each.names]
        for item in self.items if templates else []:
            identity = Identity.new(item.name)
            values = built_in(identity, [_SAMPLE_MAC] * interfaces, item.n) | item.values
            try:
                for each in templates:
                    each.render(values)
            except errors.RametError as error:
                raise _in_row(error, item.row, self.spec.rows) from None

    def wishes(self, item: Item, xml: bytes | None = None) -> Wishes:
        """For one of its items; ``xml``: of the base, when it does not come from its directory."""
        spec = self.spec
        return Wishes(
            self.user_data, self.network, {"n": item.n, **item.values}, spec.memory_bytes,
            spec.vcpus, spec.disk_bytes, spec.virt_type, xml,
        )  # fmt: skip


def _in_row(error: errors.RametError, row: int, rows: list[Row]) -> errors.RametError:
    return type(error)(f"row {row} of --var: {error}") if rows else error
