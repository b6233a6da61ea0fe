"""Syncs of a store: by a record of the intent log where that is enough, else by a commit.

Also the other end: what was synced is written again when a store is opened that was not closed.
"""

from abc import abstractmethod

from engine import errors
from engine.commit import failure
from engine.intent_log import IntentLog, Logged, NoLog, Record
from engine.pool import Pool
from engine.replay_room import ReplayRoom
from engine.superblock import BLOCK_BYTES, INTENT_LOG
from engine.volume import Volume
from engine.volumes import Volumes


class Syncs(Volumes):
    """The base of a store: its volumes and its log."""

    def __init__(self, pool: Pool, log: IntentLog) -> None:
        super().__init__(pool)
        self.log = log
        self._room = ReplayRoom(pool)

    @abstractmethod
    def commit(self) -> None:
        """The store's, of all that was done."""

    @property
    def loggable(self) -> bool:
        """Whether the intent log can make all durable that is not, were it ready."""
        pool = self.pool
        return (
            bool(pool.superblock.incompat & INTENT_LOG)
            and not pool.read_only
            and pool.failed is None
            and pool.intents.loggable(pool.generation)
        )

    @property
    def unlogged(self) -> bool:
        """Whether there is anything that neither a commit nor the log has made durable."""
        return bool(self.pool.intents.pending)

    def want_log(self) -> None:
        """Before the log is made: the slots that it needs.  NoLog: it is not made."""
        self.log.wanted = True
        self._room.take(self.log.take_share())

    def make_log(self) -> None:
        """After ``want_log``, on any thread; ``log_made`` follows.  NoLog."""
        self._room.allocate()
        self.log.prepare()

    def log_made(self) -> None:
        """Whether or not it could be: a commit that has the slots held comes before a record."""
        if self.log.ready:
            self.not_logged()
        else:
            self._room.give_back(punched=True)

    def intend(self) -> Record | None:
        """What was written and is not durable, as a record that makes it so once it is written
        (``log.write``, before the next is asked for); None when it takes a commit."""
        pool = self.pool
        if not (self.log.ready and self.loggable and pool.reserve.outlasts_crash(pool.dirty_pages)):
            return None
        writes = []
        for each in pool.intents.pending:
            volume = self._volumes.get(each.volume_id)
            try:
                write = None if volume is None else volume.logged(each)
            except (errors.RametError, OSError, MemoryError):
                write = None  # whoever reads it will be told
            if write is None:
                return None
            writes.append(write)
        record = self.log.record(pool.state.commits + 1, writes)
        if record is not None:
            pool.intents.logged()
        return record

    def not_logged(self) -> None:
        """A record was not written, the host has no room for it, or not yet: it takes a commit."""
        self.pool.intents.not_logged(self.pool.generation)

    def sync(self) -> None:
        """Make durable all that was done: by the intent log when that is enough, else by
        ``commit``.  StoreFailed, NoSpace when the disk fails."""
        if not self.sync_by_log():
            self.commit()

    def sync_by_log(self) -> bool:
        """The same, also while a commit is being written; False when it takes a commit."""
        if not self.loggable:
            return False
        if not self.unlogged:
            return True
        try:
            if not self.log.wanted:
                self._make_log_here()
            record = self.intend()
            if record is not None:
                self.log.write(record)
        except NoLog:
            self.not_logged()
            return False
        except OSError as error:
            raise failure(error, self.pool) from error
        return record is not None

    def _make_log_here(self) -> None:
        try:
            self.want_log()
            self.make_log()
        finally:
            self.log_made()

    def write_again_synced(self) -> None:
        """What was synced since the last commit, when the store was not closed.

        The number of commits leaves out those that the log's records name, so that nobody heeds
        them again, also where the file itself cannot be removed.  A file whose map is damaged
        stays as it is, and is named; then the log is kept aside.
        """
        pool, whole = self.pool, True
        writes = self.log.pending(pool.state.commits)
        if writes and pool.read_only:
            raise errors.ReadOnly("the store was not closed; open it for writing once")
        for write in writes:
            volume = self._volumes.get(write.volume_id)
            if volume is None or volume.is_snapshot:
                continue
            try:
                self._write_again(volume, write)
            except errors.Corrupt:
                whole = False
                block = write.offset // BLOCK_BYTES
                pool.corrupt_reads.note(f"{volume}: inode {write.ino}", block, -1)
        if not whole:
            self.log.keep_aside()
        if writes:
            pool.state.commits += 2
            self.commit()
        if not pool.read_only:
            self.log.close(remove=True)

    def _write_again(self, volume: Volume, write: Logged) -> None:
        try:
            volume.write_again(write)
        except errors.NoSpace:
            self._room.punch_free()
            volume.write_again(write)
