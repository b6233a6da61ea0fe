"""fsck of one namespace: its records as they are stored, and what must agree among them."""

import stat
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from engine import errors, keys
from engine.inode import FLAG_MARKED, Inode
from engine.keys import DirEntry
from engine.superblock import State
from engine.turns import Turns
from engine.volume_record import VolumeRecord

KINDS = frozenset({
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR,
    stat.S_IFBLK,
})  # fmt: skip
COOKIE_MAX = 1 << 62
Chunks = dict[int, bytes]
Find = Callable[[str, str, str], None]


@dataclass
class Names:
    """All records of a namespace, by what they are."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    by_name: dict[tuple[int, bytes], DirEntry] = field(default_factory=dict)
    by_cookie: dict[tuple[int, int], DirEntry] = field(default_factory=dict)
    targets: dict[int, Chunks] = field(default_factory=dict)
    xattrs: dict[tuple[int, bytes], Chunks] = field(default_factory=dict)
    marks: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    marked: set[tuple[int, bytes]] = field(default_factory=set)

    def add(self, key: bytes, value: bytes) -> None:
        """Sort a record in; struct.error when it is none that this version writes."""
        kind, ino = key[:1], keys.ino_of_inode_key(key)
        if len(key) < 9:
            raise struct.error("a key without an inode number")
        if kind == b"I" and len(key) == 9:
            inode = Inode.unpack(ino, value, sound=False)
            if inode.kind not in KINDS or not ino:
                raise struct.error("no such inode")
            self.inodes[ino] = inode
        elif kind == b"D" and len(value) == 18:
            entry = keys.unpack_by_name(key[9:], value)
            self.by_name[ino, entry.name] = entry
        elif kind == b"C" and len(key) == 17:
            entry = keys.unpack_by_cookie(key, value, sound=False)
            self.by_cookie[ino, entry.cookie] = entry
        elif kind == b"L" and len(key) == 11:
            self.targets.setdefault(ino, {})[int.from_bytes(key[9:], "big")] = value
        elif kind == b"X" and len(key) > 12 and key[-3] == 0 and 0 not in key[9:-3]:
            chunks = self.xattrs.setdefault((ino, key[9:-3]), {})
            chunks[int.from_bytes(key[-2:], "big")] = value
        elif kind == b"M" and len(key) > 10 and key[-9] == 0 and 0 not in key[1:-9]:
            self.marks[int.from_bytes(key[-8:], "big"), key[1:-9]] = value
        elif kind == b"N" and len(key) > 9 and not value and 0 not in key[9:]:
            self.marked.add((ino, key[9:]))
        else:
            raise struct.error("no such record")

    def free(self, turns: Turns) -> None:
        """Take all apart."""
        turns.empty(
            self.inodes, self.by_name, self.by_cookie, self.targets, self.xattrs, self.marks,
            self.marked,
        )  # fmt: skip

    def records(self) -> dict[bytes, bytes]:
        """The namespace as it is to be stored."""
        found = {keys.inode_key(ino): inode.pack() for ino, inode in self.inodes.items()}
        for (parent, name), entry in self.by_name.items():
            found[keys.name_key(parent, name)] = keys.pack_by_name(
                entry.cookie, entry.ino, entry.kind
            )
        for (parent, cookie), entry in self.by_cookie.items():
            found[keys.cookie_key(parent, cookie)] = keys.pack_by_cookie(
                entry.ino, entry.kind, entry.name
            )
        for ino, chunks in self.targets.items():
            found |= {keys.target_key(ino, chunk): value for chunk, value in chunks.items()}
        for (ino, name), chunks in self.xattrs.items():
            found |= {keys.xattr_key(ino, name, chunk): value for chunk, value in chunks.items()}
        for (ino, tag), payload in self.marks.items():
            found[keys.mark_key(tag, ino)] = payload
        for ino, tag in self.marked:
            found[keys.mark_of_inode_key(ino, tag)] = b""
        return found

    def reached(self) -> set[int]:
        """Inodes that names lead to from the root directory."""
        below: dict[int, list[int]] = {}
        for (parent, _), entry in self.by_name.items():
            below.setdefault(parent, []).append(entry.ino)
        found, pending = {keys.ROOT_INO}, [keys.ROOT_INO]
        while pending:
            for child in below.get(pending.pop(), ()):
                if child not in found:
                    found.add(child)
                    pending.append(child)
        return found


def whole(chunks: Chunks) -> bool:
    """Whether chunks follow each other from 0 on, all full but the last."""
    last = len(chunks) - 1
    return sorted(chunks) == list(range(last + 1)) and all(
        len(value) == keys.CHUNK_BYTES if chunk < last else len(value) <= keys.CHUNK_BYTES
        for chunk, value in chunks.items()
    )


def proper_name(name: bytes) -> bool:
    try:
        keys.check_name(0, name)
    except errors.RametError:
        return False
    return True


class NamesCheck:
    """The checks of one namespace."""

    def __init__(self, names: Names, where: str, find: Find) -> None:
        self.names = names
        self.where = where
        self._find = find

    def find(self, check: str, problem: str) -> None:
        self._find(check, self.where, problem)

    def run(self, record: VolumeRecord, state: State) -> None:
        root = self.names.inodes.get(keys.ROOT_INO)
        if root is None or not root.is_dir:
            self.find("F13", "it has no root directory")
        self.counters(state)
        self.entries()
        self.cookies()
        self.links()
        self.totals(record)
        self.attributes()
        self.marks()

    def counters(self, state: State) -> None:
        for ino, inode in self.names.inodes.items():
            if ino >= state.next_ino and ino != keys.ROOT_INO:
                self.find("F1", f"inode {ino} is not below the counter")
            if inode.generation >= state.next_generation:
                self.find("F1", f"inode {ino}: its generation is not below the counter")
            if inode.change >= state.next_change:
                self.find("F1", f"inode {ino}: its change counter is not below the store's")
            if inode.shared_epoch >= state.epoch:
                self.find("F1", f"inode {ino}: shared in an epoch that has not ended")
            if inode.next_cookie > COOKIE_MAX:
                self.find("F5", f"directory {ino} has run out of cookies")

    def entries(self) -> None:
        names = self.names
        for (parent, name), entry in names.by_name.items():
            at = f"entry {name!r} of directory {parent}"
            twin = names.by_cookie.get((parent, entry.cookie))
            if twin != entry:
                self.find("F5", f"{at}: its record by cookie differs or is missing")
            inode, directory = names.inodes.get(entry.ino), names.inodes.get(parent)
            if inode is None or inode.kind != entry.kind:
                self.find("F5", f"{at}: inode {entry.ino} is missing or of another type")
            if directory is None or not directory.is_dir:
                self.find("F5", f"{at}: there is no such directory")
            elif not keys.FIRST_COOKIE <= entry.cookie < directory.next_cookie:
                self.find("F5", f"{at}: cookie {entry.cookie} was never handed out")
            if not proper_name(name):
                self.find("F5", f"{at}: no name a directory may hold")

    def cookies(self) -> None:
        for (parent, cookie), entry in self.names.by_cookie.items():
            if (parent, entry.name) not in self.names.by_name:
                self.find("F5", f"cookie {cookie} of directory {parent} has no entry by name")

    def links(self) -> None:
        names = self.names
        links = Counter(entry.ino for entry in names.by_name.values())
        subdirectories: Counter[int] = Counter()
        entries: Counter[int] = Counter()
        for (parent, _), entry in names.by_name.items():
            entries[parent] += 1
            subdirectories[parent] += stat.S_ISDIR(entry.kind)
        reached = names.reached()
        for ino, inode in names.inodes.items():
            expected = links[ino]
            if ino not in reached:
                self.find("F6", f"inode {ino} is not reached from the root")
            if inode.is_dir:
                self._directory(inode, expected)
                expected = 2 + subdirectories[ino]
                if inode.entries != entries[ino]:
                    self.find("F7", f"directory {ino}: count {inode.entries}, {entries[ino]} there")
            if inode.nlink != expected:
                self.find("F6", f"inode {ino}: nlink {inode.nlink}, names say {expected}")

    def _directory(self, inode: Inode, links: int) -> None:
        ino = inode.ino
        if links != (ino != keys.ROOT_INO):
            self.find("F6", f"directory {ino} has {links} names")
        elif ino != keys.ROOT_INO:
            entry = self.names.by_cookie.get((inode.parent, inode.parent_cookie))
            if entry is None or entry.ino != ino:
                self.find("F6", f"directory {ino}: its parent is not {inode.parent}")
        elif inode.parent != ino:
            self.find("F6", "the root directory's parent is not itself")

    def totals(self, record: VolumeRecord) -> None:
        inodes = self.names.inodes.values()
        counted = (len(inodes), sum(i.blocks for i in inodes), sum(i.size for i in inodes))
        stored = (record.files, record.blocks, record.logical_bytes)
        if counted != stored:
            self.find("F7", f"totals (inodes, blocks, bytes) {stored}, counted {counted}")

    def attributes(self) -> None:
        names = self.names
        for ino, inode in names.inodes.items():
            chunks = names.targets.get(ino, {})
            if inode.is_symlink and sum(map(len, chunks.values())) != inode.size:
                self.find("F12", f"symlink {ino}: its target is not whole")
        for ino, chunks in names.targets.items():
            owner = names.inodes.get(ino)
            if owner is None or not owner.is_symlink or not whole(chunks):
                self.find("F12", f"target of inode {ino}: broken, or of no symlink")
        for (ino, name), chunks in names.xattrs.items():
            if ino not in names.inodes or not whole(chunks):
                self.find("F12", f"attribute {name!r} of inode {ino}: broken, or of no inode")

    def marks(self) -> None:
        names = self.names
        for ino, tag in names.marks.keys() ^ names.marked:
            self.find("F12", f"mark {tag!r} of inode {ino} has one record of two")
        for ino, tag in names.marks.keys() & names.marked:
            inode = names.inodes.get(ino)
            if inode is None or not inode.flags & FLAG_MARKED:
                self.find("F12", f"mark {tag!r} of inode {ino}: no inode, or one that denies it")
