"""Visit every stored node of one commit, each once, however many trees share it.

What is damaged is told and gone around: a pass over the store must not end at the first bad node.
The roots are what gc's are: volumes and snapshots, and orphans.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator

from engine import errors
from engine.inode import Inode
from engine.meta import Reader
from engine.nodes import decode, is_namespace
from engine.volume_record import VolumeRecord
from native import HEADER_BYTES
from native.audit import Audit

ENTRY = struct.Struct("<QQ")
_PAGE_IDS = 1 << 15


class NodeIds:
    """A set of node ids that takes a bit each: ids are handed out in order, so they lie dense."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, node_id: int) -> bool:
        """False when it was in already."""
        page, bit = divmod(node_id, _PAGE_IDS)
        bits = self._pages.get(page)
        if bits is None:
            bits = self._pages[page] = bytearray(_PAGE_IDS // 8)
        mask = 1 << (bit & 7)
        new = not bits[bit >> 3] & mask
        bits[bit >> 3] |= mask
        return new

    def __contains__(self, node_id: int) -> bool:
        page, bit = divmod(node_id, _PAGE_IDS)
        bits = self._pages.get(page)
        return bits is not None and bool(bits[bit >> 3] >> (bit & 7) & 1)


def entries(raw: memoryview) -> Iterator[tuple[int, int, int]]:
    """(index, word, value) of each entry of an extent node that is not a hole."""
    for index, (word, value) in enumerate(ENTRY.iter_unpack(raw[HEADER_BYTES:])):
        if word or value:
            yield index, word, value


def volume_records(reader: Reader) -> list[VolumeRecord]:
    """Those that parse; fsck names the others."""
    found = []
    for _, raw in reader.items("volumes"):
        with contextlib.suppress(errors.Corrupt):
            found.append(VolumeRecord.unpack(raw))
    return found


def orphans(reader: Reader) -> list[tuple[int, Inode]]:
    """(volume id, inode) of those that parse."""
    found = []
    for key, raw in reader.items("orphans"):
        with contextlib.suppress(struct.error, errors.Corrupt):
            volume_id, ino = struct.unpack(">QQ", key)
            found.append((volume_id, Inode.unpack(ino, raw)))
    return found


def roots(reader: Reader) -> list[int]:
    """Where reachability begins."""
    volumes = [record.root for record in volume_records(reader)]
    return [root for root in volumes + [inode.root for _, inode in orphans(reader)] if root]


def roots_of_domain(reader: Reader, domain: int) -> list[int]:
    """The volumes and snapshots whose blocks dedup may share with each other."""
    return [r.root for r in volume_records(reader) if r.root and r.domain == domain]


class Trace:
    """One pass.  ``leaf`` gets each sound leaf of an extent map."""

    def __init__(
        self, audit: Audit, reader: Reader, seed: int, leaf: Callable[[memoryview], object]
    ) -> None:
        self._audit = audit
        self._reader = reader
        self._seed = seed
        self._leaf = leaf
        self._seen = NodeIds()
        self.nodes = 0
        self.damaged: list[int] = []

    def run(self, pending: list[int]) -> None:
        """Visit these roots and all below; any thread."""
        while pending:
            node_id = pending.pop()
            if not self._seen.add(node_id):
                continue
            self.nodes += 1
            try:
                pending += self._below(node_id, self._reader.node(node_id))
            except (KeyError, struct.error, errors.Corrupt):
                self.damaged.append(node_id)

    def _below(self, node_id: int, raw: memoryview) -> list[int]:
        if not self._audit.sound(node_id, raw):
            raise errors.Corrupt(f"node {node_id} fails its check; run `ramet fsck`")
        if not is_namespace(raw):
            if raw[5]:
                return [word for _, word, _ in entries(raw) if word]
            self._leaf(raw)
            return []
        node = decode(node_id, raw, self._seed)
        if node.level:
            return list(node.vals)  # type: ignore[arg-type]
        inodes = [
            Inode.unpack(0, value)  # type: ignore[arg-type]
            for key, value in zip(node.keys, node.vals, strict=True)
            if key[:1] == b"I"
        ]
        return [inode.root for inode in inodes if inode.root]
