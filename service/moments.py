"""The instant at which a running base VM is cloned.

A VM that is off does not change: it is cloned as it lies there.  One that runs is held first, in a
snapshot of its volume, one step of the engine: all its disks at one instant, and all clones of a
batch from that same one, however long the batch takes.  The snapshot has what the guest's writes
have brought to the store, flushed by the guest or not (the mount has no write-back cache, so with
a file on it that is all QEMU has answered); what sits in the guest's own page cache is not in it,
as if its power had been cut: crash-consistent.  ``quiesce`` has the guest agent flush and freeze
the file systems around that one step.

The snapshot lives until the batch is done.  A record in the same commit remembers it, and a guest
that may be frozen: ``recover`` removes what a crash left and thaws what it left frozen.
"""

import uuid as uuids
from functools import partial
from typing import NamedTuple

import msgspec

from engine import errors
from hypervisor.driver import connect
from hypervisor.interface import Hypervisor
from hypervisor.machines import Directory
from hypervisor.quiesce import LIMIT_S, Frozen, freeze
from service.addresses import Context
from service.libvirt_calls import LibvirtCall
from service.log import log
from service.steps import TOLD_TO_STOP, Steps, durable, insist

PREFIX = "moment/"


class Record(msgspec.Struct, frozen=True):
    """A snapshot, or (by ``uri`` and ``uuid``) a guest that may be frozen."""

    volume_id: int = 0
    snapshot: str = ""
    uri: str = ""
    uuid: str = ""


class Moment(NamedTuple):
    """A base VM that stands still.  ``consistency``: off, crash, quiesced, or unknown (nobody was
    asked whether it runs; each clone is of one instant, but not all of the same)."""

    base: Directory
    consistency: str
    record: str | None = None


def hold(context: Context, base: Directory, uri: str | None, *, quiesce: bool) -> Steps[Moment]:
    """Hold a base VM still; give it to ``release`` when its clones are made.

    ``uri``: where it may run, None when nobody knows.  Unsupported when it shall be quiesced and
    cannot: it has no agent that answers.
    """
    machine = base.machine
    at = machine.uri or uri
    if base.volume.read_only:
        if quiesce:
            raise errors.InvalidArgument("a snapshot does not change; leave --quiesce out")
        return Moment(base, "off")
    if at is None:
        if quiesce:
            raise errors.InvalidArgument(
                f"{machine.name} is registered nowhere, so it cannot be frozen; leave --quiesce out"
            )
        return Moment(base, "unknown")
    try:
        hypervisor: Hypervisor = yield LibvirtCall(partial(connect, at))
    except errors.RametError as error:
        if quiesce or isinstance(error, TOLD_TO_STOP):
            raise
        return _snapshot(context, base, "crash")  # it may run
    try:
        if (yield LibvirtCall(partial(hypervisor.state, machine.uuid))) != "running":
            return Moment(base, "off")
        if not quiesce:
            return _snapshot(context, base, "crash")
        return (yield from _quiesced(context, base, hypervisor))
    finally:
        yield from insist(LibvirtCall(hypervisor.close))


def _quiesced(context: Context, base: Directory, hypervisor: Hypervisor) -> Steps[Moment]:
    machine = base.machine
    key = _note(context, Record(uri=hypervisor.uri, uuid=machine.uuid))
    moment: Moment | None = None
    try:
        yield durable  # whatever happens from here on, the guest is thawed
        frozen: Frozen = yield LibvirtCall(partial(freeze, hypervisor, machine.uuid, machine.name))
        try:
            moment = _snapshot(context, base, "quiesced")
        finally:
            yield from insist(LibvirtCall(frozen.thaw))
    except BaseException:
        if moment is not None:
            release(context, moment)
        raise
    finally:
        context.store.records.delete(key)
    return moment


def _snapshot(context: Context, base: Directory, consistency: str) -> Moment:
    name = f"clone-{uuids.uuid4().hex[:12]}"
    snapshot = context.store.create_snapshot(base.volume, name)
    key = _note(context, Record(base.volume.id, name))
    return Moment(Directory(snapshot, base.path, base.mounted), consistency, key)


def _note(context: Context, record: Record) -> str:
    key = PREFIX + uuids.uuid4().hex
    context.store.records.put(key, msgspec.msgpack.encode(record))
    return key


def release(context: Context, moment: Moment) -> None:
    """The clones are made, or not to be made any more."""
    if moment.record is not None:
        _forget(context, moment.record)


def _forget(context: Context, key: str) -> Record | None:
    """Let go of the snapshot that a record remembers, and of the record; what that was."""
    value = context.store.records.get(key)
    if value is None:
        return None
    record = None
    try:
        record = msgspec.msgpack.decode(value, type=Record)
        if record.snapshot:
            volume = context.store.volume_by_id(record.volume_id)
            context.store.remove_snapshot(volume, record.snapshot, force=True)
    except (errors.NotFound, errors.Stale):
        pass  # removed by hand, or with its volume
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        log(f"the record {key} is damaged ({error}); look for snapshots named clone-*")
    context.store.records.delete(key)
    return record


def recover(context: Context) -> Steps[None]:
    """At the start of a daemon: what its predecessor was holding is let go.

    What cannot be is logged, and left to the next daemon.
    """
    for key, _ in context.store.records.items(PREFIX):
        try:
            record = _forget(context, key)
        except errors.RametError as error:
            log(f"what {key} holds cannot be let go: {error}")
            continue
        if record is not None and record.uri:
            yield from insist(LibvirtCall(partial(_thaw, record)))  # its record is gone already


def _thaw(record: Record) -> None:
    try:
        hypervisor = connect(record.uri)
        try:
            count = hypervisor.thaw(record.uuid, LIMIT_S)
        finally:
            hypervisor.close()
        log(f"thawed {count} file systems of {record.uuid}, frozen when the daemon ended")
    except errors.RametError as error:
        log(f"cannot thaw {record.uuid}: {error}; `virsh domfsthaw` it if it hangs")
