"""The store: opens and closes, and is the one door to its volumes, clone, commit and gc.

Directory layout (docs/FORMAT.md): ``meta/`` the LMDB environment, ``slabs/`` the blocks, ``index/``
the fingerprint index (derived), ``run/`` the daemon's socket, ``lock`` held by the one process
that owns the store.
"""

import contextlib
import math
import os
import struct
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from engine import clones, errors, long_clones, ranges, reclaim, removal
from engine.accounting import Accounting, Unique
from engine.block_range import BlockRange
from engine.commit import Commit, write_or_fail
from engine.creation import create_store
from engine.fingerprints import Fingerprints
from engine.gc import Gc, GcResult
from engine.inode import Inode
from engine.intent_log import IntentLog
from engine.meta import (
    STATE_KEY,
    SUPERBLOCK_KEY,
    Meta,
    id_key,
    unpack_chunk_key,
    unpack_orphan_key,
)
from engine.owner import lock
from engine.pool import Change, Pool
from engine.records import Records
from engine.replacement import replace_tree
from engine.reserve import Reserve
from engine.slabs import SlabPool
from engine.space import Space
from engine.stored import INDEX
from engine.superblock import SLAB_SLOTS, State, Superblock
from engine.syncs import Syncs
from engine.tree_clones import TreeClone, clone_in_steps
from engine.trim import Trim
from engine.volume import Volume
from engine.volume_record import FLAG_HIDDEN, FLAG_SNAPSHOT, VolumeRecord
from native import EXTENT_FANOUT

__all__ = ["Change", "Space", "Store"]

RECORDS_MAX = 1 << 16
CACHE_BYTES = 256 << 20
INDEX_SLOTS = 1 << 18  # of fingerprints in memory, at first; 13 bytes each
RECLAIM_STEP_S = 0.1
DEAD_NODES_MAX = 20_000
NODES_EVICTED = 1024
LOG_BYTES = 32 << 20  # of the intent log, at most


class Store(Syncs):
    """An open store.  Use as a context manager; ``close`` commits."""

    def __init__(self, path: Path, lock_fd: int, pool: Pool, log_bytes: int) -> None:
        super().__init__(pool, IntentLog(path, pool.superblock.hash_seed, log_bytes // 2))
        self.path = path
        self._lock_fd = lock_fd
        self._in_flight: Commit | None = None
        self._waiting_for_readers: list[Commit] = []
        self._records: dict[str, bytes] = {}
        self.fingerprints = Fingerprints(path / INDEX, pool.core)
        self.unique: Unique | None = None  # of the last accounting pass
        self._backed = (-1, 0)  # generation, bytes that the slabs take on the host

    # --- life

    @staticmethod
    def create(
        path: "str | os.PathLike[str]",
        *,
        fanout: int = EXTENT_FANOUT,
        records_max: int = RECORDS_MAX,
        slab_slots: int = SLAB_SLOTS,
    ) -> None:
        """Make a store in an empty or new directory.  AlreadyExists, NotEmpty, NoSpace, OSError."""
        superblock = Superblock.new(
            fanout=fanout, records_max=records_max, slab_slots=slab_slots
        )  # fmt: skip
        create_store(Path(path), superblock)

    @classmethod
    def open(
        cls,
        path: "str | os.PathLike[str]",
        *,
        cache_bytes: int = CACHE_BYTES,
        index_slots: int = INDEX_SLOTS,
        log_bytes: int = LOG_BYTES,
        read_only: bool = False,
    ) -> "Store":
        """Open a store.  NoSuchStore, StoreInUse, Corrupt, Unsupported."""
        root = Path(path)
        lock_fd = lock(root)
        with _damage_is_corrupt(root), contextlib.ExitStack() as undo:
            undo.callback(os.close, lock_fd)
            meta = Meta(root / "meta", read_only=read_only)
            undo.callback(meta.close)
            superblock = Superblock.unpack(meta.get("super", SUPERBLOCK_KEY))
            state = State.unpack(meta.get("super", STATE_KEY))
            slabs = SlabPool(
                root / "slabs", superblock.slab_slots * superblock.block_bytes, read_only=read_only
            )
            undo.callback(slabs.close)
            reserve = None if read_only else Reserve(root, meta)
            if reserve is not None:
                undo.callback(reserve.close)
            pool = Pool(
                superblock, state, meta, slabs, reserve, cache_bytes=cache_bytes,
                index_slots=index_slots, read_only=read_only,
            )  # fmt: skip
            undo.callback(pool.core.close)
            store = cls(root, lock_fd, pool, log_bytes)
            store._load()
            store.write_again_synced()
            undo.pop_all()
        return store

    def _load(self) -> None:
        pool = self.pool
        for slab in range(pool.state.slabs):
            pool.core.add_slab(slab, pool.slabs.open(slab))
        for key, bits in pool.meta.items("slots"):
            slab, chunk = unpack_chunk_key(key)
            try:
                pool.core.load_chunk(slab, chunk, bits)
            except ValueError:
                raise errors.Corrupt(
                    f"the slots of slab {slab}, chunk {chunk} are damaged; run `ramet fsck`"
                ) from None
        if pool.meta.last_node() >= pool.state.next_node:
            raise errors.Corrupt("node ids are past their counter; restore from a backup")
        for key, value in pool.meta.items("records"):
            self._records[key.decode(errors="replace")] = value
        for key, raw in pool.meta.items("volumes"):
            record = VolumeRecord.unpack(raw)
            if key != id_key(record.id) or record.id >= pool.state.next_volume:
                raise errors.Corrupt(f"volume {record.name} has another's number; run `ramet fsck`")
            if record.shared_epoch >= pool.state.epoch:
                raise errors.Corrupt(f"volume {record.name} is of a later epoch; run `ramet fsck`")
            parent = self._volumes.get(record.parent_id)
            if record.flags & FLAG_SNAPSHOT and parent is None:
                raise errors.Corrupt(f"snapshot {record.name} has no volume; run `ramet fsck`")
            if not record.sound_flags:
                raise errors.Corrupt(f"volume {record.name} has damaged flags; run `ramet fsck`")
            if record.flags == FLAG_HIDDEN:
                self._hidden[record.id] = Volume(pool, record)
            else:
                self._add(Volume(pool, record, parent))
        self._load_deleted()
        self.fingerprints.load(read_only=pool.read_only)
        pool.after_write = None if pool.read_only else self.fingerprints.turn

    def _load_deleted(self) -> None:
        """What waits to be freed.  A damaged record of it goes; what it named is left to gc."""
        pool = self.pool
        for key, raw in pool.meta.items(reclaim.TABLE):
            try:
                pool.reclaim.load(key, raw)
            except errors.Corrupt:
                pool.delete(reclaim.TABLE, key)
        for key, raw in pool.meta.items("orphans") if not pool.read_only else ():
            try:
                volume_id, ino = unpack_orphan_key(key)
                pool.drop_orphan(volume_id, Inode.unpack(ino, raw))
            except errors.Corrupt:
                pool.delete("orphans", key)
        for volume in list(self._hidden.values()) if not pool.read_only else ():
            self.drop_hidden(volume)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """An interrupt may stand in the middle of a change: then nothing of it is committed."""
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:
            self.abandon()

    def close(self) -> None:
        """Commit (unless the store has failed or is read-only) and let go of everything.

        A second call does nothing.
        """
        if self._lock_fd < 0:
            return
        try:
            if not self.pool.read_only and self.pool.failed is None:
                self.commit()
                self.log.close(remove=True)
                self.fingerprints.save()
        finally:
            self._release()

    def abandon(self) -> None:
        """Let go without a commit: what a crash of the process would leave."""
        self._release()

    def _release(self) -> None:
        if self._lock_fd < 0:
            return
        self.fingerprints.drop_jobs()
        self.log.close(remove=False)
        self.pool.core.close()
        self.pool.close_reserve()
        self.pool.slabs.close()
        self.pool.meta.close()
        os.close(self._lock_fd)
        self._lock_fd = -1

    @property
    def uuid(self) -> uuid.UUID:
        return self.pool.superblock.uuid

    @property
    def failed(self) -> str | None:
        """Why the store takes no more writes; None while it does."""
        return self.pool.failed

    @property
    def listeners(self) -> list[Callable[[Change], None]]:
        """Called after each change, on the engine thread; must be quick and raise nothing."""
        return self.pool.listeners

    # --- clones of files

    def clone_file(
        self, source: Volume, source_ino: int, target: Volume, parent: int, name: bytes, *,
        replace: bool = False, mode: int | None = None, uid: int | None = None,
        gid: int | None = None,
    ) -> Inode:  # fmt: skip
        return clones.clone_file(
            source, source_ino, target, parent, name,
            replace=replace, mode=mode, uid=uid, gid=gid,
        )  # fmt: skip

    def clone_range(
        self, source: Volume, source_ino: int, source_offset: int,
        target: Volume, target_ino: int, target_offset: int, length: int,
    ) -> int:  # fmt: skip
        return ranges.clone_range(
            source, source_ino, source_offset, target, target_ino, target_offset, length
        )

    def clone_ranges(
        self, source: Volume, source_ino: int, target: Volume, target_ino: int,
        blocks: Sequence[BlockRange], *, extend: bool = False,
    ) -> int:  # fmt: skip
        """Clone block ranges: all or none, from the state at the start of the call.

        See ``engine.ranges.clone_ranges`` for what bounds a call and what it raises; returns the
        blocks done.
        """
        return ranges.clone_ranges(source, source_ino, target, target_ino, blocks, extend=extend)

    def clone_in_steps(
        self, source: Volume, source_ino: int, target: Volume, target_ino: int, blocks: BlockRange
    ) -> Generator[None, None, None]:
        """One range of any length: all or nothing, in short steps (engine/long_clones.py)."""
        return long_clones.clone_in_steps(source, source_ino, target, target_ino, blocks)

    def clone_tree(
        self, source: Volume, source_dir: int, target: Volume, parent: int, name: bytes
    ) -> Inode:  # fmt: skip
        return clones.clone_tree(source, source_dir, target, parent, name)

    def tree_clone(
        self, source: Volume, source_dir: int, target: Volume, parent: int, name: bytes
    ) -> Generator[None, None, TreeClone]:
        """The same in short steps, of a directory of any size (engine/tree_clones.py)."""
        return clone_in_steps(self, source, source_dir, target, parent, name)

    def replace_tree(
        self, source: Volume, source_dir: int, target: Volume, parent: int, name: bytes, *,
        force: bool = False, prepare: Callable[[Inode], object] | None = None,
    ) -> Inode:  # fmt: skip
        """Put a clone of a directory where another is: see ``engine.replacement``."""
        return replace_tree(
            source, source_dir, target, parent, name, force=force, prepare=prepare
        )  # fmt: skip

    def remove_tree(self, volume: Volume, parent: int, name: bytes) -> int:
        """Remove a name with all below it; in one step, of about 25 us a name."""
        return removal.remove_tree(volume, parent, name)

    def removal(
        self, volume: Volume, parent: int, name: bytes
    ) -> Generator[None, None, int]:  # fmt: skip
        """The same in steps of at most 64 names (engine/removal.py)."""
        return removal.removal(volume, parent, name)

    # --- commit

    @property
    def generation(self) -> int:
        """Grows with each capture: what changes now is in the commit of this number."""
        return self.pool.generation

    @property
    def dirty(self) -> bool:
        self._flush()
        return self.pool.dirty

    @property
    def dirty_nodes(self) -> int:
        """Nodes the next commit will store; what back-pressure goes by."""
        return len(self.pool.nodes.dirty) + self.pool.core.dirty_nodes

    @property
    def strained(self) -> bool:
        """Whether the disk is full and a commit should come before anything else is deleted."""
        return self.pool.reserve.strained(self.pool.dirty_pages)

    def _flush(self) -> None:
        for volume in self._volumes.values():
            if not volume.is_snapshot:
                volume.flush()

    def capture(self, *, force: bool = False) -> Commit | None:
        """Freeze what has changed; None when nothing has.  One commit at a time."""
        self.pool.check_writable()
        assert self._in_flight is None, "finish the commit in flight first"
        intents = self.pool.intents
        intents.look(self.pool.generation)
        self._flush()
        intents.captured()
        if not (force or self.pool.dirty):
            return None
        self._in_flight = Commit(self.pool)
        return self._in_flight

    def finish(self, commit: Commit) -> None:
        """Back on the engine thread: a durable commit's nodes are clean, its freed slots free."""
        assert commit is self._in_flight
        self._in_flight = None
        if not commit.durable:
            self.pool.fail("a commit did not reach its disk")
            return
        self.pool.intents.durable(commit.generation)
        self.pool.core.release(commit.sealed)
        self.pool.nodes.release()
        self.pool.reserve.end()
        self._waiting_for_readers.append(commit)
        self.release_freed()

    def release_freed(self) -> None:
        """Reuse the slots of durable commits, as far as no earlier reader is still running."""
        oldest = self.pool.oldest_pin()
        waiting = self._waiting_for_readers
        while waiting and (oldest is None or oldest > waiting[0].generation):
            self.pool.core.release_freed(waiting.pop(0).sealed)

    def fail(self, reason: str) -> None:
        self.pool.fail(reason)

    def commit(self) -> None:
        """Capture, write and finish, here and now.  StoreFailed when the disk fails."""
        commit = self.capture()
        if commit is not None:
            try:
                write_or_fail(commit, self.pool)
            finally:
                self.finish(commit)
        while self.pool.nodes.crowded:
            self.pool.nodes.evict(NODES_EVICTED)

    # --- space

    def reclaim(self, limit_s: float = math.inf) -> bool:
        """Free what was deleted, for about so long; True when nothing is left to do.

        Commits in between when much has changed.
        """
        queue = self.pool.reclaim
        while len(queue) and limit_s > 0:
            start = time.perf_counter()
            queue.step(min(limit_s, RECLAIM_STEP_S))
            crowded = self.strained or len(self.pool.nodes.dead) > DEAD_NODES_MAX
            if crowded and self._in_flight is None:
                self.commit()
            limit_s -= time.perf_counter() - start
        return not len(queue)

    def start_gc(self) -> tuple[Gc, Commit]:
        """Arm a gc run and capture its commit in the same instant (see engine/gc.py).

        Busy while another runs.  The caller closes the run, whatever happens.
        """
        gc = Gc(self.pool)
        try:
            commit = self.capture(force=True)
        except BaseException:
            gc.close()
            raise
        assert commit is not None
        return gc, commit

    def gc(self) -> GcResult:
        """A whole gc run, here and now, and the reclaim queue before it."""
        self.reclaim()
        gc, commit = self.start_gc()
        try:
            try:
                write_or_fail(commit, self.pool)
            finally:
                self.finish(commit)
            gc.open()
            gc.mark()
            while not gc.sweep():
                if self.strained:
                    self.commit()
        finally:
            gc.close()
        self.commit()
        gc.result.punched_bytes = self.trim()
        return gc.result

    def account(self) -> Unique:
        """Commit, and find out what each file, volume and snapshot has for itself."""
        self.commit()
        accounting = Accounting(self.pool)
        try:
            self.unique = accounting.run()
        finally:
            accounting.close()
        return self.unique

    def trim(self) -> int:
        """Give free slots back to the host's file system; returns the bytes."""
        trim = Trim(self.pool)
        while runs := trim.take():
            punched = False
            try:
                trim.punch(runs)
                punched = True
            except OSError:
                break  # the host's file system cannot punch
            finally:
                trim.give(runs, punched=punched)
        return trim.slots * self.pool.superblock.block_bytes

    def space(self) -> Space:
        """The store's space figures."""
        pool = self.pool
        host = os.statvfs(self.path)
        every = self._volumes.values()
        block = pool.superblock.block_bytes
        return Space(
            logical_bytes=sum(v.logical_bytes for v in every),
            referenced_bytes=sum(v.referenced_bytes for v in every),
            physical_bytes=pool.core.allocated_slots * block,
            metadata_bytes=pool.meta.used_bytes(),
            free_bytes=host.f_bavail * host.f_frsize + self._free_backed_bytes(),
            volumes=len(self._names),
            snapshots=len(self._volumes) - len(self._names),
            files=sum(v.files for v in self._names.values()),
        )

    def _free_backed_bytes(self) -> int:
        """Space that slabs take on the host and that is free for new blocks."""
        if self._backed[0] != self.pool.generation:
            self._backed = (self.pool.generation, self.pool.slabs.backed_bytes())
        core = self.pool.core
        in_use = (core.total_slots - core.free_slots) * self.pool.superblock.block_bytes
        return max(0, self._backed[1] - in_use)

    # --- records of upper layers

    @property
    def records(self) -> Records:
        return Records(self.pool, self._records)


@contextlib.contextmanager
def _damage_is_corrupt(root: Path) -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, OverflowError) as error:
        raise errors.Corrupt(f"{root} is damaged ({error}); run `ramet fsck`") from error
