"""``fsck --repair``: put right what can be derived, place what has lost its place, leave the rest.

It works on a closed store that need not open.  Each of its passes (records, namespaces and maps;
then epochs; then slots) is one LMDB transaction made from one fsck, so a crash leaves a store that
a second run repairs.  What it never does: make up content, put a hole where a block was, or take a
block for good whose checksum says otherwise.  So a lost node or a bad block stays a finding until
its file is restored or removed, and the answer says so (``left``).
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from engine import errors
from engine.findings import Report
from engine.fsck import check_log, check_stored
from engine.fsck_data import check_index
from engine.fsck_slots import HALF_CHUNK, SLOTS_PER_CHUNK, SlotsCheck
from engine.inode import Inode
from engine.meta import STATE_KEY, chunk_key, unpack_chunk_key
from engine.repair_pass import Pass, Repaired, Result
from engine.repair_records import RecordsRepair
from engine.stored import INDEX, Stored, stored
from engine.superblock import State

BLANK = bytes(2 * HALF_CHUNK)


def _records(work: Pass) -> None:
    if not work.report.clean:
        RecordsRepair(work).run()


def _epochs(work: Pass) -> None:
    if work.report.count("F11"):
        _share_all(work)
        work.store_state()


def _slots(work: Pass) -> None:
    if work.report.count("F8", "F9", "F14"):
        _set_bits(work)


def _share_all(work: Pass) -> None:
    """Say of every tree that it was shared: then none changes a node in place that it had."""
    epoch = work.state.epoch
    for record in work.checker.records:
        record.shared_epoch = epoch
        work.put_record(record)
    for key, raw in work.reader.items("orphans"):
        inode = Inode.unpack(int.from_bytes(key[8:], "big"), raw, sound=False)
        inode.shared_epoch = epoch
        work.put("orphans", key, inode.pack())
    work.state.epoch = epoch + 1
    work.tell("F11", "store", f"every tree was last shared in epoch {epoch}")


def _set_bits(work: Pass) -> None:
    """Bitmaps from what is reached.

    A chunk that does not parse, or has lost a mapped slot, cannot be trusted: all its slots are
    taken for allocated and shared, and gc finds out which are not.
    """
    checker, per_slab = work.checker, work.source.superblock.slab_slots
    slots = checker.maps.slots
    bits = SlotsCheck(work.source, work.reader, Report(), slots, checker.slabs).chunks(
        work.state.slabs
    )
    for slab in range(checker.slabs):
        allocated, shared = bits.get(slab, (0, 0))
        first = slab * per_slab
        mapped = slots.cut(slots.mapped, first, per_slab)
        twice = slots.cut(slots.again, first, per_slab) & slots.cut(slots.owned, first, per_slab)
        for chunk in range(-(-per_slab // SLOTS_PER_CHUNK)):
            at = chunk * SLOTS_PER_CHUNK
            room = (1 << min(per_slab - at, SLOTS_PER_CHUNK)) - 1
            have = allocated >> at & room
            whole = len(work.stored["slots"].get(chunk_key(slab, chunk), BLANK)) == len(BLANK)
            if not whole or mapped >> at & room & ~have:
                have = marked = room
            else:
                marked = (shared | twice) >> at & room & have
            _chunk(work, slab, chunk, have, marked)
    chunks = -(-per_slab // SLOTS_PER_CHUNK)
    for key, _ in work.reader.items("slots"):
        slab, chunk = unpack_chunk_key(key) if len(key) == len(chunk_key(0, 0)) else (-1, -1)
        if not (0 <= slab < work.state.slabs and chunk < chunks):
            work.tell("F14", f"slots {key.hex()}", "removed: there are no such slots")
            work.deletes.add(("slots", key))


def _chunk(work: Pass, slab: int, chunk: int, allocated: int, shared: int) -> None:
    raw = allocated.to_bytes(HALF_CHUNK, "little") + shared.to_bytes(HALF_CHUNK, "little")
    key = chunk_key(slab, chunk)
    old = work.stored["slots"].get(key, BLANK)
    if old != raw:
        work.tell("F8", f"slab {slab} chunk {chunk}", "its bits are what maps say")
        work.put("slots", key, raw)


def _run(source: Stored, result: Result, part: Callable[[Pass], None]) -> None:
    work = Pass(source, result)
    try:
        part(work)
        work.write()
    except (struct.error, OverflowError, ValueError) as error:
        raise errors.Corrupt(
            f"this part of the store is past repair, and was not changed: {error}; restore it"
        ) from error
    finally:
        work.close()


def _index(source: Stored, result: Result) -> None:
    slots = State.unpack(source.meta.get("super", STATE_KEY)).slabs * source.superblock.slab_slots
    for file in check_index(source.path / INDEX, slots, source.superblock.hash_seed, Report()):
        file.unlink()
        result.repaired.append(Repaired("F17", str(file), "removed: it is only a hint"))


def _log(source: Stored, result: Result) -> None:
    scan = check_log(source, Report())
    if scan.problem is not None:
        done = scan.cut(source.state.commits)
        result.repaired.append(Repaired("F21", str(scan.path), f"{scan.problem}; {done}"))


def repair(path: "str | os.PathLike[str]", *, data: bool = False) -> Result:
    """Repair a closed store.  NoSuchStore, StoreInUse; Corrupt when there is no superblock."""
    result = Result()
    with stored(Path(path), read_only=False) as source:
        _log(source, result)  # while the counters are what they were found to be
        for part in (_records, _epochs, _slots):
            _run(source, result, part)
        _index(source, result)
        result.left = check_stored(source, data=data)
    return result
