"""Which VMs a clone specification asks for.

Everything that can be wrong with it is told here, with the row, before anything is made.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

from engine import errors
from hypervisor import hardware
from hypervisor.identity import Identity, check_name, hostname_of
from hypervisor.patterns import Value, expand
from hypervisor.template import Template
from hypervisor.variables import ROWS_MAX, Row
from hypervisor.wishes import Wishes, built_in, network_template, user_data_template
from service.clone_spec import CloneSpec

CLONES_MAX = ROWS_MAX
_SAMPLE_MAC = "52:54:00:00:00:00"  # all digits: what YAML misreads first


class Item(NamedTuple):
    """One clone of a batch: its address, its number, its variables; ``row`` counts from 1."""

    address: str
    name: str
    n: int
    values: dict[str, Value]
    row: int


def plan_of(spec: CloneSpec, target: str, interfaces: int = 1) -> "Plan":
    """The VMs that ``spec`` asks for; ``interfaces``: how many the base has.

    InvalidArgument for anything wrong with it, the same name twice included.
    """
    hardware.check(spec.memory_bytes, spec.vcpus, spec.disk_bytes)
    made = Plan(
        spec,
        [_item(spec, target, at) for at in range(_count(spec))],
        None if spec.user_data is None else user_data_template(spec.user_data),
        None if spec.network is None else network_template(spec.network),
    )
    if len({item.address for item in made.items}) < len(made.items):
        raise errors.InvalidArgument(
            "two clones would have the same name; put {n} into the target, as in "
            "lab:/web-{n:03d}, or a column whose values all differ"
        )
    if len({hostname_of(item.name) for item in made.items}) < len(made.items):
        raise errors.InvalidArgument(
            "two clones would have the same host name, in which case and other signs than "
            "letters and digits do not count; choose names that differ in more"
        )
    made.check_templates(interfaces)
    return made


def _count(spec: CloneSpec) -> int:
    count = spec.count if spec.count is not None else len(spec.rows) or 1
    if spec.rows and count != len(spec.rows):
        raise errors.InvalidArgument(
            f"--count is {count}, and --var has {len(spec.rows)} rows, one for each clone; "
            "leave --count out"
        )
    if not 1 <= count <= CLONES_MAX or spec.start < 0 or spec.step < 1:
        raise errors.InvalidArgument(
            f"count must be 1 to {CLONES_MAX}, start 0 or more, step 1 or more"
        )
    return count


def _item(spec: CloneSpec, target: str, at: int) -> Item:
    n = spec.start + at * spec.step
    row: Row = spec.rows[at] if spec.rows else {}
    try:
        address = expand(target, {"n": n, **row})
        name = check_name(PurePosixPath(address.partition(":")[2] or address).name)
    except errors.InvalidArgument as error:
        raise _in_row(error, at + 1, spec.rows) from None
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
