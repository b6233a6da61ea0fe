"""fsck: every invariant of docs/FORMAT.md, one named check each (engine/findings.py).  Read-only.

It works on one commit, read through its own transaction, of an open store (in a daemon: on a
thread, with slots pinned) or of a closed one, which need not open.  It never stops at the first
finding, believes no length or count it has not compared, and visits each extent node once; of
namespaces it visits a tree once a volume, because names are counted a volume.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from engine import errors
from engine.findings import Finding, Report
from engine.fsck_data import check_data, check_index
from engine.fsck_maps import MapsCheck, Slots
from engine.fsck_names import Names, NamesCheck
from engine.fsck_slots import SlotsCheck
from engine.inode import Inode
from engine.intent_log import LOG_FILE, Scan
from engine.meta import STATE_KEY, Reader
from engine.nodes import Node, decode, is_namespace
from engine.reclaim import NAMESPACE, TABLE, Entry
from engine.scrub import Scrub
from engine.store import Store
from engine.stored import INDEX, Source, Stored, stored
from engine.superblock import BLOCK_BYTES, SLABS_MAX, State
from engine.volume_record import FLAG_SNAPSHOT, VolumeRecord, check_volume_name
from native.audit import Audit

__all__ = ["Finding", "Report", "check", "check_path"]

COUNTER_MAX = 1 << 62  # no counter gets there in the life of a store


@dataclass
class _Claim:
    """Who has a namespace node: the first tree, and whether it may change it in place."""

    volume_id: int
    alone: bool


class Checker:
    """One check of one commit."""

    def __init__(self, source: Source, reader: Reader, report: Report) -> None:
        self.source = source
        self.reader = reader
        self.report = report
        self.find = report.find
        block = source.superblock
        self.audit = Audit(
            hash_seed=block.hash_seed, fanout=block.fanout, slab_slots=block.slab_slots
        )
        self.state = self._state()
        self.slabs = self._slab_files()
        self.maps = MapsCheck(
            self.audit, reader, self.state, Slots(self.slabs * block.slab_slots), report.find
        )
        self.records: list[VolumeRecord] = []
        self.unborn: set[int] = set()  # volumes with nodes born in an epoch that cannot come
        self.tails: list[tuple[str, Inode]] = []
        self.top = dict.fromkeys(("next_ino", "next_generation", "next_change", "epoch"), 0)
        self._claims: dict[int, _Claim] = {}
        self.named: set[tuple[int, int]] = set()

    def run(self) -> None:
        self._volume_records()
        for record in self.records:
            self._volume(record)
        self._orphans()
        self._reclaim_queue()
        self._stored_nodes()
        SlotsCheck(self.source, self.reader, self.report, self.maps.slots, self.slabs).run(
            self.state.slabs
        )
        for key, _ in self.reader.items("records"):
            if not _is_text(key):
                self.find("F19", "records", f"key {key!r} is no text")
        self.report.nodes += self.maps.nodes

    def free(self) -> None:
        """Take apart what was remembered, when nobody asks any more."""
        turns = self.reader.turns
        self.maps.free(turns)
        turns.empty(self._claims, self.named, self.tails)

    def _state(self) -> State:
        raw = dict(self.reader.items("super")).get(STATE_KEY)
        try:
            return State.unpack(raw)
        except errors.Corrupt as error:
            self.find("F1", "super", str(error))
            files = 0
            while self.source.slabs.file(files).is_file():
                files += 1
            return replace(State(*[1 << 63] * 8), slabs=files)

    def _slab_files(self) -> int:
        """How many slabs there are to reckon with: no more than there are files for."""
        said, there = self.state.slabs, 0
        for slab in range(min(said, SLABS_MAX)):
            if self.source.slabs.file(slab).is_file():
                there = slab + 1
            else:
                self.find("F15", f"slab {slab}", f"{self.source.slabs.file(slab)} is missing")
                if slab > there + 64:
                    break
        return there

    # --- volumes

    def _volume_records(self) -> None:
        for key, raw in self.reader.items("volumes"):
            try:
                record = VolumeRecord.unpack(raw)
            except errors.Corrupt as error:
                self.find("F13", f"volume number {key.hex()}", str(error))
                continue
            where = f"volume {record.name} ({record.id})"
            if key != record.id.to_bytes(8, "big"):
                self.find("F13", where, f"it is kept under the number {key.hex()}")
                continue
            if record.id >= self.state.next_volume or record.shared_epoch >= self.state.epoch:
                self.find("F1", where, "its id or epoch is not below its counter")
            self.records.append(record)
        self._volume_names()

    def _volume_names(self) -> None:
        seen: set[tuple[int, int, str]] = set()
        volumes = {r.id for r in self.records if not r.flags}
        for record in self.records:
            where = f"volume {record.name} ({record.id})"
            snapshot = bool(record.flags & FLAG_SNAPSHOT)
            scope = (record.flags, record.parent_id if snapshot else 0, record.name)
            try:
                check_volume_name(record.name)
            except errors.InvalidArgument as error:
                self.find("F13", where, str(error))
            if scope in seen:
                self.find("F13", where, "another has the same name")
            seen.add(scope)
            if snapshot and record.parent_id not in volumes:
                self.find("F13", where, f"a snapshot of {record.parent_id}, which is no volume")
            if not record.sound_flags:
                self.find("F13", where, f"unknown flags {record.flags:#x}")

    def _volume(self, record: VolumeRecord) -> None:
        where = f"volume {record.name} ({record.id})"
        names = Names()
        for key, value in self.records_of(where, record):
            try:
                names.add(key, value)
            except (struct.error, IndexError, errors.Corrupt):
                self.find("F3", where, f"record {key!r} does not parse")
        NamesCheck(names, where, self.find).run(record, self.state)
        for inode in names.inodes.values():
            epoch = max(inode.shared_epoch, record.shared_epoch)
            at = f"{where} inode {inode.ino}"
            self.maps.check(at, inode, epoch)
            if inode.size % BLOCK_BYTES and inode.root:
                self.tails.append((at, inode))
            self._note(record.id, inode)
        names.free(self.reader.turns)

    def _note(self, volume_id: int, inode: Inode) -> None:
        self.named.add((volume_id, inode.ino))
        used = (inode.ino, inode.generation, inode.change, inode.shared_epoch)
        for name, value in zip(self.top, used, strict=True):
            self.top[name] = max(self.top[name], value)

    def records_of(self, where: str, record: VolumeRecord) -> Iterator[tuple[bytes, bytes]]:
        """All records of a namespace in order; nodes and their order are checked on the way."""
        pending: list[tuple[int, int | None, bytes, bytes | None, bool]] = (
            [(record.root, None, b"", None, True)] if record.root else []
        )
        seen: set[int] = set()
        while pending:
            node_id, level, low, high, above = pending.pop()
            if node_id in seen:
                self.find("F3", where, f"node {node_id} stands in the tree twice")
                continue
            seen.add(node_id)
            node = self._namespace_node(where, node_id)
            if node is None:
                continue
            if level is not None and node.level != level:
                self.find("F3", where, f"node {node_id} is at level {node.level}, not {level}")
                continue
            self._ownership(where, record, node, alone=above)
            counted = node.keys[node.level > 0 :]  # key 0 above the leaves stands for any
            rising = all(a < b for a, b in pairwise(counted))
            outside = [k for k in counted if k < low or (high and k >= high)]
            if not rising or outside:
                self.find("F3", where, f"keys of node {node_id} are out of order")
            if node.level:
                lows = [low, *node.keys[1:]]
                highs = [*node.keys[1:], high]
                alone = node.birth > record.shared_epoch
                ids: list[int] = node.vals  # type: ignore[assignment]
                children = zip(ids, lows, highs, strict=True)
                pending += reversed([(c, node.level - 1, a, b, alone) for c, a, b in children])
            else:
                yield from zip(node.keys, node.vals, strict=True)  # type: ignore[misc]

    def _namespace_node(self, where: str, node_id: int) -> Node | None:
        try:
            seed = self.source.superblock.hash_seed
            return decode(node_id, self.reader.node(node_id), seed, ordered=False)
        except KeyError:
            self.find("F2", where, f"node {node_id} is missing")
        except errors.Corrupt as error:
            self.find("F2", where, str(error))
        return None

    def _ownership(self, where: str, record: VolumeRecord, node: Node, *, alone: bool) -> None:
        self.report.nodes += node.id not in self._claims
        if node.id >= self.state.next_node or node.birth > self.state.epoch:
            self.find("F1", where, f"node {node.id}: id or birth not below its counter")
        if node.birth >= COUNTER_MAX:
            self.unborn.add(record.id)
        mine = node.birth > record.shared_epoch
        if mine and not alone:
            self.find("F11", where, f"node {node.id} is owned below a shared node")
        other = self._claims.setdefault(node.id, _Claim(record.id, mine))
        if other.volume_id != record.id and (mine or other.alone):
            self.find("F11", where, f"node {node.id}: volume {other.volume_id} has it as well")

    def _orphans(self) -> None:
        volumes = {record.id for record in self.records}
        for key, raw in self.reader.items("orphans"):
            try:
                volume_id, ino = struct.unpack(">QQ", key)
                inode = Inode.unpack(ino, raw, sound=False)
            except (struct.error, errors.Corrupt):
                self.find("F16", f"orphan {key.hex()}", "it does not parse")
                continue
            where = f"orphan inode {ino} of volume {volume_id}"
            if volume_id not in volumes:
                self.find("F16", where, "there is no such volume")
            if (volume_id, ino) in self.named:
                self.find("F16", where, "it is in the volume as well")
            self.maps.check(where, inode, inode.shared_epoch)

    def _reclaim_queue(self) -> None:
        """What is queued is checked as what is not: gc does not free it, the queue will."""
        for key, raw in self.reader.items(TABLE):
            where = f"reclaim queue, node {key.hex()}"
            try:
                entry = Entry.unpack(key, raw)
                namespace = is_namespace(self.reader.node(entry.node_id))
            except (errors.Corrupt, KeyError):
                self.find("F20", where, "it does not parse, or there is no such node")
                continue
            if (entry.kind == NAMESPACE) != namespace:
                self.find("F20", where, "it says the wrong kind of node")
            elif namespace:
                self._queued_namespace(where, entry)
            elif not self.maps.subtree(where, entry.node_id, entry.level, entry.epoch):
                self.find("F20", where, "its level is wrong, or the node damaged")

    def _queued_namespace(self, where: str, entry: Entry) -> None:
        gone = VolumeRecord(0, "", entry.node_id, entry.epoch, 0, 0)
        for key, value in self.records_of(where, gone):
            if key[:1] != b"I":
                continue
            try:
                inode = Inode.unpack(0, value)
            except (struct.error, errors.Corrupt):
                self.find("F20", where, f"record {key!r} does not parse")
                continue
            self.maps.check(where, inode, max(inode.shared_epoch, entry.epoch))

    def _stored_nodes(self) -> None:
        last = max(self.reader.node_ids(), default=0)
        if last >= self.state.next_node:
            self.find("F1", "nodes", f"node {last} is stored, the counter is not above it")


def _is_text(key: bytes) -> bool:
    try:
        return bool(key.decode())
    except UnicodeDecodeError:
        return False


def check(store: Store, *, data: bool = False) -> Report:
    """Check an open store's last commit; ``data`` reads every block as well."""
    return _check(store.pool, None, data=data)


def _check(source: Source, index: Path | None, *, data: bool) -> Report:
    report = Report()
    reader = source.reader()
    try:
        checker = Checker(source, reader, report)
        checker.run()
        if index is not None:
            slots = checker.state.slabs * source.superblock.slab_slots
            check_index(index, slots, source.superblock.hash_seed, report)
        if data:
            run = Scrub(source, slabs=checker.slabs)
            check_data(run, checker.maps, checker.tails, report)
        checker.free()
    finally:
        reader.close()
    return report


def check_stored(source: Stored, *, data: bool = False) -> Report:
    """Check a closed store, its index and its intent log too."""
    report = _check(source, source.path / INDEX, data=data)
    check_log(source, report)
    return report


def check_log(source: Stored, report: Report) -> Scan:
    """A closed store's intent log; what it holds is written again when the store is opened."""
    scan = Scan(source.path / LOG_FILE, source.superblock.hash_seed)
    for _ in scan.records(source.state.commits):
        pass
    if source.problem is not None and scan.used:
        scan.good_bytes = None
        scan.problem = f"nobody knows which commit {scan.path} goes on from"
    if scan.problem is not None:
        report.find("F21", str(scan.path), scan.problem)
    return scan


def check_path(path: "str | os.PathLike[str]", *, data: bool = False) -> Report:
    """Check a closed store without changing a byte of it.

    NoSuchStore, StoreInUse; Corrupt when not even its superblock can be read.
    """
    with stored(path) as source:
        return check_stored(source, data=data)
