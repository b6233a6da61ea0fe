"""Heal bad blocks from a copy that a user vouches for.

An equal hash is no proof that a copy is the block that was written: whoever says `--from GOOD` says
so, and the hash only keeps out what is certainly another block.  The good bytes go into a new slot;
the bad slot is never written to, so what it has stays for who wants to look at it until gc.

``heal`` points one file's entry to the new slot, as a write would.  ``heal_everywhere`` changes the
entry in the node as it is, shared or not: every tree that has the node said the same of this block,
so all of them are healed at once and go on sharing.  Both put the new entry in by a range clone of
a scratch tree: the write that can fail comes before the first change.
"""

from collections.abc import Iterator

import native
from engine import errors
from engine.inode import Inode
from engine.pool import Pool
from engine.scrub import Scrub
from engine.superblock import BLOCK_BYTES
from engine.volume import Volume
from native.audit import set_shared

STEP_BLOCKS = 1024


def bad_in(run: Scrub, plan: native.ReadPlan) -> list[tuple[int, int, int]]:
    """(block, slot, checksum) of each bad block of a plan; any thread, slots pinned."""
    return [
        (plan.first + index, plan.addresses[index], plan.checksums[index])
        for start, count in _by_slab(plan, run.audit.slab_slots)
        for index in run.verify(plan.addresses, plan.checksums, start, count)
    ]


def _by_slab(plan: native.ReadPlan, slab_slots: int) -> Iterator[tuple[int, int]]:
    """(start, count) of runs of entries that lie in one slab; holes go with either side."""
    start, slab = 0, None
    for index, address in enumerate(plan.addresses[0 : plan.count]):
        if address == native.HOLE:
            continue
        if slab is not None and address // slab_slots != slab:
            yield start, index - start
            start = index
        slab = address // slab_slots
    if slab is not None:
        yield start, plan.count - start


def is_at(volume: Volume, inode: Inode, block: int, address: int, checksum: int) -> bool:
    """Whether the file's block still is this one."""
    plan = volume.pool.core.plan_read(volume.data_tree(inode), block, 1)
    return (plan.addresses[0], plan.checksums[0]) == (address, checksum)


def written(volume: Volume, data: bytes) -> native.Tree:
    """A scratch tree whose block 0 is a new slot with these bytes.  NoSpace, OSError."""
    pool, tree = volume.pool, native.Tree(domain=volume.record.domain)
    while True:
        try:
            pool.core.write(tree, 0, data, dedup=False)
        except native.NeedSlab:
            pool.add_slab()
            continue
        return tree


def heal(volume: Volume, ino: int, block: int, address: int, checksum: int, data: bytes) -> bool:
    """Give one file's bad block its good bytes; False when it is not that block any more.

    InvalidArgument when the bytes do not have the checksum that the map says.
    """
    volume.check_writable()
    inode = volume.file(ino)
    check(volume.pool, checksum, data)
    if not is_at(volume, inode, block, address, checksum):
        return False
    scratch = written(volume, data)
    try:
        volume.pool.core.share(volume.data_tree(inode), block, scratch, 0, 1)
    finally:
        volume.pool.core.drop_node(scratch.root)
        volume._take_tree(inode)
        volume.mark_dirty(inode)
    volume.pool.notify(volume.id, ino, "data")
    return True


def heal_everywhere(
    volume: Volume, ino: int, block: int, address: int, checksum: int, data: bytes
) -> bool:
    """Give the block its good bytes in all trees that share its node; False when it was done."""
    pool = volume.pool
    pool.check_writable()
    inode = volume.file(ino)
    check(pool, checksum, data)
    if not is_at(volume, inode, block, address, checksum):
        return False
    scratch = written(volume, data)
    try:
        if pool.core.allocated(address):
            set_shared(pool.core, address)  # other nodes may map it: gc frees it, nobody else
        pool.intents.changes += 1  # in slots and a map alone
        tree = native.Tree(inode.root, inode.height, inode.blocks, 0, volume.record.domain)
        pool.core.share(tree, block, scratch, 0, 1)
        assert (tree.root, tree.blocks) == (inode.root, inode.blocks)
    finally:
        pool.core.drop_node(scratch.root)
    pool.notify(volume.id, ino, "data")
    return True


def check(pool: Pool, checksum: int, data: bytes) -> None:
    """InvalidArgument when the bytes are certainly not the block's."""
    assert len(data) == BLOCK_BYTES
    if pool.core.hash(data) != checksum:
        raise errors.InvalidArgument("the copy's block has another checksum")
