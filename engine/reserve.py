"""The reserve: space for metadata, taken ahead, so that a full disk is met at write, not at fsync.

LMDB copies every page it changes, so even a delete needs pages.  The reserve is those pages.  It
covers at all times what is dirty, what is in the commit under way, and a *floor* for deleting:

    held >= pages(dirty) + pages(in flight) + floor

What makes something new (a write, a name, a clone, a snapshot) is admitted only when that holds
with its own pages on top; when it does not, and the disk has no room to make it hold, that is
NoSpace, and nothing has changed.  What frees (delete, punch, truncate, gc) is always admitted and
lives on the floor; ``strained`` tells front ends to commit before more of it is spoken for.

Where the reserve is depends on the file system:
- one that overwrites in place (ext4, XFS): blocks allocated past the end of ``meta/data.mdb``.
  LMDB grows into them; nobody else can take them.
- one that does not (btrfs): there a page that LMDB uses again takes new space as well, so the
  space lies in a file, ``ballast``, which is cut by what a commit needs just before it is written,
  if the disk has less free, and grown again when there is room.

All calls are the engine thread's, except ``lend``, which the thread that writes a commit makes.
"""

import contextlib
import errno
import os
import threading
from pathlib import Path

import native
from engine.meta import DATA_FILE, Meta

FLOOR_PAGES = 2048  # 8 MiB: the deletes between two commits
STEP_PAGES = 2048  # taken beyond what is needed, so that few writes have to take more
COMMIT_PAGES = 64  # roots, branches and free lists that any commit rewrites
CALL_PAGES = 128  # one write, one name: more than the paths that it can dirty
EXTENT_PAGES = 256
BALLAST = "ballast"


def commit_pages(stored: int, dead_nodes: int, leaf_pages: int) -> int:
    """LMDB pages that a commit may write; asked before each write, so it is plain arithmetic.

    ``stored``, nodes, chunks and records, are an overflow page and an entry in a leaf each.
    Deleted nodes cost the leaf pages they stand in, of which there are ``leaf_pages``; one page in
    32 more is for branches and for the list of freed pages.
    """
    pages = 2 * stored + (dead_nodes if dead_nodes < leaf_pages else leaf_pages)
    return pages + pages // 32 + COMMIT_PAGES if pages else 0


class Reserve:
    """The reserve of one store; ``held``, ``floor`` and all sizes here are pages of LMDB."""

    def __init__(self, root: Path, meta: Meta, *, directory: str = "meta") -> None:
        self._meta = meta
        self._page = meta.page_bytes
        self._fd = os.open(root / directory / DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
        self._ballast = -1
        self._start = 0  # in place: the first page that LMDB has not used yet; else 0
        self._end = 0  # the reserve is the pages from _start to here
        self._in_flight = 0
        self._durable_end = 0  # what a crash leaves of it ends here
        self._committing_end = 0  # the same once the commit under way is durable
        self._lent = False  # the ballast was cut for the commit under way
        self._unsupported = False  # nothing can be held: go by what is free
        self._lock = threading.Lock()
        self.floor = self.leaf_pages = 0
        self.in_place = native.overwrites_in_place(self._fd)
        if not self.in_place:
            self._open_ballast(root / BALLAST)
        self._measure()
        if self.in_place:  # what is there: XFS does not allocate it again when it is full
            self._end = native.backed_end(self._fd, self._start * self._page) // self._page
        self._gather()

    def _open_ballast(self, path: Path) -> None:
        try:
            self._ballast = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # not even an inode is left: deletes have to do without
        self._end = os.fstat(self._ballast).st_size // self._page

    def _measure(self) -> None:
        """The floor: some deletes, and one gc that rewrites every leaf page and every chunk."""
        size = self._meta.size()
        self.leaf_pages = size.leaf_pages
        gc = size.leaf_pages + size.slot_pages + size.nodes * 8 // self._page
        self.floor = FLOOR_PAGES + gc + gc // 32
        if self.in_place:
            self._start = size.used_pages

    def _gather(self) -> None:
        """At open: the floor, or as much as there is, above all what was held before."""
        step = self.floor
        while step > COMMIT_PAGES and not self.whole and not self._unsupported:
            if not self._take(min(self.held + step, self.floor)):
                step //= 2

    @property
    def held(self) -> int:
        return self._end - self._start

    @property
    def whole(self) -> bool:
        """Whether the floor is held; if not, only what frees is admitted."""
        return self.held >= self.floor or (self._unsupported and self._free() >= self.floor)

    # --- admission

    def covers(self, dirty_pages: int) -> bool:
        """Whether so many pages may be dirty; takes more space when it has to and can."""
        wanted = dirty_pages + self._in_flight + self.floor
        return (
            self._end - self._start >= wanted
            or self._take(wanted + STEP_PAGES)
            or self._take(wanted)
        )

    def strained(self, dirty_pages: int) -> bool:
        """Whether a commit should come before more becomes dirty."""
        wanted = dirty_pages + self._in_flight + self.floor // 2
        return dirty_pages > 2 * COMMIT_PAGES and self.held < wanted and not self._take(wanted)

    def outlasts_crash(self, dirty_pages: int) -> bool:
        """Whether so many dirty pages could be stored after a crash, by whoever opens the store on
        a disk that is full by then, and something be deleted after that."""
        wanted = dirty_pages + self._in_flight + self.floor
        return self._durable_end - self._start >= wanted or self._unsupported

    def _take(self, wanted: int) -> bool:
        """Hold so many pages; False when the disk has no room for them."""
        with self._lock:
            if self.held >= wanted:
                return True
            if not self.in_place and (self._ballast < 0 or self._lent):
                return False
            try:
                self._allocate(self._start + wanted)
            except OSError as error:  # above all ENOSPC
                self._unsupported = error.errno in (errno.EOPNOTSUPP, errno.ENOSYS)
                return self._unsupported and self._free() >= wanted
            return True

    def _allocate(self, end: int) -> None:
        """Take the pages from _end to ``end``.  OSError, with some of them taken."""
        if self.in_place:
            at, length = self._end * self._page, (end - self._end) * self._page
            native.allocate(self._fd, at, length, keep_size=True)
            self._end = end
        while self._end < end:  # each call is an extent of its own: btrfs frees whole ones only
            at, length = self._end * self._page, EXTENT_PAGES * self._page
            native.allocate(self._ballast, at, length)
            self._end += EXTENT_PAGES

    def _free(self) -> int:
        host = os.fstatvfs(self._fd)
        return host.f_bavail * host.f_frsize // self._page

    # --- commits

    def begin(self, pages: int) -> None:
        """A commit of so many pages was captured."""
        self._in_flight = pages
        if self.in_place:
            self._take(pages)
            self._committing_end = self._end  # LMDB syncs the file before its root page

    def lend(self) -> None:
        """It is about to be written: see that the disk has free what it takes."""
        with self._lock:
            if self._ballast >= 0 and self._free() < self._in_flight + STEP_PAGES:
                left = max(self._end - self._in_flight - COMMIT_PAGES, 0)
                self._end = left // EXTENT_PAGES * EXTENT_PAGES
                self._durable_end = min(self._durable_end, self._end)
                self._committing_end = min(self._committing_end, self._end)
                self._lent = True
                with contextlib.suppress(OSError):  # then the commit finds out itself
                    os.ftruncate(self._ballast, self._end * self._page)
        if self._ballast >= 0 and self._committing_end != self._end:
            with contextlib.suppress(OSError):  # then it goes on doing without
                end = self._end
                os.fsync(self._ballast)
                self._committing_end = end

    def end(self) -> None:
        """It is durable: count what it took, and be whole again if there is room."""
        self._in_flight = 0
        self._lent = False
        self._durable_end = self._committing_end
        self._measure()
        self._end = max(self._end, self._start)
        self._take(self.floor)

    def close(self) -> None:
        for fd in (self._fd, self._ballast):
            if fd >= 0:
                os.close(fd)
        self._fd = self._ballast = -1
