"""What a store should hold: a dict of bytes, and a seeded workload that changes both.

The key of a file is ``volume:name`` or ``volume@snapshot:name``; a volume or snapshot itself is a
key with no bytes.  Volumes are named after the client that owns them (``c0-v1``), so what several
clients do at once can be told apart.  A directory (TREE, a clone of GOLDEN's) is a key like a file,
with all that is in it for contents; no client changes what is in it.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec
import xxhash

BLOCK = 4096
FILE_BLOCKS = 96
NAMES = ["a", "b", "c", "d", "e", "f"]
SNAPSHOTS = ["s1", "s2"]
GOLDEN = "golden"  # a volume that is there before the first client
TREE = "tree"
GOLDEN_FILES = {b"file %02d" % n: b"golden %d, " % n * (40 * (n % 12)) for n in range(70)}


class Fingerprint(msgspec.Struct, frozen=True, array_like=True):
    """A file's contents: of all bytes, and of each block for the report."""

    size: int
    digest: bytes
    blocks: bytes


State = dict[str, Fingerprint]
Action = Callable[[], object]


def describe(action: Action) -> str:
    """An action in a line."""
    if not isinstance(action, partial):
        return str(getattr(action, "__name__", action))
    words = [f"{len(a)} bytes" if isinstance(a, bytes) else str(a) for a in action.args]
    return f"{action.func.__name__} {' '.join(words)}"


def fingerprint(content: "bytes | bytearray | memoryview") -> Fingerprint:
    digest = xxhash.xxh3_64_digest
    view = memoryview(content)
    blocks = b"".join(digest(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK))
    return Fingerprint(len(view), xxhash.xxh3_128_digest(content), blocks)


def tree_bytes(files: dict[bytes, bytes]) -> bytes:
    """What a directory's key has."""
    return b"".join(b"%r: %r\n" % each for each in sorted(files.items()))


class Door(Protocol):
    """How a workload reaches the store: the engine itself, or the daemon's mount and socket."""

    write_bytes_max: int
    splits_at_pages: bool  # a write that starts inside a page is one request up to its end

    def create(self, volume: str, name: str) -> None: ...
    def write(self, volume: str, name: str, offset: int, data: bytes) -> None: ...
    def truncate(self, volume: str, name: str, size: int) -> None: ...
    def punch(self, volume: str, name: str, offset: int, length: int) -> None: ...
    def unlink(self, volume: str, name: str) -> None: ...
    def rename(self, volume: str, old: str, new: str) -> None: ...
    def clone_file(self, source: str, name: str, volume: str, new: str) -> None: ...
    def clone_range(
        self, volume: str, name: str, start: int, into: str, new: str, to: int, length: int
    ) -> None: ...
    def clone_ranges(
        self, volume: str, name: str, into: str, new: str, ranges: list[tuple[int, int, int]]
    ) -> None: ...
    def clone_tree(self, source: str, volume: str) -> None: ...
    def create_volume(self, volume: str) -> None: ...
    def clone_volume(self, source: str, volume: str) -> None: ...
    def remove_volume(self, volume: str) -> None: ...
    def snapshot(self, volume: str, name: str) -> None: ...
    def remove_snapshot(self, volume: str, name: str) -> None: ...
    def restore(self, volume: str, name: str) -> None: ...


class Model:
    """All contents of one client, and which keys changed since they were last noted."""

    def __init__(self) -> None:
        self.contents: dict[str, bytearray] = {}
        self._changed: set[str] = set()

    def put(self, key: str, content: bytearray) -> None:
        self.contents[key] = content
        self._changed.add(key)

    def remove(self, key: str) -> None:
        del self.contents[key]
        self._changed.add(key)

    def write(self, key: str, offset: int, data: bytes) -> None:
        content = self.contents[key]
        if offset + len(data) > len(content):
            content.extend(bytes(offset + len(data) - len(content)))
        content[offset : offset + len(data)] = data
        self._changed.add(key)

    def resize(self, key: str, size: int) -> None:
        content = self.contents[key]
        if size < len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))
        self._changed.add(key)

    def copy_volume(self, source: str, target: str) -> None:
        """Volume, snapshot or both; what the target had is gone."""
        for key in [k for k in self.contents if k.startswith(target + ":")]:
            self.remove(key)
        self.put(target, bytearray())
        for key in [k for k in self.contents if k.startswith(source + ":")]:
            self.put(target + key[len(source) :], bytearray(self.contents[key]))

    def remove_volume(self, volume: str) -> None:
        mine = (volume + ":", volume + "@")
        for key in [k for k in self.contents if k == volume or k.startswith(mine)]:
            self.remove(key)

    def changes(self) -> dict[str, Fingerprint | None]:
        """What changed since the last call."""
        found = {
            key: fingerprint(self.contents[key]) if key in self.contents else None
            for key in sorted(self._changed)
        }
        self._changed.clear()
        return found

    def volumes(self) -> list[str]:
        return sorted(k for k in self.contents if "@" not in k and ":" not in k)

    def snapshots(self, volume: str) -> list[str]:
        head = volume + "@"
        return sorted(k[len(head) :] for k in self.contents if k.startswith(head) and ":" not in k)

    def files(self, volume: str) -> list[str]:
        head = volume + ":"
        names = (k[len(head) :] for k in self.contents if k.startswith(head))
        return sorted(name for name in names if name != TREE)

    def has_tree(self, volume: str) -> bool:
        return f"{volume}:{TREE}" in self.contents


WEIGHTS = {
    "write": 50, "create": 8, "truncate": 4, "punch": 5, "unlink": 3, "rename": 2,
    "clone_file": 6, "clone_range": 6, "clone_ranges": 4, "clone_tree": 2, "clone_volume": 1,
    "remove_volume": 1, "snapshot": 2, "remove_snapshot": 2, "restore": 2,
}  # fmt: skip


class Workload:
    """Plans one operation after the other: changes the model, returns what to do to the store."""

    def __init__(self, rng: random.Random, client: str, door: Door) -> None:
        self.model = Model()
        self._rng = rng
        self._door = door
        self._volumes = [f"{client}-v{n}" for n in range(3)]
        self._written: list[bytes] = [rng.randbytes(BLOCK * 8)]

    def first(self) -> Action:
        """The first volume."""
        volume = self._volumes[0]
        self.model.put(volume, bytearray())
        return partial(self._door.create_volume, volume)

    def next(self) -> Action:
        """One operation that is possible now."""
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        while True:
            kind = self._rng.choices(kinds, weights)[0]
            action: Action | None = getattr(self, f"_plan_{kind}")()
            if action is not None:
                return action

    def write(self) -> Action | None:
        """A write, if there is a file."""
        return self._plan_write()

    # --- what to pick

    def _volume(self) -> str:
        return self._rng.choice(self.model.volumes())

    def _file(self) -> tuple[str, str, bytearray] | None:
        volume = self._volume()
        files = self.model.files(volume)
        if not files:
            return None
        name = self._rng.choice(files)
        return volume, name, self.model.contents[f"{volume}:{name}"]

    def _offset(self, limit: int = FILE_BLOCKS * BLOCK) -> int:
        offset = self._rng.randrange(max(limit, 1))
        return offset if self._rng.random() < 0.4 else offset // BLOCK * BLOCK

    def _data(self, length: int) -> bytes:
        """New bytes, bytes that were written before, zeroes, or a mixture of them."""
        kind = self._rng.choice(["new", "new", "new", "old", "old", "zero", "mixed"])
        if kind == "new":
            data = self._rng.randbytes(length)
        elif kind == "old":
            data = (self._rng.choice(self._written) * (length // BLOCK + 1))[:length]
        elif kind == "zero":
            data = bytes(length)
        else:
            pieces = [self._rng.randbytes(BLOCK), bytes(BLOCK), self._rng.choice(self._written)]
            data = b"".join(self._rng.choices(pieces, k=length // BLOCK + 1))[:length]
        if length >= BLOCK:
            self._written = [*self._written[-7:], data]
        return data

    # --- files

    def _plan_create(self) -> Action | None:
        volume, name = self._volume(), self._rng.choice(NAMES)
        if name in self.model.files(volume):
            return None
        self.model.put(f"{volume}:{name}", bytearray())
        return partial(self._door.create, volume, name)

    def _plan_write(self) -> Action | None:
        picked = self._file()
        if picked is None:
            return None
        volume, name, content = picked
        blocks = self._rng.choice([1, 1, 2, 4, 8, 16, 32, 64])
        length = blocks * BLOCK if self._rng.random() < 0.6 else self._rng.randrange(1, 3 * BLOCK)
        length = min(length, self._door.write_bytes_max)
        reach = len(content) + 8 * BLOCK if self._rng.random() < 0.5 else 16 * BLOCK  # a hot spot
        offset = min(self._offset(reach), FILE_BLOCKS * BLOCK - length)
        if self._door.splits_at_pages and offset % BLOCK:
            length = min(length, BLOCK - offset % BLOCK)
        data = self._data(length)
        self.model.write(f"{volume}:{name}", offset, data)
        return partial(self._door.write, volume, name, offset, data)

    def _plan_truncate(self) -> Action | None:
        picked = self._file()
        if picked is None:
            return None
        volume, name, _ = picked
        size = self._offset()
        self.model.resize(f"{volume}:{name}", size)
        return partial(self._door.truncate, volume, name, size)

    def _plan_punch(self) -> Action | None:
        picked = self._file()
        if picked is None or not picked[2]:
            return None
        volume, name, content = picked
        offset = self._offset(len(content))
        length = min(self._rng.randrange(1, 20 * BLOCK), len(content) - offset)
        self.model.write(f"{volume}:{name}", offset, bytes(length))
        return partial(self._door.punch, volume, name, offset, length)

    def _plan_unlink(self) -> Action | None:
        picked = self._file()
        if picked is None:
            return None
        self.model.remove(f"{picked[0]}:{picked[1]}")
        return partial(self._door.unlink, picked[0], picked[1])

    def _plan_rename(self) -> Action | None:
        picked, new = self._file(), self._rng.choice(NAMES)
        if picked is None or picked[1] == new:
            return None
        volume, old, content = picked
        self.model.remove(f"{volume}:{old}")
        self.model.put(f"{volume}:{new}", content)
        return partial(self._door.rename, volume, old, new)

    # --- clones

    def _plan_clone_file(self) -> Action | None:
        picked, into, new = self._file(), self._volume(), self._rng.choice(NAMES)
        if picked is None or (picked[0], picked[1]) == (into, new):
            return None
        source, name, content = picked
        snapshots = self.model.snapshots(source)
        if snapshots and self._rng.random() < 0.4:
            source = f"{source}@{self._rng.choice(snapshots)}"
            if name not in self.model.files(source):
                return None
            content = self.model.contents[f"{source}:{name}"]
        self.model.put(f"{into}:{new}", bytearray(content))
        return partial(self._door.clone_file, source, name, into, new)

    def _plan_clone_range(self) -> Action | None:
        picked, target = self._file(), self._file()
        if picked is None or target is None:
            return None
        (volume, name, content), (into, new, _) = picked, target
        start, to = self._offset(len(content)), self._offset()
        if self._rng.random() < 0.6:
            start, to = start // BLOCK * BLOCK, to // BLOCK * BLOCK
        length = min(self._rng.randrange(1, 40 * BLOCK), len(content) - start)
        length = min(length, FILE_BLOCKS * BLOCK - to)
        if length <= 0 or ((volume, name) == (into, new) and abs(start - to) < length):
            return None
        self.model.write(f"{into}:{new}", to, bytes(content[start : start + length]))
        return partial(self._door.clone_range, volume, name, start, into, new, to, length)

    def _plan_clone_ranges(self) -> Action | None:
        """Some ranges at once, each read from the state before the first of them."""
        picked, target = self._file(), self._file()
        if picked is None or target is None:
            return None
        (volume, name, content), (into, new, _) = picked, target
        blocks, before = len(content) // BLOCK, bytes(content)
        if not blocks:
            return None
        ranges = []
        for _ in range(self._rng.randrange(1, 5)):
            start, to = self._rng.randrange(blocks), self._rng.randrange(FILE_BLOCKS - 1)
            count = self._rng.randrange(1, 1 + min(blocks - start, FILE_BLOCKS - to, 24))
            piece = before[start * BLOCK : (start + count) * BLOCK]
            self.model.write(f"{into}:{new}", to * BLOCK, piece)
            ranges.append((start, to, count))
        return partial(self._door.clone_ranges, volume, name, into, new, ranges)

    # --- directories

    def pick_tree(self) -> tuple[str, str] | None:
        """The volume or snapshot with the directory to clone, and the volume that has none yet."""
        into = self._volume()
        if self.model.has_tree(into):
            return None
        volumes = self.model.volumes()
        views = [*volumes, *(f"{v}@{s}" for v in volumes for s in self.model.snapshots(v))]
        return self._rng.choice([GOLDEN, *filter(self.model.has_tree, views)]), into

    def made_tree(self, volume: str) -> None:
        self.model.put(f"{volume}:{TREE}", bytearray(tree_bytes(GOLDEN_FILES)))

    def _plan_clone_tree(self) -> Action | None:
        picked = self.pick_tree()
        if picked is None:
            return None
        self.made_tree(picked[1])
        return partial(self._door.clone_tree, *picked)

    # --- volumes and snapshots

    def _plan_clone_volume(self) -> Action | None:
        source, target = self._volume(), self._rng.choice(self._volumes)
        if target in self.model.volumes():
            return None
        snapshots = self.model.snapshots(source)
        if snapshots and self._rng.random() < 0.5:
            source = f"{source}@{self._rng.choice(snapshots)}"
        self.model.copy_volume(source, target)
        return partial(self._door.clone_volume, source, target)

    def _plan_remove_volume(self) -> Action | None:
        volume = self._volume()
        if len(self.model.volumes()) < 2:
            return None
        self.model.remove_volume(volume)
        return partial(self._door.remove_volume, volume)

    def _plan_snapshot(self) -> Action | None:
        volume, name = self._volume(), self._rng.choice(SNAPSHOTS)
        if name in self.model.snapshots(volume):
            return None
        self.model.copy_volume(volume, f"{volume}@{name}")
        return partial(self._door.snapshot, volume, name)

    def _pick_snapshot(self) -> tuple[str, str] | None:
        volume = self._volume()
        snapshots = self.model.snapshots(volume)
        return (volume, self._rng.choice(snapshots)) if snapshots else None

    def _plan_remove_snapshot(self) -> Action | None:
        picked = self._pick_snapshot()
        if picked is None:
            return None
        self.model.remove_volume("@".join(picked))
        return partial(self._door.remove_snapshot, *picked)

    def _plan_restore(self) -> Action | None:
        picked = self._pick_snapshot()
        if picked is None:
            return None
        self.model.copy_volume("@".join(picked), picked[0])
        return partial(self._door.restore, *picked)
