"""``fsck --repair``: put right what can be derived, place what has lost its place, leave the rest.

It works on a closed store that need not open.  Each of its passes (records, namespaces and maps;
then epochs; then slots) is one LMDB transaction made from one fsck, so a crash leaves a store that
a second run repairs.  What it never does: make up content, put a hole where a block was, or take a
block for good whose checksum says otherwise.  So a lost node or a bad block stays a finding until
its file is restored or removed, and the answer says so (``left``).

A namespace with a broken tree or a wrong record is written anew, as a tree of its own; all others
keep their nodes, and what they share.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine import errors
from engine.findings import Report
from engine.fsck import Checker, check_stored
from engine.fsck_names import Names
from engine.fsck_slots import HALF_CHUNK, SLOTS_PER_CHUNK, SlotsCheck
from engine.inode import Inode
from engine.meta import STATE_KEY, Reader, chunk_key, id_key
from engine.nodes import BODY_BYTES, Node, encode, record_bytes
from engine.reclaim import TABLE
from engine.repair_maps import MapsRepair
from engine.repair_names import NamesRepair
from engine.stored import INDEX_FILE, Stored, stored
from engine.superblock import State
from engine.volume_record import FLAG_SNAPSHOT, VolumeRecord, check_volume_name

LEAP = 1 << 32  # past what a lost counter may have handed out
COUNTER_MAX = 1 << 62
FILL_BYTES = BODY_BYTES * 3 // 4
LOST_VOLUME = "lost+found/volume/"
LOST_RECORD = "lost+found/record/"


@dataclass(frozen=True)
class Repaired:
    """One thing that was put right: the invariant it broke, where, what was done."""

    check: str
    where: str
    done: str


@dataclass
class Result:
    """What a repair did, and what fsck still finds."""

    repaired: list[Repaired] = field(default_factory=list)
    left: Report = field(default_factory=Report)


class _Pass:
    """One transaction: reads one commit, collects what is to be written over it."""

    def __init__(self, source: Stored, result: Result) -> None:
        self.source = source
        self.result = result
        self.reader: Reader = source.reader()
        self.report = Report()
        self.checker = Checker(source, self.reader, self.report)
        self.checker.run()
        self.state = State(**vars(self.checker.state))
        self.stored = {
            table: dict(self.reader.items(table)) for table in ("super", "volumes", "slots")
        }
        self.nodes: dict[int, bytes] = {}
        self.puts: dict[tuple[str, bytes], bytes] = {}
        self.deletes: set[tuple[str, bytes]] = set()

    def tell(self, check: str, where: str, done: str) -> None:
        self.result.repaired.append(Repaired(check, where, done))

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.puts[table, key] = value

    def close(self) -> None:
        self.reader.close()

    def write(self) -> None:
        """All of it, or nothing."""
        if self.nodes or self.puts or self.deletes:
            puts = [(table, key, value) for (table, key), value in self.puts.items()]
            self.source.meta.write(self.nodes.items(), (), puts, self.deletes)

    # --- counters

    def counters(self, records: list[VolumeRecord]) -> None:
        """Each above all that is in use; a lost record is derived, with a leap."""
        lost = self.source.problem is not None
        top = self._in_use(records)
        if lost:
            self.state = State(slabs=self._slab_files())
        leap = LEAP if lost else 0
        for name, value in top.items():
            if (lost or getattr(self.state, name) <= value) and value + leap < COUNTER_MAX:
                setattr(self.state, name, value + leap + 1)
                self.tell("F1", "super", f"{name} is {value + leap + 1}")
        self.source.problem = None

    def _slab_files(self) -> int:
        count = 0
        while self.source.slabs.file(count).is_file():
            count += 1
        return count

    def _in_use(self, records: list[VolumeRecord]) -> dict[str, int]:
        """The greatest number in use under each counter, stored nodes of no tree included."""
        top = dict.fromkeys(
            ("epoch", "next_node", "next_ino", "next_generation", "next_change", "next_volume"), 0
        )

        def saw(name: str, value: int) -> None:
            top[name] = max(top[name], value)

        for node_id in self.reader.node_ids():
            saw("next_node", node_id)
            raw = self.reader.node(node_id)
            if self.checker.audit.sound(node_id, raw):
                saw("epoch", int.from_bytes(raw[16:24], "little") - 1)  # births may equal it
        for record in records:
            saw("next_volume", record.id)
            saw("epoch", record.shared_epoch)
        for name, value in self.checker.top.items():
            saw(name, value)
        return top

    # --- volumes

    def volumes(self) -> list[VolumeRecord]:
        """The volumes there are after repair."""
        kept: list[VolumeRecord] = []
        for key, raw in self.reader.items("volumes"):
            try:
                record = VolumeRecord.unpack(raw)
                if len(key) != 8:
                    raise errors.Corrupt("its key is no number")  # noqa: TRY301
            except errors.Corrupt as error:
                self.tell("F13", f"volume {key.hex()}", f"{error}; kept as a record, not a volume")
                self.put("records", (LOST_VOLUME + key.hex()[:64]).encode(), raw)
                self.deletes.add(("volumes", key))
                continue
            record.id = int.from_bytes(key, "big")
            kept.append(record)
        plain = {record.id for record in kept if not record.flags & FLAG_SNAPSHOT}
        for record in kept:
            if record.flags & FLAG_SNAPSHOT and record.parent_id not in plain:
                self.tell("F13", f"snapshot {record.name}", "a volume now: its own is gone")
                record.flags, record.parent_id = 0, 0
            record.flags &= FLAG_SNAPSHOT
        self._names(kept)
        return kept

    def _names(self, records: list[VolumeRecord]) -> None:
        taken: set[tuple[int, str]] = set()
        for record in records:
            scope = record.parent_id if record.flags & FLAG_SNAPSHOT else 0
            old, name = record.name, record.name
            try:
                check_volume_name(name)
            except errors.InvalidArgument:
                name = "recovered"
            if name != old or (scope, name) in taken:
                record.name = f"{name[:150]}-{record.id}"
                self.tell("F13", f"volume {old!r}", f"its name is {record.name}")
            taken.add((scope, record.name))

    def volume(self, record: VolumeRecord, maps: MapsRepair) -> None:
        """One namespace: records put right, written anew if that changed any."""
        where = f"volume {record.name} ({record.id})"
        before = self.report.count("F2", "F3")
        names, strange = Names(), 0
        stored_records: dict[bytes, bytes] = {}
        for key, value in self.checker.records_of(where, record):
            stored_records.setdefault(key, value)
            try:
                names.add(key, value)
            except (struct.error, IndexError, errors.Corrupt):
                strange += 1
        broken = self.report.count("F2", "F3") - before
        if strange:
            self.tell("F3", where, f"{strange} records that do not parse were removed")
        if broken:
            self.tell("F3", where, f"its tree is built anew; {broken} faults hid what is lost")
        for inode in names.inodes.values():
            maps.repair(inode)
        NamesRepair(names, self.state, lambda check, done: self.tell(check, where, done)).run()
        records = names.records()
        if records != stored_records or broken:
            record.root = self.build(sorted(records.items()))
        inodes = names.inodes.values()
        counted = (len(inodes), sum(i.blocks for i in inodes), sum(i.size for i in inodes))
        if counted != (record.files, record.blocks, record.logical_bytes):
            self.tell("F7", where, f"totals (inodes, blocks, bytes) are {counted}")
            record.files, record.blocks, record.logical_bytes = counted
        self.put_record(record)

    def put_record(self, record: VolumeRecord) -> None:
        key, raw = id_key(record.id), record.pack()
        if self.stored["volumes"].get(key) != raw:
            self.put("volumes", key, raw)

    def build(self, records: list[tuple[bytes, bytes]]) -> int:
        """A new tree of these records; returns its root."""
        level: list[tuple[bytes, object]] = list(records)
        height = 0
        while True:
            made: list[tuple[bytes, object]] = []
            node: Node | None = None
            for key, value in level:
                size = record_bytes(height, key, value)
                full = node is not None and (
                    node.size + size > FILL_BYTES
                    or len(node.keys) >= self.source.superblock.records_max
                )
                if node is None or full:
                    node = Node(self.state.next_node, height, self.state.epoch)
                    self.state.next_node += 1
                    made.append((key, node))
                node.keys.append(key)
                node.vals.append(value)  # type: ignore[arg-type]
                node.size += size
            for _, each in made:
                assert isinstance(each, Node)
                self.nodes[each.id] = encode(each, self.source.superblock.hash_seed)
            level = [(key, each.id) for key, each in made]  # type: ignore[attr-defined]
            if len(level) == 1:
                return level[0][1]  # type: ignore[return-value]
            height += 1

    # --- the rest of the records

    def orphans(self, volumes: set[int]) -> None:
        for key, raw in self.reader.items("orphans"):
            try:
                volume_id, ino = struct.unpack(">QQ", key)
                Inode.unpack(ino, raw)
            except (struct.error, errors.Corrupt):
                volume_id, ino = 0, 0
            if volume_id not in volumes or (volume_id, ino) in self.checker.named:
                self.tell("F16", f"orphan {key.hex()}", "removed: open ends it anyway")
                self.deletes.add(("orphans", key))

    def reclaim_queue(self) -> None:
        """Trees were changed, so what the queue says of whose nodes are may be wrong by now."""
        entries = [key for key, _ in self.reader.items(TABLE)]
        self.deletes |= {(TABLE, key) for key in entries}
        if entries:
            self.tell("F20", "reclaim queue", f"emptied of {len(entries)} entries: gc finds them")

    def texts(self) -> None:
        for key, raw in self.reader.items("records"):
            try:
                key.decode()
            except UnicodeDecodeError:
                self.tell("F19", "records", f"{key!r} is kept as {LOST_RECORD}{key.hex()[:64]}")
                self.put("records", (LOST_RECORD + key.hex()[:64]).encode(), raw)
                self.deletes.add(("records", key))

    # --- epochs and slots

    def share_all(self) -> None:
        """Say of every tree that it was shared: then none changes a node in place that it had."""
        epoch = self.state.epoch
        for record in self.checker.records:
            record.shared_epoch = epoch
            self.put_record(record)
        for key, raw in self.reader.items("orphans"):
            inode = Inode.unpack(int.from_bytes(key[8:], "big"), raw)
            inode.shared_epoch = epoch
            self.put("orphans", key, inode.pack())
        self.state.epoch = epoch + 1
        self.tell("F11", "store", f"every tree was last shared in epoch {epoch}")

    def slots(self) -> None:
        """Bitmaps from what is reached.  A chunk that has lost a mapped slot cannot be trusted:
        all its slots are taken for allocated and shared, and gc finds out which are not."""
        checker, per_slab = self.checker, self.source.superblock.slab_slots
        slots = checker.maps.slots
        bits = SlotsCheck(self.source, self.reader, Report(), slots, checker.slabs).chunks(
            self.state.slabs
        )
        for slab in range(checker.slabs):
            allocated, shared = bits.get(slab, (0, 0))
            first = slab * per_slab
            mapped = slots.cut(slots.mapped, first, per_slab)
            twice = slots.cut(slots.again, first, per_slab) & slots.cut(
                slots.owned, first, per_slab
            )
            for chunk in range(-(-per_slab // SLOTS_PER_CHUNK)):
                at = chunk * SLOTS_PER_CHUNK
                room = (1 << min(per_slab - at, SLOTS_PER_CHUNK)) - 1
                have = allocated >> at & room
                if mapped >> at & room & ~have:
                    have = marked = room
                else:
                    marked = (shared | twice) >> at & room & have
                self._chunk(slab, chunk, have, marked)
        there = {chunk_key(s, c) for s in range(checker.slabs)
                 for c in range(-(-per_slab // SLOTS_PER_CHUNK))}  # fmt: skip
        for key, _ in self.reader.items("slots"):
            if key not in there:
                self.tell("F14", f"slots {key.hex()}", "removed: there are no such slots")
                self.deletes.add(("slots", key))

    def _chunk(self, slab: int, chunk: int, allocated: int, shared: int) -> None:
        raw = allocated.to_bytes(HALF_CHUNK, "little") + shared.to_bytes(HALF_CHUNK, "little")
        key = chunk_key(slab, chunk)
        old = self.stored["slots"].get(key, bytes(2 * HALF_CHUNK))
        if old != raw:
            self.tell("F8", f"slab {slab} chunk {chunk}", "its bits are what maps say")
            self.put("slots", key, raw)

    def store_state(self) -> None:
        packed = self.state.pack()
        if self.stored["super"].get(STATE_KEY) != packed:
            self.put("super", STATE_KEY, packed)


def _records(work: _Pass) -> None:
    if work.report.clean:
        return
    kept = work.volumes()
    work.counters(kept)
    maps = MapsRepair(
        work.checker.audit, work.reader, work.source.superblock.hash_seed,
        lambda check, done: work.tell(check, "maps", done),
    )  # fmt: skip
    for record in kept:
        work.volume(record, maps)
    work.nodes |= maps.nodes
    work.orphans({record.id for record in kept})
    work.reclaim_queue()
    work.texts()
    work.store_state()


def _epochs(work: _Pass) -> None:
    if work.report.count("F11"):
        work.share_all()
        work.store_state()


def _slots(work: _Pass) -> None:
    if work.report.count("F8", "F9", "F14"):
        work.slots()


def _run(source: Stored, result: Result, part: Callable[[_Pass], None]) -> None:
    work = _Pass(source, result)
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
    file = source.path / INDEX_FILE
    report = check_stored(source)
    if report.count("F17"):
        file.unlink()
        result.repaired.append(Repaired("F17", str(file), "removed: it is only a hint"))


def repair(path: "str | os.PathLike[str]", *, data: bool = False) -> Result:
    """Repair a closed store.  NoSuchStore, StoreInUse; Corrupt when there is no superblock."""
    result = Result()
    with stored(Path(path), read_only=False) as source:
        for part in (_records, _epochs, _slots):
            _run(source, result, part)
        _index(source, result)
        result.left = check_stored(source, data=data)
    return result
