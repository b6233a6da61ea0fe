"""``ramet vm``: machines on volumes and what libvirt knows of them, made to agree.

Changes of the store are atomic between two yields; calls to libvirt run on a thread.  What fails
half-way is undone: domains first, then files.  When libvirt is lost on the way and the domains
cannot be taken back, the files stay, and the VMs are noted as registered: no domain is ever without
its files, and `vm rm` finishes the work.
"""

from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

from engine import errors
from hypervisor import domain, machines
from hypervisor.driver import LibvirtDriver
from hypervisor.identity import Identity, check_name
from hypervisor.machines import Directory, Machine
from hypervisor.pools import Pool, Pools
from service import hosts
from service.addresses import Address, Context, parse
from service.operations import Operation, Result, as_of, expand_all, unique_of
from service.steps import Steps, durable

CLONES_STEP = 8
T = TypeVar("T")


def _directory(context: Context, address: Address, uri: str | None = None) -> Directory:
    """A VM's directory, and where the host at ``uri`` (or this one) has it."""
    place = hosts.place(context, uri, address.volume, address.path)
    return Directory(address.volume, address.path.rstrip("/") or "/", place)


def _told(directory: Directory, machine: Machine) -> dict[str, Any]:
    return {
        "name": machine.name,
        "address": f"{directory.volume}:{directory.path}",
        "uuid": machine.uuid,
        "macs": machine.macs,
        "registered": machine.uri,
    }


def _with_driver(uri: str, work: Callable[[LibvirtDriver], T]) -> Callable[[], T]:
    """A call for a thread: connect, work, close."""

    def call() -> T:
        driver = LibvirtDriver(uri)
        try:
            return work(driver)
        finally:
            driver.close()

    return call


def vm_add(
    context: Context, address: str, text: str | None, from_domain: str | None, uri: str,
    virt_type: str | None,
) -> Steps[Result]:  # fmt: skip
    """Make a directory a VM: XML given, or asked of libvirt, or already in it."""
    where = parse(context, address)
    if from_domain is not None:
        text = yield _with_driver(uri, lambda driver: driver.xml(from_domain))
    directory = _directory(context, where)
    body = None if text is None else text.encode()
    return _told(directory, machines.add(context.store, directory, body, virt_type))


def vm_clone(
    context: Context, source: str, target: str, count: int, start: int, register: bool, uri: str,
    user_data: str | None, virt_type: str | None,
) -> Steps[Result]:  # fmt: skip
    """Clone a VM ``count`` times, each with its own identity; register them; all or none."""
    base = _directory(context, parse(context, source))
    _ = base.machine
    targets = [parse(context, each) for each in expand_all(target, start, count)]
    names = [check_name(PurePosixPath(each.path).name) for each in targets]
    taken = machines.taken_macs(context.store)
    if register:
        context.mounted_path(base.volume, base.path)
        known, macs = yield _with_driver(uri, LibvirtDriver.names_and_macs)
        clash = sorted(known & set(names))
        if clash:
            raise errors.AlreadyExists(f"{uri} has a domain {clash[0]!r}; choose another name")
        taken |= macs
    extra = None if user_data is None else user_data.encode()
    at = uri if register else None
    made: list[Directory] = []
    try:
        for n, (name, where) in enumerate(zip(names, targets, strict=True)):
            each = machines.clone(
                context.store, base, where.volume, where.path, hosts.place(context, at, *where),
                Identity.new(name), taken, extra, virt_type,
            )  # fmt: skip
            made.append(each)
            taken |= set(each.machine.macs)
            if n % CLONES_STEP == CLONES_STEP - 1:
                yield None
        if register:
            yield from _register(context, made, uri)
    except errors.PartlyDone:
        for each in made:
            _note(each, uri)
        raise
    except BaseException:
        for each in made:
            _remove(context, each)
        raise
    return {
        "source": source,
        "vms": [_told(each, each.machine) for each in made],
        "bytes_copied": 0,
        "pool": _pools_of(context, made[:1], uri)[0].name if register else None,
    }


def _remove(context: Context, directory: Directory) -> None:
    parent, name = directory.volume.resolve_parent(directory.path)
    context.store.remove_tree(directory.volume, parent.ino, name)


def _pools_of(context: Context, made: list[Directory], uri: str) -> list[Pool]:
    """The pools that show these VMs' directories on the host."""
    root = hosts.mount_path(context, hosts.at(context.store, uri))
    assert root is not None, "what is to be registered is mounted"
    return sorted({hosts.pool_of_vm(root, each.volume, each.path) for each in made})


def _register(context: Context, made: list[Directory], uri: str) -> Steps[None]:
    """Define all, note it, show them in a pool; undone in libvirt when any of it fails."""
    texts = [each.local_xml() for each in made]
    uuids = [each.machine.uuid for each in made]
    pools = _pools_of(context, made, uri)

    def define(driver: LibvirtDriver) -> None:
        for text in {_kind(text): text for text in texts}.values():
            driver.check_runs(text)
        driver.define_all(texts)

    yield durable  # no domain without its files, whatever happens next
    yield _with_driver(uri, define)
    try:
        for pool in pools:
            yield hosts.on_pools(uri, context.store, partial(Pools.present, pool=pool))
        for each in made:
            _note(each, uri)
    except Exception as error:
        try:
            yield _with_driver(uri, lambda driver: driver.undefine_all(uuids))
        except errors.RametError as again:
            raise errors.PartlyDone(
                f"{error}; and the domains could not be taken back: {again}; "
                "remove their VMs (`ramet vm rm`) when libvirt answers again"
            ) from error
        raise


def _note(each: Directory, uri: str) -> None:
    """The VM is, or may be, registered there."""
    old = each.machine
    each.set_machine(Machine(old.name, old.uuid, old.macs, uri))


def _kind(text: str) -> tuple[str, str]:
    root = domain.parse(text.encode())
    os_type = root.find("os/type")
    return root.get("type", ""), "" if os_type is None else os_type.get("arch", "")


def vm_register(context: Context, address: str, uri: str) -> Steps[Result]:
    """Define a VM where it is mounted now; again is as good."""
    directory = _directory(context, parse(context, address), uri)
    _ = directory.machine
    yield from _register(context, [directory], uri)
    return _told(directory, directory.machine)


def vm_unregister(context: Context, address: str, uri: str | None, force: bool) -> Steps[Result]:
    """Undefine a VM and keep its files."""
    directory = _directory(context, parse(context, address))
    yield from _unregister(context, directory, uri, force=force)
    return _told(directory, directory.machine)


def _unregister(
    context: Context, directory: Directory, uri: str | None, *, force: bool
) -> Steps[None]:  # fmt: skip
    machine = directory.machine
    at = uri or machine.uri
    if at is None:
        return
    yield _with_driver(at, lambda driver: driver.undefine_all([machine.uuid], stop=force))
    directory.set_machine(Machine(machine.name, machine.uuid, machine.macs))
    if hosts.at(context.store, at) is None:  # else a rescan of it decides
        pool = _pool_name(directory)
        in_use = {_pool_name(d) for d, m in machines.everyone(context.store) if m.uri == at}
        if pool not in in_use:
            yield hosts.on_pools(at, context.store, lambda pools: pools.drop(pool))


def _pool_name(directory: Directory) -> str:
    return hosts.pool_of_vm(PurePosixPath("/"), directory.volume, directory.path).name


def vm_customize(context: Context, address: str, name: str, user_data: str | None) -> Result:
    """A new identity for an existing VM, or for a plain clone of a VM's directory."""
    directory = _directory(context, parse(context, address))
    extra = None if user_data is None else user_data.encode()
    made = machines.renew(context.store, directory, Identity.new(name), extra)
    return _told(directory, made)


def vm_ls(context: Context, volume: str | None) -> Result:
    rows = [
        _told(directory, machine)
        | {
            "unique_bytes": unique_of(context, directory.volume, directory.inode),
            "as_of": as_of(context),
        }
        for directory, machine in machines.everyone(context.store)
        if volume in (None, directory.volume.name)
    ]
    return sorted(rows, key=lambda row: str(row["address"]))


def vm_show(context: Context, address: str) -> Steps[Result]:
    """What the store and libvirt say of a VM, and the XML that `vm register` would define."""
    where = parse(context, address)
    machine = _directory(context, where).machine
    directory = _directory(context, where, machine.uri)
    state = "not registered"
    if machine.uri is not None:
        state = yield _with_driver(machine.uri, lambda driver: driver.state(machine.uuid))
    xml = domain.serialize(directory.xml()) if directory.mounted is None else directory.local_xml()
    return _told(directory, machine) | {
        "state": state,
        "xml": xml if isinstance(xml, str) else xml.decode(),
    }


def vm_rm(context: Context, address: str, force: bool, dry_run: bool) -> Steps[Result]:
    """Undefine a VM and remove its directory."""
    directory = _directory(context, parse(context, address))
    machine = directory.machine
    if not dry_run:
        yield from _unregister(context, directory, None, force=force)
        _remove(context, directory)
    return _told(directory, machine) | {"dry_run": dry_run}


READS: tuple[Operation, ...] = (vm_ls, vm_show)
CHANGES: tuple[Operation, ...] = (
    vm_add, vm_clone, vm_register, vm_unregister, vm_customize, vm_rm,
)  # fmt: skip
