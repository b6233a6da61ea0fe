"""The first pass of a repair: counters, volume records, namespaces with their maps, orphans.

A namespace with a broken tree or a wrong record is written anew, as a tree of its own; all others
keep their nodes, and what they share.
"""

import struct

from engine import errors
from engine.fsck import COUNTER_MAX
from engine.fsck_names import Names
from engine.inode import Inode
from engine.reclaim import TABLE
from engine.repair_maps import MapsRepair
from engine.repair_names import NamesRepair
from engine.repair_pass import Pass
from engine.superblock import State
from engine.volume_record import FLAG_HIDDEN, FLAG_SNAPSHOT, VolumeRecord, check_volume_name

LEAP = 1 << 32  # past what a lost counter may have handed out
LOST_VOLUME = "lost+found/volume/"
LOST_RECORD = "lost+found/record/"


class RecordsRepair:
    """Works on one pass."""

    def __init__(self, work: Pass) -> None:
        self.work = work
        self.state = work.state
        self.shared = work.state.epoch
        self.tell = work.tell

    def run(self) -> None:
        work = self.work
        kept = self.volumes()
        self.counters(kept)
        self.impossible(kept)
        maps = MapsRepair(
            work.checker.audit, work.reader, work.source.superblock.hash_seed, self.state.epoch,
            lambda check, done: self.tell(check, "maps", done),
        )  # fmt: skip
        for record in kept:
            self.volume(record, maps)
        work.nodes |= maps.nodes
        self.orphans({record.id for record in kept})
        self.reclaim_queue()
        self.texts()
        work.store_state()

    # --- counters

    def counters(self, records: list[VolumeRecord]) -> None:
        """Each above all that is in use; a lost record is derived, with a leap."""
        lost = self.work.source.problem is not None
        top = self._in_use(records)
        if lost:
            vars(self.state).update(vars(State(slabs=self._slab_files())))
        leap = LEAP if lost else 0
        for name, value in top.items():
            if lost or getattr(self.state, name) <= value:
                setattr(self.state, name, value + leap + 1)
                self.tell("F1", "super", f"{name} is {value + leap + 1}")
        self.work.source.problem = None

    def _slab_files(self) -> int:
        count = 0
        while self.work.source.slabs.file(count).is_file():
            count += 1
        return count

    def _in_use(self, records: list[VolumeRecord]) -> dict[str, int]:
        """The greatest number in use under each counter, stored nodes of no tree included."""
        top = dict.fromkeys(
            ("epoch", "next_node", "next_ino", "next_generation", "next_change", "next_volume"), 0
        )

        def saw(name: str, value: int) -> None:
            if value < COUNTER_MAX:
                top[name] = max(top[name], value)

        for node_id in self.work.reader.node_ids():
            saw("next_node", node_id)
            raw = self.work.reader.node(node_id)
            if self.work.checker.audit.sound(node_id, raw):
                saw("epoch", int.from_bytes(raw[16:24], "little") - 1)  # births may equal it
        for record in records:
            saw("next_volume", record.id)
            saw("epoch", record.shared_epoch)
        for name, value in self.work.checker.top.items():
            saw(name, value)
        return top

    def impossible(self, records: list[VolumeRecord]) -> None:
        """Epochs that cannot have been: such a tree was last shared in the one that ends now."""
        self.shared = self.state.epoch
        seen = max([self.work.checker.top["epoch"], *(record.shared_epoch for record in records)])
        if seen < COUNTER_MAX:
            return
        self.state.epoch += 1
        for record in records:
            if record.shared_epoch >= COUNTER_MAX:
                self.tell("F1", f"volume {record.name}", f"last shared in epoch {self.shared}")
                record.shared_epoch = self.shared

    def number(self, where: str, inode: Inode) -> None:
        """Counters of an inode that cannot have been handed out are handed out now."""
        state = self.state
        if inode.shared_epoch >= COUNTER_MAX:
            inode.shared_epoch = self.shared
            self.tell("F1", where, f"inode {inode.ino}: last shared in epoch {self.shared}")
        if inode.generation >= COUNTER_MAX or inode.change >= COUNTER_MAX:
            inode.generation, inode.change = state.next_generation, state.next_change
            state.next_generation += 1
            state.next_change += 1
            self.tell("F1", where, f"inode {inode.ino}: generation {inode.generation}")

    # --- volumes

    def volumes(self) -> list[VolumeRecord]:
        """The volumes there are after repair."""
        kept: list[VolumeRecord] = []
        for key, raw in self.work.reader.items("volumes"):
            try:
                record = VolumeRecord.unpack(raw)
                if len(key) != 8:
                    raise errors.Corrupt("its key is no number")  # noqa: TRY301
            except errors.Corrupt as error:
                self.tell("F13", f"volume {key.hex()}", f"{error}; kept as a record, not a volume")
                self.work.put("records", (LOST_VOLUME + key.hex()[:64]).encode(), raw)
                self.work.deletes.add(("volumes", key))
                continue
            record.id = int.from_bytes(key, "big")
            kept.append(record)
        plain = {record.id for record in kept if not record.flags & (FLAG_SNAPSHOT | FLAG_HIDDEN)}
        for record in kept:
            if record.flags & FLAG_SNAPSHOT and record.parent_id not in plain:
                self.tell("F13", f"snapshot {record.name}", "a volume now: its own is gone")
                record.flags, record.parent_id = 0, 0
            if record.flags != FLAG_HIDDEN or not record.sound_flags:
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
        before = self.work.report.count("F2", "F3")
        names, strange = Names(), 0
        stored_records: dict[bytes, bytes] = {}
        for key, value in self.work.checker.records_of(where, record):
            stored_records.setdefault(key, value)
            try:
                names.add(key, value)
            except (struct.error, IndexError, errors.Corrupt):
                strange += 1
        broken = (
            self.work.report.count("F2", "F3") - before + (record.id in self.work.checker.unborn)
        )
        if strange:
            self.tell("F3", where, f"{strange} records that do not parse were removed")
        if broken:
            self.tell("F3", where, f"its tree is built anew; {broken} faults hid what is lost")
        for inode in names.inodes.values():
            self.number(where, inode)
            maps.repair(inode)
        NamesRepair(names, self.state, lambda check, done: self.tell(check, where, done)).run()
        records = names.records()
        if records != stored_records or broken:
            record.root = self.work.build(sorted(records.items()))
        inodes = names.inodes.values()
        counted = (len(inodes), sum(i.blocks for i in inodes), sum(i.size for i in inodes))
        if counted != (record.files, record.blocks, record.logical_bytes):
            self.tell("F7", where, f"totals (inodes, blocks, bytes) are {counted}")
            record.files, record.blocks, record.logical_bytes = counted
        self.work.put_record(record)

    # --- the rest of the records

    def orphans(self, volumes: set[int]) -> None:
        for key, raw in self.work.reader.items("orphans"):
            try:
                volume_id, ino = struct.unpack(">QQ", key)
                Inode.unpack(ino, raw, sound=False)
            except (struct.error, errors.Corrupt):
                volume_id, ino = 0, 0
            if volume_id not in volumes or (volume_id, ino) in self.work.checker.named:
                self.tell("F16", f"orphan {key.hex()}", "removed: open ends it anyway")
                self.work.deletes.add(("orphans", key))

    def reclaim_queue(self) -> None:
        """Trees were changed, so what the queue says of whose nodes are may be wrong by now."""
        entries = [key for key, _ in self.work.reader.items(TABLE)]
        self.work.deletes |= {(TABLE, key) for key in entries}
        if entries:
            self.tell("F20", "reclaim queue", f"emptied of {len(entries)} entries: gc finds them")

    def texts(self) -> None:
        for key, raw in self.work.reader.items("records"):
            try:
                key.decode()
            except UnicodeDecodeError:
                self.tell("F19", "records", f"{key!r} is kept as {LOST_RECORD}{key.hex()[:64]}")
                self.work.put("records", (LOST_RECORD + key.hex()[:64]).encode(), raw)
                self.work.deletes.add(("records", key))
