"""A VM's new identity by the hypervisor's own interface: ask, change, define again.

The store is first and durable: from then on the VM's mark has both UUIDs, the new one and the one
that the hypervisor still knows, so that `vm rm` finds the domain whatever happens in between.  When
the hypervisor refuses the new domain, it keeps the old one and the store gets back what it had.
"""

import xml.etree.ElementTree as ET
from functools import partial
from pathlib import PurePosixPath

from engine import errors
from hypervisor import domain, individuals
from hypervisor.identity import Identity
from hypervisor.individuals import Change
from hypervisor.interface import Hypervisor
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory, Machine
from hypervisor.wishes import Wishes
from service import hosts
from service.addresses import Context
from service.libvirt_calls import LibvirtCall, connected
from service.steps import Steps, durable
from service.vm_batch import Macs


def customize_by_api(
    context: Context, directory: Directory, identity: Identity, wishes: Wishes, uri: str
) -> Steps[Machine]:
    """Registered when it is done.  NotFound when the hypervisor has no such domain, Busy when it
    is this VM's own and runs.
    """
    if directory.mounted is None:
        raise errors.InvalidArgument("the store is not mounted; run `ramet mount DIR` first")
    known = domain.text_of(directory.xml(), "uuid")
    yield from connected(uri, partial(_customize, context, directory, identity, wishes, known))
    return directory.machine


def _customize(
    context: Context, directory: Directory, identity: Identity, wishes: Wishes, known: str,
    hypervisor: Hypervisor,
) -> Steps[None]:  # fmt: skip
    text: str = yield LibvirtCall(partial(hypervisor.xml_to_change, known))
    root = domain.parse(text.encode())
    assert directory.mounted is not None
    own = _is_of(root, directory.mounted)
    state: str = yield LibvirtCall(partial(hypervisor.state, known))
    if own and state == "running":
        raise errors.Busy(f"{domain.name_of(root)} is running; shut it down first")
    _, macs = yield LibvirtCall(hypervisor.names_and_macs)
    yield from index_of(context.store).ready()
    taken = Macs(context.store, macs)
    change = individuals.prepare(directory, root, identity, taken, wishes)
    yield from _define(hypervisor, change, known if own else None)
    pools = hypervisor.pools(context.store.uuid)
    for pool in hosts.pools_of_vms(context, [directory], hypervisor.uri):
        yield LibvirtCall(partial(pools.show, pool))


def _is_of(root: ET.Element, mounted: PurePosixPath) -> bool:
    """Whether the domain is this VM's own, and not that of the VM whose copy it is."""
    paths = [PurePosixPath(source.get("file", "")) for _, source in domain.disks(root)]
    return any(path.is_relative_to(mounted) for path in paths)


def _define(hypervisor: Hypervisor, change: Change, old: str | None) -> Steps[None]:
    uri = hypervisor.uri
    change.write(uri=uri, formerly=old)
    try:
        yield durable
        yield LibvirtCall(partial(hypervisor.check_runs, change.text))
        if old is None:
            yield LibvirtCall(partial(hypervisor.define_all, [change.text]))
        else:
            yield LibvirtCall(partial(hypervisor.replace, old, change.text))
    except errors.PartlyDone:
        raise  # nobody knows what the hypervisor has: the mark names both
    except BaseException:
        change.revert()
        raise
    change.directory.set_machine(change.machine.at(uri))
    change.finish()
