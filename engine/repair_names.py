"""Repair of one namespace: what its records agree on stays, what can be derived is derived.

An entry leads to an inode or goes; an inode that no entry leads to gets one in ``/lost+found``; a
directory has one name; counts are counted.  Nothing is made up: a symlink whose target is not
whole and an attribute that misses a chunk are taken away, and told.
"""

import stat
from collections import Counter
from collections.abc import Callable

from engine import keys
from engine.fsck_names import COOKIE_MAX, Names, proper_name, whole
from engine.inode import FLAG_MARKED, Inode
from engine.keys import ROOT_INO, DirEntry
from engine.pool import now_ns
from engine.superblock import State

LOST_FOUND = b"lost+found"
Tell = Callable[[str, str], None]  # check, what was done


class NamesRepair:
    """Changes ``names`` until the checks of it have nothing to say."""

    def __init__(self, names: Names, state: State, tell: Tell) -> None:
        self.names = names
        self._state = state
        self._tell = tell
        self._lost_found = 0

    def run(self) -> None:
        self.root()
        self.twins()
        self.symlinks()
        self.entries()
        self.directories()
        self.lost()
        self.attributes()
        self.marks()
        self.counts()

    def root(self) -> None:
        inodes = self.names.inodes
        old = inodes.get(ROOT_INO)
        if old is not None and not old.is_dir:
            old.ino = self._state.next_ino
            self._state.next_ino += 1
            inodes[old.ino] = old
            old = None
        if old is None:
            self._tell("F13", "a new root directory was made")
            self._directory(ROOT_INO)
        inodes[ROOT_INO].parent = ROOT_INO
        for inode in inodes.values():
            if inode.next_cookie > COOKIE_MAX:
                self._tell("F5", f"directory {inode.ino}: its cookies begin after the last one")
                inode.next_cookie = keys.FIRST_COOKIE

    def _directory(self, ino: int) -> Inode:
        state = self._state
        inode = Inode(ino, stat.S_IFDIR | (0o755 if ino == ROOT_INO else 0o700), 0, 0, now_ns())
        inode.generation, inode.change = state.next_generation, state.next_change
        state.next_generation += 1
        state.next_change += 1
        self.names.inodes[ino] = inode
        return inode

    def _new_cookie(self, parent: int) -> int:
        directory = self.names.inodes.get(parent)
        cookie = keys.FIRST_COOKIE
        if directory is not None:
            cookie = max(directory.next_cookie, cookie)
        while (parent, cookie) in self.names.by_cookie:
            cookie += 1
        if directory is not None:
            directory.next_cookie = cookie + 1
        return cookie

    # --- entries

    def _enter(self, parent: int, entry: DirEntry) -> None:
        self.names.by_name[parent, entry.name] = entry
        self.names.by_cookie[parent, entry.cookie] = entry

    def _drop(self, parent: int, entry: DirEntry) -> None:
        self.names.by_name.pop((parent, entry.name), None)
        if self.names.by_cookie.get((parent, entry.cookie)) == entry:
            del self.names.by_cookie[parent, entry.cookie]

    def twins(self) -> None:
        """Both records of each entry; where they differ, the one by name counts."""
        names = self.names
        for (parent, name), entry in list(names.by_name.items()):
            twin = names.by_cookie.get((parent, entry.cookie))
            proper = keys.FIRST_COOKIE <= entry.cookie < COOKIE_MAX
            if twin == entry and proper:
                continue
            taken = twin not in (None, entry) and names.by_name.get((parent, twin.name)) == twin
            if not proper or taken:
                entry = entry._replace(cookie=self._new_cookie(parent))  # noqa: PLW2901
            self._tell("F5", f"entry {name!r} of directory {parent} has both its records again")
            self._enter(parent, entry)
        for (parent, cookie), entry in list(names.by_cookie.items()):
            known = names.by_name.get((parent, entry.name))
            if known is None and keys.FIRST_COOKIE <= cookie < COOKIE_MAX:
                self._tell("F5", f"entry {entry.name!r} of directory {parent} is found again")
                self._enter(parent, entry)
            elif known != entry:
                self._tell("F5", f"cookie {cookie} of directory {parent} stood for nothing")
                del names.by_cookie[parent, cookie]

    def entries(self) -> None:
        """Each leads from a directory to an inode, under a name that may be."""
        names = self.names
        for (parent, name), entry in list(names.by_name.items()):
            directory, inode = names.inodes.get(parent), names.inodes.get(entry.ino)
            if inode is None:
                self._tell("F5", f"{name!r} of directory {parent} is gone: so is its inode")
                self._drop(parent, entry)
            elif directory is None or not directory.is_dir or not proper_name(name):
                self._tell("F5", f"entry {name!r} of directory {parent} could not stay")
                self._drop(parent, entry)
            elif inode.kind != entry.kind:
                self._tell("F5", f"entry {name!r} of directory {parent} has its inode's type")
                self._drop(parent, entry)
                self._enter(parent, entry._replace(kind=inode.kind))

    def directories(self) -> None:
        """A directory has one name: the one it knows of, or the first; the root has none."""
        names = self.names
        found: dict[int, list[tuple[int, DirEntry]]] = {}
        for (parent, _), entry in sorted(names.by_name.items()):
            if stat.S_ISDIR(entry.kind):
                found.setdefault(entry.ino, []).append((parent, entry))
        for ino, places in found.items():
            inode = names.inodes[ino]
            home = (inode.parent, inode.parent_cookie)
            keep = next((p for p in places if (p[0], p[1].cookie) == home), places[0])
            for place in places:
                if place is not keep or ino == ROOT_INO:
                    self._tell("F6", f"directory {ino} is no longer {place[1].name!r} as well")
                    self._drop(*place)
            if ino != ROOT_INO:
                inode.parent, inode.parent_cookie = keep[0], keep[1].cookie

    def lost(self) -> None:
        """What is not reached from the root goes to /lost+found."""
        names = self.names
        missing = names.inodes.keys() - names.reached()
        while missing:
            named = {entry.ino: key for key, entry in names.by_name.items()}
            tops = sorted(ino for ino in missing if ino not in named)
            if not tops:  # directories in a ring: open it
                top = min(ino for ino in missing if names.inodes[ino].is_dir)
                self._drop(named[top][0], names.by_name[named[top]])
                tops = [top]
            for ino in tops:
                self._place(names.inodes[ino])
            missing = names.inodes.keys() - names.reached()

    def _place(self, inode: Inode) -> None:
        parent = self._lost_found or self._find_lost_found()
        name = b"#%d" % inode.ino
        while (parent, name) in self.names.by_name:
            name += b"+"
        self._tell("F6", f"inode {inode.ino} is in /lost+found now")
        self._link(parent, name, inode)

    def _link(self, parent: int, name: bytes, inode: Inode) -> None:
        entry = DirEntry(name, inode.ino, inode.kind, self._new_cookie(parent))
        self._enter(parent, entry)
        inode.parent, inode.parent_cookie = parent, entry.cookie

    def _find_lost_found(self) -> int:
        name = LOST_FOUND
        while True:
            entry = self.names.by_name.get((ROOT_INO, name))
            if entry is None:
                break
            if stat.S_ISDIR(entry.kind):
                self._lost_found = entry.ino
                return entry.ino
            name += b"+"
        made = self._directory(self._state.next_ino)
        self._state.next_ino += 1
        self._link(ROOT_INO, name, made)
        self._lost_found = made.ino
        return made.ino

    # --- what hangs on inodes

    def symlinks(self) -> None:
        names = self.names
        for ino, inode in list(names.inodes.items()):
            chunks = names.targets.get(ino, {})
            size = sum(map(len, chunks.values()))
            if inode.is_symlink and (size != inode.size or not size or not whole(chunks)):
                self._tell("F12", f"symlink {ino} was removed: its target is lost")
                del names.inodes[ino]
        for ino in list(names.targets):
            owner = names.inodes.get(ino)
            if owner is None or not owner.is_symlink:
                self._tell("F12", f"a target of inode {ino}, which has none, was removed")
                del names.targets[ino]

    def attributes(self) -> None:
        names = self.names
        for (ino, name), chunks in list(names.xattrs.items()):
            if ino not in names.inodes or not whole(chunks):
                self._tell("F12", f"attribute {name!r} of inode {ino} was removed: not whole")
                del names.xattrs[ino, name]

    def marks(self) -> None:
        names = self.names
        for ino, tag in names.marks.keys() | names.marked:
            inode = names.inodes.get(ino)
            if inode is None or (ino, tag) not in names.marks:
                self._tell("F12", f"mark {tag!r} of inode {ino} was removed")
                names.marks.pop((ino, tag), None)
                names.marked.discard((ino, tag))
            elif (ino, tag) not in names.marked or not inode.flags & FLAG_MARKED:
                self._tell("F12", f"mark {tag!r} of inode {ino} is whole again")
                names.marked.add((ino, tag))
                inode.flags |= FLAG_MARKED

    def counts(self) -> None:
        names = self.names
        links = Counter(entry.ino for entry in names.by_name.values())
        entries: Counter[int] = Counter()
        below: Counter[int] = Counter()
        last: dict[int, int] = {}
        for (parent, _), entry in names.by_name.items():
            entries[parent] += 1
            below[parent] += stat.S_ISDIR(entry.kind)
            last[parent] = max(last.get(parent, 0), entry.cookie)
        for ino, inode in names.inodes.items():
            nlink = 2 + below[ino] if inode.is_dir else links[ino]
            if inode.nlink != nlink:
                self._tell("F6", f"inode {ino}: nlink is {nlink}")
                inode.nlink = nlink
            if inode.is_dir and inode.entries != entries[ino]:
                self._tell("F7", f"directory {ino} has {entries[ino]} entries")
                inode.entries = entries[ino]
            following = max(inode.next_cookie, keys.FIRST_COOKIE, last.get(ino, 0) + 1)
            if inode.next_cookie != following and inode.is_dir:
                self._tell("F5", f"directory {ino}: the next cookie is {following}")
                inode.next_cookie = following
