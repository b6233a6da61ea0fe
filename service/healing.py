"""``ramet scrub --repair VOL:/file --from GOOD``: bad blocks get their bytes back from a copy.

Only what the user names is healed.  With ``everywhere`` so is every other reference to the same
slot with the same checksum, in snapshots too: all of them refer to one block that was written once
(a dedup hit compared its bytes), so who vouches for the copy of it in one file has vouched for it
in all.  A snapshot's content does not change by it, it comes back.
"""

import os
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from engine import Volume, errors, heal
from engine.owners import Owner
from engine.scrub import Scrub
from service.addresses import Context, parse
from service.host_files import check_host_file
from service.steps import Steps, durable

BLOCK_BYTES = 4096
TOLD_MAX = 100
BATCH = 4096  # bad blocks healed everywhere after one walk over all namespaces

Result = dict[str, Any]


class Bad(NamedTuple):
    """A block of the file: its slot does not have its checksum."""

    block: int
    address: int
    checksum: int


class Copy:
    """The copy: a host's file, or a file of the store."""

    def __init__(self, context: Context, stack: ExitStack, good: str) -> None:
        self._fd = -1
        self._volume: Volume | None = None
        if ":/" in good and not good.startswith("/"):
            volume, path = parse(context, good)
            inode = volume.hold(volume.file(volume.resolve(path).ino).ino)
            stack.callback(volume.release_of, volume.era, inode.ino)
            self._volume, self._ino = volume, inode.ino
        else:
            self._fd = os.open(good, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._fd)

    def block(self, block: int, valid: int) -> Steps[bytes]:
        """``valid`` bytes of a block, filled up with zeroes as in a file's last block."""
        if self._volume is None:
            data: bytes = yield partial(os.pread, self._fd, valid, block * BLOCK_BYTES)
        else:
            data = self._volume.read(self._ino, block * BLOCK_BYTES, valid)
        return data.ljust(BLOCK_BYTES, b"\0")


class Repair:
    """One file's repair, in steps."""

    def __init__(self, context: Context, volume: Volume, ino: int, everywhere: bool) -> None:
        self._context = context
        self._volume = volume
        self._ino = ino
        self._everywhere = everywhere
        self._pending: list[tuple[Bad, bytes]] = []
        self.scrub = Scrub(context.store.pool)
        self.healed = 0
        self.failed: list[Result] = []
        self.also: set[str] = set()

    def run(self, copy: Copy) -> Steps[None]:
        """Go through the file; what has no good copy is told in ``failed``."""
        first = 0
        while first * BLOCK_BYTES < self._size:
            for bad in (yield from self._bad(first)):
                data = yield from self._good(copy, bad)
                if data is None:
                    continue
                self._pending.append((bad, data))
                if not self._everywhere or len(self._pending) == BATCH:
                    yield from self._heal()
            first += heal.STEP_BLOCKS
        yield from self._heal()

    @property
    def _size(self) -> int:
        return self._volume.file(self._ino).size

    def _bad(self, first: int) -> Steps[list[Bad]]:
        """Read a stretch of the file; its bad blocks."""
        pool = self._context.store.pool
        pin = pool.pin()
        try:
            tree = self._volume.data_tree(self._volume.file(self._ino))
            blocks = -(-self._size // BLOCK_BYTES) - first
            plan = pool.core.plan_read(tree, first, min(blocks, heal.STEP_BLOCKS))
            found = yield partial(heal.bad_in, self.scrub, plan)
        finally:
            pool.unpin(pin)
            self._context.store.release_freed()
        return [Bad(*each) for each in found]

    def _good(self, copy: Copy, bad: Bad) -> Steps[bytes | None]:
        """The copy's block, if it has the checksum; else why not is told."""
        valid = min(self._size - bad.block * BLOCK_BYTES, BLOCK_BYTES)
        try:
            data = yield from copy.block(bad.block, max(valid, 0))
            heal.check(self._context.store.pool, bad.checksum, data)
        except (errors.Corrupt, errors.InvalidArgument) as error:
            self._fail(bad, str(error))
            return None
        return data

    def _fail(self, bad: Bad, why: str) -> None:
        self.failed.append({"block": bad.block, "why": why})

    def _heal(self) -> Steps[None]:
        """Heal what is pending.  Who else has it is found before: healing a shared node heals
        all who share it, and nobody refers to the bad slot any more."""
        pending, self._pending = self._pending, []
        others: list[Owner] = []
        if self._everywhere and pending:
            others = yield from self._others({(bad.address, bad.checksum) for bad, _ in pending})
        change = heal.heal_everywhere if self._everywhere else heal.heal
        for bad, data in pending:
            if change(self._volume, self._ino, *bad, data):
                self.healed += 1
            else:
                self._fail(bad, "it was written meanwhile")
            yield None
        bytes_of = {(bad.address, bad.checksum): data for bad, data in pending}
        for owner in others:
            self._reference(owner, bytes_of)
            yield None

    def _others(self, references: set[tuple[int, int]]) -> Steps[list[Owner]]:
        pool = self._context.store.pool
        pin = pool.pin()
        try:
            yield durable
            self.scrub.open_names()
            owners: list[Owner] = yield partial(self.scrub.owners_of, references)
        finally:
            pool.unpin(pin)
            self._context.store.release_freed()
        return owners

    def _reference(self, owner: Owner, bytes_of: dict[tuple[int, int], bytes]) -> None:
        try:
            volume = self._context.store.volume_by_id(owner.volume_id)
            for hit in owner.hits:
                data = bytes_of.get((hit.address, hit.checksum))
                if data is None or hit.lost:
                    continue
                heal.heal_everywhere(
                    volume, owner.ino, hit.block, hit.address, hit.checksum, data
                )  # fmt: skip
                self.also.add(str(owner))
        except errors.RametError:
            return  # gone since, and its blocks with it


def scrub_repair(context: Context, address: str, good: str, everywhere: bool) -> Steps[Result]:
    """Read the whole file, heal each bad block whose copy has its checksum, tell the rest."""
    volume, path = parse(context, address)
    if volume.is_snapshot and not everywhere:
        raise errors.ReadOnly("a snapshot's blocks are healed with --everywhere: others share them")
    with ExitStack() as stack:
        inode = volume.hold(volume.file(volume.resolve(path).ino).ino)
        stack.callback(volume.release_of, volume.era, inode.ino)
        if good.startswith("/"):
            yield partial(check_host_file, context.own_mount, good)
        copy = Copy(context, stack, good)
        work = Repair(context, volume, inode.ino, everywhere)
        stack.callback(work.scrub.close)
        yield from work.run(copy)
    return {
        "file": address, "from": good, "bad_blocks": work.healed + len(work.failed),
        "healed": work.healed, "not_healed": work.failed[:TOLD_MAX],
        "also_healed": sorted(work.also - {f"{volume}:{path}"}),
    }  # fmt: skip
