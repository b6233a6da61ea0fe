"""File contents: byte ranges over a map of whole blocks.

The map knows whole blocks only; a write that starts or ends inside a block reads it, patches it
and writes it.  Invariant that truncate and partial writes keep: in the last block, the bytes past
the end of the file are zero, so growing a file never shows old data, and a clone may share the
last block.
"""

import contextlib
import errno
import stat
from collections.abc import Iterable, Iterator

import native
from engine import errors
from engine.attributes import Attributes
from engine.inode import FILE_BYTES_MAX, Inode
from engine.intent_log import Logged
from engine.intents import Written
from engine.pool import now_ns
from engine.superblock import BLOCK_BYTES

TIME_MAX_NS = (1 << 63) - 1
PAGE_BLOCKS = 1 << 15
PAGE_EXTENTS = 512
LOOK_BLOCKS = 1024


class FileData(Attributes):
    """Data operations of a volume."""

    def file(self, ino: int) -> Inode:
        inode = self.inode(ino)
        if not inode.is_file:
            if inode.is_dir:
                raise errors.IsADirectory(f"inode {ino} is a directory")
            raise errors.InvalidArgument(f"inode {ino} is no regular file")
        return inode

    def data_tree(self, inode: Inode) -> native.Tree:
        return inode.data_tree(self.effective_epoch(inode), self.record.domain)

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; short at the end of the file.  May raise Corrupt."""
        inode = self.file(ino)
        size = max(min(size, inode.size - offset), 0)
        buffer = bytearray(size)
        self.read_into(ino, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, ino: int, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        """Fill ``buffer`` from the file; returns the bytes read, short at the end of the file.

        Cold, without ``wait``, when the disk has to be asked: see engine/cold.py.
        """
        inode = self.file(ino)
        if offset < 0:
            raise errors.InvalidArgument("negative offset")
        size = min(len(buffer), inode.size - offset)
        if size <= 0:
            return 0
        try:
            tree = inode.tree or self.data_tree(inode)  # which epoch it has is nothing to a read
            self.pool.core.read_into(tree, offset, buffer[:size], wait)
        except (native.CorruptBlock, native.CorruptNode, OSError) as error:
            raise self.read_error(inode, offset, error) from error
        return size

    def read_pieces(self, ino: int, pieces: memoryview, count: int, buffer: memoryview) -> int:
        """Ranges that lie in the file into places of ``buffer``; returns how many of them, from the
        first on, were read.  The next has to wait for the disk or is not sound: ``read_into``.

        ``pieces``: offset (u64), size and place (u32 each) of every range, in native order.
        """
        inode = self.file(ino)
        tree = inode.tree or self.data_tree(inode)
        return self.pool.core.read_pieces(tree, pieces, count, buffer)

    def read_error(
        self, inode: Inode, offset: int, error: native.CorruptBlock | native.CorruptNode | OSError
    ) -> Exception:
        """What a read that failed tells its caller; a bad block is counted, and named."""
        if isinstance(error, native.CorruptBlock):
            return errors.Corrupt(self._name_block(inode, error))
        if isinstance(error, native.CorruptNode):
            return errors.Corrupt(f"{self}: inode {inode.ino}: {error}; run `ramet fsck`")
        if error.errno != errno.EIO:
            return OSError(error.errno, error.strerror)
        where = f"{self}:{self.path_of(inode.ino) or f'(inode {inode.ino})'}"
        self.pool.corrupt_reads.note(where, offset // BLOCK_BYTES, -1)
        return errors.Corrupt(
            f"{where}: the disk cannot read it near byte {offset}; run `ramet scrub`"
        )

    def _name_block(self, inode: Inode, error: native.CorruptBlock) -> str:
        path = self.path_of(inode.ino) or f"(inode {inode.ino})"
        self.pool.corrupt_reads.note(f"{self}:{path}", error.block, error.address)
        return (
            f"{self}:{path}: block {error.block} (slot {error.address}) fails its check; "
            "restore the file from a good copy"
        )

    def write(
        self, ino: int, offset: int, data: bytes | bytearray | memoryview | native.Pieces, *,
        wait: bool = True,
    ) -> int:  # fmt: skip
        """Write all of ``data`` at ``offset``; returns its length.

        Pieces begin at a block's first byte and have at most ``call_bytes`` (of the core)
        together; they are written whole or not at all.  Else, on an error, a long write may have
        been done in part, as by write(2): from its start on, up to a multiple of ``call_bytes``.
        Cold, without ``wait``, when the disk has to be asked first for what is patched or
        compared; then nothing is written.
        """
        self.check_writable()
        pool = self.pool
        intents = pool.intents
        intents.look(pool.generation)
        inode = self.file(ino)
        length = len(data)
        self._check_range(offset, length)
        if not length:
            return 0
        if self.record.quota_bytes and not inode.orphan:
            self.check_quota(self._growth(inode, offset, length, wait=wait))
        done = 0
        try:
            for part in self._parts(offset, data):
                self._write_part(inode, offset + done, part, wait or done > 0)
                done += len(part)
        finally:
            if done:
                inode.mtime_ns = inode.ctime_ns = now_ns()
                self.touch(inode)
                pool.notify(self.id, ino, "data")
        if not inode.orphan:
            intents.wrote(pool.generation, self.id, ino, offset, length)
        return length

    def logged(self, write: Written) -> Logged | None:
        """What the intent log needs of a write; None when the disk has to be asked for it.

        Whole blocks, to the file's end at most: to write them again nothing has to be read.
        """
        inode = self.file(write.ino)
        offset = write.offset - write.offset % BLOCK_BYTES
        end = write.offset + write.length
        end = min(end + -end % BLOCK_BYTES, inode.size)
        data = memoryview(bytearray(end - offset))
        try:
            if self.read_into(write.ino, offset, data, wait=False) < len(data):
                return None
        except native.Cold:
            return None
        return Logged(
            self.id, inode.ino, inode.generation, inode.change, inode.mtime_ns, offset, data
        )

    def write_again(self, write: Logged) -> None:
        """A write of the intent log, after a crash; not into a file that a repair has replaced.

        No quota is asked, and no reserve: it was admitted.  Corrupt when the file's map is damaged.
        """
        try:
            inode = self.file(write.ino)
        except (errors.Stale, errors.InvalidArgument, errors.IsADirectory):
            return
        if inode.generation != write.generation:
            return
        self._check_range(write.offset, len(write.data))
        end = write.offset + len(write.data)
        blocks = memoryview(bytes(write.data) + bytes(-len(write.data) % BLOCK_BYTES))
        for at in range(0, len(blocks), self.pool.core.call_bytes):
            self._write(inode, write.offset + at, blocks[at : at + self.pool.core.call_bytes])
        if end > inode.size:
            self._set_size(inode, end)
        inode.mtime_ns = inode.ctime_ns = write.mtime_ns
        self.touch(inode)
        inode.change = max(inode.change, write.change)
        self.pool.state.next_change = max(self.pool.state.next_change, inode.change + 1)

    def _parts(
        self, offset: int, data: bytes | bytearray | memoryview | native.Pieces
    ) -> Iterable[memoryview | native.Pieces]:
        """What of a write is done whole or not at all, one after the other."""
        head = offset % BLOCK_BYTES
        most = self.pool.core.call_bytes
        if isinstance(data, native.Pieces):
            assert head == 0
            assert len(data) <= most
            return (data,)
        whole = memoryview(data).cast("B")
        if head + len(whole) <= most:
            return (whole,)
        ends = range(most - head, len(whole) + most, most)
        return [whole[max(end - most, 0) : end] for end in ends]

    def _write_part(
        self, inode: Inode, offset: int, data: memoryview | native.Pieces, wait: bool
    ) -> None:
        self.pool.check_room()
        end = offset + len(data)
        self._write(inode, offset, data, wait=wait)
        if end > inode.size:
            self._set_size(inode, end)

    def _growth(self, inode: Inode, offset: int, length: int, *, wait: bool = True) -> int:
        """How many blocks of a byte range are not mapped; all of them while that is no matter."""
        first, end = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
        if self.has_room(end - first):
            return end - first
        return end - first - self.mapped_blocks(inode, offset, length, wait=wait)

    def mapped_blocks(self, inode: Inode, offset: int, length: int, *, wait: bool = True) -> int:
        """Blocks mapped in the blocks that a byte range touches; O(height)."""
        first, end = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
        with self.sound_nodes(inode):
            return self.pool.core.mapped(self.data_tree(inode), first, end, wait=wait)

    def _write(
        self, inode: Inode, offset: int, data: memoryview | native.Pieces, *, wait: bool = True
    ) -> None:
        try:
            self.write_tree(inode, self.data_tree(inode), offset, data, wait=wait)
        finally:
            self._take_tree(inode)

    def write_tree(
        self, inode: Inode, tree: native.Tree, offset: int, data: memoryview | native.Pieces, *,
        wait: bool = True,
    ) -> None:  # fmt: skip
        """Write into a map of the inode's: the one in force, or a draft (engine/ranges.py)."""
        first, head = divmod(offset, BLOCK_BYTES)
        end = offset + len(data)
        tail = end % BLOCK_BYTES
        try:
            if (head or tail) and isinstance(data, memoryview):
                data = self._patched(tree, first, head, data, wait)
            self.pool.write_blocks(tree, first, data, wait=wait)
        except native.CorruptBlock as error:
            raise errors.Corrupt(self._name_block(inode, error)) from error
        except native.CorruptNode as error:
            raise errors.Corrupt(f"{self}: inode {inode.ino}: {error}; run `ramet fsck`") from error

    def _patched(
        self, tree: native.Tree, first: int, head: int, data: memoryview, wait: bool
    ) -> memoryview:
        """``data`` widened to whole blocks with what the file has there now."""
        blocks = -(-(head + len(data)) // BLOCK_BYTES)
        whole = memoryview(bytearray(blocks * BLOCK_BYTES))
        read = self.pool.core.read_into
        if head:
            read(tree, first * BLOCK_BYTES, whole[:BLOCK_BYTES], wait)
        if (head + len(data)) % BLOCK_BYTES and (blocks > 1 or not head):
            read(tree, (first + blocks - 1) * BLOCK_BYTES, whole[-BLOCK_BYTES:], wait)
        whole[head : head + len(data)] = data
        return whole

    def _take_tree(self, inode: Inode) -> None:
        before = inode.root, inode.height, inode.blocks
        grown = inode.take_tree()
        self.pool.reclaim.collect()
        if before != (inode.root, inode.height, inode.blocks):
            self.mark_dirty(inode)  # now: what follows in the same operation may fail
        if grown and not inode.orphan:
            self.record.blocks += grown
            self.store_record()

    def _set_size(self, inode: Inode, size: int) -> None:
        if not inode.orphan:
            self.record.logical_bytes += size - inode.size
            self.store_record()
        inode.size = size

    @staticmethod
    def _check_range(offset: int, length: int) -> None:
        if offset < 0 or length < 0:
            raise errors.InvalidArgument("negative offset or length")
        if offset + length > FILE_BYTES_MAX:
            raise errors.TooLarge(f"a file holds at most {FILE_BYTES_MAX >> 50} PiB")

    def truncate(self, inode: Inode, size: int) -> None:
        """Set the size; what is cut off is gone, what is added reads as zeroes."""
        self._check_range(size, 0)
        if size < inode.size:
            self._clear(inode, size, inode.size - size, to_end=True)
        self._set_size(inode, size)
        inode.mtime_ns = inode.ctime_ns = now_ns()
        self.touch(inode)
        self.pool.notify(self.id, inode.ino, "data")

    def look_at_cut(self, ino: int, size: int) -> None:
        """``look_at_name`` of a file that is cut: what its map changes there."""
        self.look_at_map(ino, size, max(self.file(ino).size - size, 0))

    def look_at_map(self, ino: int, offset: int, length: int) -> None:
        """``look_at_name`` of a range that is cut out or cloned: the nodes at its ends, which
        change, and of a short one all, because its entries may have to be copied.  TooLarge."""
        inode = self.file(ino)
        if length <= 0:
            return
        self._check_range(offset, length)
        self.mapped_blocks(inode, offset, length)
        first, count = offset // BLOCK_BYTES, length // BLOCK_BYTES
        if count <= LOOK_BLOCKS:
            with self.sound_nodes(inode):
                self.pool.core.plan_read(self.data_tree(inode), first, count)

    def punch(self, ino: int, offset: int, length: int) -> None:
        """Turn a byte range into a hole; the size stays."""
        self.check_writable()
        inode = self.file(ino)
        self._check_range(offset, length)
        length = min(length, inode.size - offset)
        if length <= 0:
            return
        self._clear(inode, offset, length, to_end=offset + length == inode.size)
        inode.mtime_ns = inode.ctime_ns = now_ns()
        self.touch(inode)
        self.pool.notify(self.id, ino, "data")

    def _clear(self, inode: Inode, offset: int, length: int, *, to_end: bool) -> None:
        """Zero a range: whole blocks leave the map, partial ones are patched.

        With ``to_end`` the last block goes whole (what follows the end is zero by invariant).
        """
        end = offset + length
        first = -(-offset // BLOCK_BYTES)
        last = -(-end // BLOCK_BYTES) if to_end else end // BLOCK_BYTES
        if first > last:
            self._zero(inode, offset, length)
            return
        if offset < first * BLOCK_BYTES:
            self._zero(inode, offset, first * BLOCK_BYTES - offset)
        if not to_end and end > last * BLOCK_BYTES:
            self._zero(inode, last * BLOCK_BYTES, end - last * BLOCK_BYTES)
        if first < last:
            tree = self.data_tree(inode)
            try:
                self.pool.core.punch(tree, first, last - first)
            except native.CorruptNode as error:
                raise errors.Corrupt(f"{self}: inode {inode.ino}: {error}") from error
            finally:
                self._take_tree(inode)

    def _zero(self, inode: Inode, offset: int, length: int) -> None:
        block = offset // BLOCK_BYTES
        if length and self._next_data(inode, block) == block:
            self._write(inode, offset, memoryview(bytes(length)))

    def _next_data(self, inode: Inode, block: int) -> int | None:
        with self.sound_nodes(inode):
            return self.pool.core.next_data(self.data_tree(inode), block)

    @contextlib.contextmanager
    def sound_nodes(self, inode: Inode) -> Iterator[None]:
        """A damaged node of the file's map is Corrupt, and named."""
        try:
            yield
        except native.CorruptNode as error:
            raise errors.Corrupt(f"{self}: inode {inode.ino}: {error}; run `ramet fsck`") from error

    def seek_data(self, ino: int, offset: int) -> int | None:
        """The first byte at or after ``offset`` in a mapped block; None when there is none."""
        inode = self.file(ino)
        if not 0 <= offset < inode.size:
            return None
        block = self._next_data(inode, offset // BLOCK_BYTES)
        if block is None or block * BLOCK_BYTES >= inode.size:
            return None
        return max(offset, block * BLOCK_BYTES)

    def seek_hole(self, ino: int, offset: int) -> int | None:
        """The first byte at or after ``offset`` in a hole; the end of the file counts as one."""
        inode = self.file(ino)
        if not 0 <= offset < inode.size:
            return None
        with self.sound_nodes(inode):
            block = self.pool.core.next_hole(self.data_tree(inode), offset // BLOCK_BYTES)
        return min(max(offset, block * BLOCK_BYTES), inode.size)

    def extents(self, ino: int) -> Iterator[native.Extent]:
        """The file's extents in order: runs of logical blocks that are runs of slots.

        Each page is looked up when it is asked for: what changes meanwhile may be seen or not, and
        a run that goes on in the next page comes in two pieces.
        """
        block: int | None = 0
        while block is not None:
            found, block = self.extents_page(ino, block)
            yield from found

    def extents_page(
        self, ino: int, block: int, limit: int = PAGE_EXTENTS
    ) -> tuple[list[native.Extent], int | None]:
        """Up to ``limit`` extents at or after a block, and the block of the next page (None: all).

        One call looks at 128 MiB of mapped blocks at most, however large the file and its holes
        are.  Holes are absent.
        """
        inode = self.file(ino)
        end = -(-inode.size // BLOCK_BYTES)
        first = self._next_data(inode, block)
        if first is None or first >= end:
            return [], None
        count = min(PAGE_BLOCKS, end - first)
        with self.sound_nodes(inode):
            found = self.pool.core.lookup(self.data_tree(inode), first, count, limit)
        after = first + count
        if len(found) == limit:
            after = found[-1].block + found[-1].count
        return found, after if after < end else None

    def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> Inode:
        """Change attributes; None leaves one as it is.  A size change is a truncate.

        Times past what the format holds (the years 1677 and 2262) are the nearest that it does.
        """
        self.check_writable()
        inode = self.inode(ino)
        if size is not None:
            self.truncate(self.file(ino), size)
        if mode is not None:
            inode.mode = inode.kind | stat.S_IMODE(mode)
        if uid is not None:
            inode.uid = uid
        if gid is not None:
            inode.gid = gid
        if atime_ns is not None:
            inode.atime_ns = _clamped(atime_ns)
        if mtime_ns is not None:
            inode.mtime_ns = _clamped(mtime_ns)
        inode.ctime_ns = now_ns() if ctime_ns is None else _clamped(ctime_ns)
        self.touch(inode)
        self.pool.notify(self.id, ino, "attr")
        return inode


def _clamped(time_ns: int) -> int:
    return max(-TIME_MAX_NS - 1, min(time_ns, TIME_MAX_NS))
