"""A small store, damaged at random, and all that can be done to it: only engine errors come out.

The damage is hostile, not accidental: checksums are made right again after it, so that the parsers
and what builds on them are reached.  Each case is one seed.  Run as a program, it goes on with new
seeds for so many seconds: ``python tests/fuzz/hostile.py SECONDS [FIRST_SEED]``.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lmdb
import xxhash

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.meta import SUPERBLOCK_KEY, TABLES
from engine.nodes import decode, encode, is_namespace
from engine.superblock import BLOCK_BYTES, Superblock

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing here is about disks
SECONDS_MAX = 20  # of one case: more is a hang
READ_BYTES = 1 << 16
Key = tuple[str, bytes]
INTERESTING = [0, 1, 2, 3, 4, 7, 8, 255, 1 << 16, 1 << 31, 1 << 32, (1 << 32) - 1, 1 << 40, 1 << 47,
               (1 << 48) - 1, 1 << 50, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]  # fmt: skip


class Hang(BaseException):
    """The case took too long."""


class Template:
    """The good store that all cases start from: its directory, its records, its blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blocks = {bytes(BLOCK_BYTES)}
        Store.create(path, fanout=4, records_max=4, slab_slots=64)
        store = Store.open(path)
        _fill(store, self._content)
        store.commit()
        store.fingerprints.save()
        store.abandon()  # so that orphans and the reclaim queue stay
        self.records: dict[Key, bytes] = {}
        with _tables(path / "meta") as (env, tables), env.begin() as txn:
            for name, table in tables.items():
                self.records |= {(name, bytes(k)): bytes(v) for k, v in txn.cursor(table)}
        self.keys = sorted(self.records)
        self.seed = Superblock.unpack(self.records["super", SUPERBLOCK_KEY]).hash_seed
        self.node_ids = [struct.unpack("=Q", k)[0] for t, k in self.keys if t == "nodes"]

    def _content(self, letters: bytes) -> bytes:
        blocks = [bytes([letter]) * BLOCK_BYTES for letter in letters]
        self.blocks.update(blocks)
        return b"".join(blocks)


@contextlib.contextmanager
def _tables(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    env = lmdb.open(str(path), map_size=1 << 30, max_dbs=len(TABLES), sync=False)
    try:
        yield env, {n: env.open_db(n.encode(), integerkey=n == "nodes") for n in TABLES}
    finally:
        env.close()


def _fill(store: Store, content: Callable[[bytes], bytes]) -> None:
    """Something of everything that is stored."""
    volume = store.create_volume("v")
    top = volume.mkdir(ROOT_INO, b"dir", 0o755, 0, 0).ino
    for n in range(6):
        ino = volume.create(top, b"file%d" % n, 0o644, 0, 0).ino
        volume.write(ino, n * BLOCK_BYTES, content(bytes(range(n * 9, n * 9 + 20))))
    volume.symlink(top, b"link", b"dir/file1", 0, 0)
    volume.link(ino, ROOT_INO, b"again")
    for n in range(4):
        volume.set_xattr(ino, b"user.%d" % n, b"x" * 700 * n)
    volume.set_mark(top, b"vm", b"payload")
    store.create_snapshot(volume, "s")
    store.clone_file(volume, ino, volume, ROOT_INO, b"clone")
    volume.write(ino, 5 * BLOCK_BYTES, content(b"zyxwv"))
    sparse = volume.create(ROOT_INO, b"sparse", 0o644, 0, 0).ino
    volume.write(sparse, 3000 * BLOCK_BYTES, content(b"S"))
    store.clone_range(volume, ino, 0, volume, sparse, 64 * BLOCK_BYTES, 16 * BLOCK_BYTES)
    store.clone_volume(volume, "w")
    held = volume.create(ROOT_INO, b"orphan", 0o644, 0, 0).ino
    volume.write(held, 0, content(b"orphan"))
    volume.hold(held)
    volume.unlink(ROOT_INO, b"orphan")
    volume.unlink(top, b"file0")  # goes to the reclaim queue
    store.records.put("job/1", b"{}")


# --- damage


def damage(template: Template, rng: random.Random) -> dict[Key, bytes | None]:
    """One to three records and what they become; None: gone."""
    found: dict[Key, bytes | None] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tables = rng.choice((("nodes",), ("nodes",), ("nodes",), TABLES))
        key = rng.choice([k for k in template.keys if k[0] in tables])
        found[key] = _damaged(template, key, rng)
    return found


def _damaged(template: Template, key: Key, rng: random.Random) -> bytes | None:
    raw = bytearray(template.records[key])
    what = rng.randrange(12)
    if key[0] == "nodes" and what < 5 and is_namespace(raw):
        return _damaged_record(template, key, raw, rng)
    if what == 11:
        return None if key != ("super", SUPERBLOCK_KEY) else b""
    if what == 10:
        other = template.records[rng.choice([k for k in template.keys if k[0] == key[0]])]
        raw = bytearray(other)
        if len(raw) >= 16 and rng.random() < 0.5 and key[0] == "nodes":
            raw[8:16] = key[1]
    elif what == 9:
        raw = raw[: rng.randrange(len(raw) + 1)] + rng.randbytes(rng.choice((0, 0, 1, 64)))
    else:
        for _ in range(rng.choice((1, 1, 2, 4))):
            _poke(template, raw, rng)
    return _checksummed(template, key, raw)


def _poke(template: Template, raw: bytearray, rng: random.Random) -> None:
    if not raw:
        return
    at = rng.randrange(len(raw))
    if rng.random() < 0.3:
        raw[at] ^= 1 << rng.randrange(8)
        return
    size = rng.choice((1, 2, 4, 8, 8, 8))
    at -= at % size if rng.random() < 0.8 else 0
    size = min(size, len(raw) - at)
    number = rng.choice([*INTERESTING, *template.node_ids, rng.getrandbits(64)])
    raw[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")


def _damaged_record(template: Template, key: Key, raw: bytearray, rng: random.Random) -> bytes:
    """One record of a namespace node, its node whole and right around it."""
    node = decode(struct.unpack("=Q", key[1])[0], raw, template.seed)
    at = rng.randrange(len(node.keys))
    value = node.vals[at]
    if rng.random() < 0.2:
        changed = bytearray(node.keys[at])
        _poke(template, changed, rng)
        node.keys[at] = bytes(changed)
    elif isinstance(value, bytes):
        changed = bytearray(value)
        for _ in range(rng.choice((1, 1, 3))):
            _poke(template, changed, rng)
        node.vals[at] = bytes(changed)  # type: ignore[call-overload]
    else:
        node.vals[at] = rng.choice([*template.node_ids, *INTERESTING])  # type: ignore[call-overload]
    return encode(node, template.seed)


def _checksummed(template: Template, key: Key, raw: bytearray) -> bytes:
    if key[0] == "nodes" and len(raw) >= 32:
        raw[24:32] = bytes(8)
        raw[24:32] = struct.pack("<Q", xxhash.xxh3_64_intdigest(raw, template.seed))
    if key[0] == "super" and len(raw) >= 8:
        raw[-8:] = struct.pack("<Q", xxhash.xxh3_64_intdigest(raw[:-8]))
    return bytes(raw)


# --- what is done to the damaged store


def _attempt(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The result, or None when the engine says what is wrong."""
    try:
        return call(*arguments, **named)
    except errors.RametError:
        return None


def _walk(volume: Volume) -> list[tuple[int, bytes, int]]:
    """(directory, name, inode) of what can be listed, each directory once."""
    found, pending, seen = [], [ROOT_INO], {ROOT_INO}
    while pending and len(found) < 100:
        directory = pending.pop()
        for entry in _attempt(volume.readdir, directory, limit=50) or ():
            found.append((directory, entry.name, entry.ino))
            if entry.kind == 0o040000 and entry.ino not in seen:
                seen.add(entry.ino)
                pending.append(entry.ino)
    return found


def _read(volume: Volume, blocks: set[bytes] | None) -> None:
    """All of it; a whole block that is read is one that was written, or a hole."""
    for directory, name, ino in _walk(volume):
        _attempt(volume.lookup, directory, name)
        _attempt(volume.path_of, ino)
        _attempt(volume.readlink, ino)
        for attribute in _attempt(volume.list_xattrs, ino) or ():
            _attempt(volume.get_xattr, ino, attribute)
        _attempt(lambda ino=ino: list(itertools.islice(volume.extents(ino), 1000)))
        for offset in (0, 64 * BLOCK_BYTES, 3000 * BLOCK_BYTES, (1 << 50) - READ_BYTES):
            content = _attempt(volume.read, ino, offset, READ_BYTES) or b""
            for at in range(0, len(content) - BLOCK_BYTES + 1, BLOCK_BYTES):
                assert blocks is None or content[at : at + BLOCK_BYTES] in blocks
            _attempt(volume.seek_data, ino, offset)
            _attempt(volume.seek_hole, ino, offset)
    _attempt(lambda: list(volume.marks(b"vm")))
    _attempt(volume.resolve, "/dir/link")


def _change(store: Store, volume: Volume, rng: random.Random) -> None:
    found = _walk(volume)
    rng.shuffle(found)
    new = _attempt(volume.create, ROOT_INO, b"new", 0o644, 0, 0)
    for n, (directory, name, ino) in enumerate(found[:8]):
        offset = rng.choice((0, 100, 5 * BLOCK_BYTES, 3000 * BLOCK_BYTES, 1 << 40))
        length = rng.choice((1, 4096, 30 * BLOCK_BYTES))
        _attempt(volume.write, ino, offset, rng.randbytes(length))
        _attempt(volume.punch, ino, rng.choice((0, 4096, offset)), length)
        _attempt(volume.setattr, ino, size=rng.choice((0, 5000, offset)))
        _attempt(volume.set_xattr, ino, b"user.1", b"y" * 2000)
        _attempt(volume.remove_xattr, ino, b"user.2")
        _attempt(store.clone_file, volume, ino, volume, ROOT_INO, b"c%d" % n)
        if new is not None:
            _attempt(store.clone_range, volume, ino, 0, volume, new.ino, 8192, 1 << 50)
            _attempt(store.clone_range, volume, new.ino, 0, volume, ino, 4096, length)
        _attempt(volume.rename, directory, name, rng.choice(found)[0], b"r%d" % n)
        _attempt(volume.link, ino, ROOT_INO, b"l%d" % n)
        _attempt(volume.clear_mark, ino, b"vm")
        _attempt(volume.unlink, directory, rng.choice((name, b"r%d" % n)))
        _attempt(volume.rmdir, directory, name)
    _attempt(store.clone_tree, volume, ROOT_INO, volume, ROOT_INO, b"below itself")
    for _, _, ino in found[:3]:
        _attempt(store.clone_tree, volume, ino, volume, ROOT_INO, b"tree%d" % ino)
    for directory, name, _ in found[:3]:
        _attempt(store.remove_tree, volume, directory, name)


def _use(path: Path, blocks: set[bytes] | None, rng: random.Random) -> None:
    """RametError from ``open`` ends the case: the store says what is wrong with it."""
    with contextlib.closing(Store.open(path)) as store:
        every = store.volumes()
        for volume in [*every, *(s for v in every for s in store.snapshots(v))]:
            _read(volume, blocks)
        _attempt(fsck.check, store, data=True)
        _attempt(store.account)
        if every:
            volume = rng.choice(every)
            _change(store, volume, rng)
            _attempt(store.create_snapshot, volume, "now")
            _attempt(store.commit)
            _attempt(store.restore, volume, "s", force=True)
            _attempt(store.clone_volume, volume, f"{volume.name}-clone")
            _attempt(store.remove_volume, every[0].name, force=True)
        store.space()
        _attempt(store.account)
        _attempt(store.gc)


def run_case(template: Template, seed: int, scratch: Path) -> None:
    """AssertionError, Hang, or whatever got out, when the case fails."""
    rng = random.Random(seed)
    path = scratch / "case"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(template.path, path)
    changes = damage(template, rng)
    with _tables(path / "meta") as (env, tables), env.begin(write=True) as txn:
        for (table, key), value in changes.items():
            if value is None:
                txn.delete(key, db=tables[table])
            else:
                txn.put(key, value, db=tables[table])
    if rng.random() < 0.1:
        index = path / "index" / "fingerprints"
        index.write_bytes(rng.randbytes(rng.choice((0, 15, 16, 4096))) + b"\xff" * 64)
    before = signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX)
    try:
        for blocks in (template.blocks, None):  # what it has stored is opened again
            with contextlib.suppress(errors.RametError):
                _use(path, blocks, rng)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"still running after {SECONDS_MAX} s")


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else os.getpid() << 20
    first, deadline, failed = seed, time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory(prefix="ramet-hostile-", dir=MEMORY) as scratch:
        template = Template(Path(scratch) / "good")
        while time.monotonic() < deadline:
            try:
                run_case(template, seed, Path(scratch))
            except (Exception, Hang):
                failed += 1
                traceback.print_exc()
                print(f"seed {seed}: {list(damage(template, random.Random(seed)))}")
            seed += 1
    print(f"hostile stores: {seed - first} cases from seed {first}, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
