"""The C core against the plain Python reference, step by step, with everything evicted at will."""

import os
import struct
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reference import BLOCK, ZERO, Reference, Tree

import native

FANOUT, SLOTS, SPAN = 4, 1 << 15, 100
BLOCKS = [ZERO, *(bytes([n]) * BLOCK for n in range(1, 7))]
CONTENTS = st.lists(st.integers(0, 6), min_size=1, max_size=11)
PLACES = st.integers(0, SPAN)


class Disk:
    """A core with one slab and a dict for its nodes."""

    def __init__(self, fanout: int, cache_nodes: int) -> None:
        self.nodes: dict[int, bytes] = {}
        self.slab = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        os.ftruncate(self.slab.fileno(), SLOTS * BLOCK)
        self.core = native.Core(
            hash_seed=7, load_node=self.nodes.__getitem__, fanout=fanout, slab_slots=SLOTS,
            cache_nodes=cache_nodes, index_entries=1 << 10,
        )  # fmt: skip
        self.core.add_slab(0, self.slab.fileno())
        self.core.epoch = 1

    def commit(self) -> None:
        sealed = self.core.seal()
        self.nodes.update((number, bytes(data)) for number, data in sealed.nodes())
        self.core.release(sealed)
        self.core.release_freed(sealed)
        self.core.forget()

    def close(self) -> None:
        self.core.close()
        self.slab.close()


class Machine(RuleBasedStateMachine):
    """Each rule does one thing to both, then all that can be seen is compared."""

    @initialize()
    def start(self) -> None:
        self.disk = Disk(FANOUT, 8)
        self.core = self.disk.core
        self.reference = Reference(FANOUT)
        self.core.epoch = self.reference.epoch
        self.files = [(native.Tree(), Tree())]

    def teardown(self) -> None:
        if hasattr(self, "core"):
            self.disk.close()

    def pick(self, n: int) -> tuple[native.Tree, Tree]:
        return self.files[n % len(self.files)]

    @rule(n=PLACES, first=PLACES, letters=CONTENTS, apart=st.integers(0, 8))
    def write(self, n: int, first: int, letters: list[int], apart: int = 0) -> None:
        """Blocks that lie together, or ``apart`` of them at a time with something between."""
        tree, model = self.pick(n)
        data = [BLOCKS[letter] for letter in letters]
        if apart:
            data = data[: -(len(data) % apart) or len(data)] if len(data) > apart else data
            size = min(apart, len(data))
            together = [b"".join(data[at : at + size]) for at in range(0, len(data), size)]
            between = b"#" * (8 * apart)
            stride = size * BLOCK + len(between)
            pieces = native.Pieces(between.join(together), size * BLOCK, stride, len(together))
            assert len(pieces) == len(data) * BLOCK
            self.core.write(tree, first, pieces)
        else:
            self.core.write(tree, first, b"".join(data))
        found = dict.fromkeys(range(len(data)))
        for extent in self.core.lookup(tree, first, len(data)):
            for i in range(extent.count):
                found[extent.block - first + i] = extent.address + i
        self.reference.write(model, first, data, list(found.values()))

    @rule(n=PLACES, first=PLACES, count=st.integers(1, 60))
    def punch(self, n: int, first: int, count: int) -> None:
        tree, model = self.pick(n)
        self.core.punch(tree, first, count)
        self.reference.punch(model, first, count)

    @precondition(lambda self: len(self.files) < 6)
    @rule(n=PLACES)
    def clone(self, n: int) -> None:
        tree, model = self.pick(n)
        self.reference.share_epoch(model)
        self.core.epoch = self.reference.epoch
        tree.shared_epoch = model.shared_epoch
        twin = native.Tree(tree.root, tree.height, tree.blocks, tree.shared_epoch)
        self.files.append((twin, model.clone()))

    @rule(n=PLACES, m=PLACES, first=PLACES, into=PLACES, count=st.integers(1, 40))
    def share(self, n: int, m: int, first: int, into: int, count: int) -> None:
        (source, source_model), (target, target_model) = self.pick(n), self.pick(m)
        if source is target and abs(first - into) < count:
            return
        self.reference.share_epoch(source_model, target_model)
        self.core.epoch = self.reference.epoch
        source.shared_epoch = target.shared_epoch = source_model.shared_epoch
        if source is target:
            source = native.Tree(source.root, source.height, source.blocks, source.shared_epoch)
        self.core.share(target, into, source, first, count)
        self.reference.share(target_model, into, source_model, first, count)

    @rule()
    def commit(self) -> None:
        """What is frozen is stored; then all nodes are forgotten and come back one by one."""
        self.disk.commit()
        self.reference.pending.clear()

    @rule(n=PLACES, first=PLACES, letters=CONTENTS)
    def write_while_a_commit_is_on_its_way(self, n: int, first: int, letters: list[int]) -> None:
        sealed = self.core.seal()
        pending = set(self.reference.pending)
        frozen = {number: bytes(data) for number, data in sealed.nodes()}
        self.write(n, first, letters)
        assert {number: bytes(data) for number, data in sealed.nodes()} == frozen
        self.disk.nodes.update(frozen)
        self.core.release(sealed)
        self.core.release_freed(sealed)
        self.reference.pending -= pending

    @rule(a=st.integers(1, 6), b=st.integers(1, 6))
    def poison_the_index(self, a: int, b: int) -> None:
        """A fingerprint that leads to other bytes is a miss: it is a hint, never proof."""
        wrong = self.reference.index.get(BLOCKS[b])
        if wrong is not None:
            self.core.index_insert(self.core.hash(BLOCKS[a]), wrong)
            self.reference.index[BLOCKS[a]] = wrong

    @rule(n=PLACES, offset=st.integers(0, SPAN * BLOCK), length=st.integers(0, 20 * BLOCK))
    def read(self, n: int, offset: int, length: int) -> None:
        tree, model = self.pick(n)
        buffer = bytearray(b"\xee" * length)
        self.core.read_into(tree, offset, buffer)
        first, skip = divmod(offset, BLOCK)
        whole = b"".join(self.reference.read(model, first + i) for i in range(length // BLOCK + 2))
        assert bytes(buffer) == whole[skip : skip + length]

    @rule(n=PLACES, block=PLACES)
    def seek(self, n: int, block: int) -> None:
        tree, model = self.pick(n)
        top = SPAN + 200
        mapped = [b for b in range(block, top) if self.reference.address(model, b) is not None]
        assert self.core.next_data(tree, block) == (mapped[0] if mapped else None)
        hole = next(b for b in range(block, top) if self.reference.address(model, b) is None)
        assert self.core.next_hole(tree, block) == hole
        assert self.core.mapped(tree, block, top) == len(mapped)
        assert self.core.mapped(tree, 0, block) == tree.blocks - len(mapped)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "core"):
            return
        for tree, model in self.files:
            assert tree.blocks == model.blocks()
            found: dict[int, tuple[int, bool]] = {}
            for extent in self.core.lookup(tree, 0, SPAN + 200):
                assert extent.address // SLOTS == (extent.address + extent.count - 1) // SLOTS
                for i in range(extent.count):
                    found[extent.block + i] = extent.address + i, extent.shared
            expected = {
                number * FANOUT + at: (entry.address, self.reference.may_be_shared(model, block))
                for number, leaf in model.leaves.items()
                for at, entry in leaf.entries.items()
                for block in [number * FANOUT + at]
            }
            assert found == expected
            self.check_shared(found)
        known = self.reference
        assert self.core.allocated_slots == len(known.content)
        assert self.core.pending_slots == len(known.pending)
        assert all(self.core.allocated(address) for address in known.content)
        for address in known.content:
            assert self.core.shared(address) == (address in known.shared), address

    def check_shared(self, found: dict[int, tuple[int, bool]]) -> None:
        """What is said to be one file's alone is mapped once, in all of them."""
        users: dict[int, int] = {}
        for _, model in self.files:
            for leaf in model.leaves.values():
                for entry in leaf.entries.values():
                    users[entry.address] = users.get(entry.address, 0) + 1
        assert all(users[address] == 1 for address, shared in found.values() if not shared)


TestReference = Machine.TestCase
TestReference.settings = settings(
    max_examples=500, stateful_step_count=60, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk(FANOUT, 64)
    yield made
    made.close()


def test_a_damaged_node_is_never_used(disk: Disk) -> None:
    core = disk.core
    tree = native.Tree()
    core.write(tree, 0, b"a" * BLOCK * 20)
    core.write(tree, 3, os.urandom(BLOCK * 9))
    disk.commit()
    nodes, good = disk.nodes, dict(disk.nodes)
    for number, whole in good.items():
        for at in (0, 9, 17, 30, len(whole) - 1):
            bad = bytearray(whole)
            bad[at] ^= 1
            nodes[number] = bytes(bad)
            core.forget()
            with pytest.raises(native.CorruptNode):
                core.read_into(tree, 0, bytearray(20 * BLOCK))
        nodes[number] = good[max(good) if number != max(good) else min(good)]  # another's node
        with pytest.raises(native.CorruptNode):
            core.read_into(tree, 0, bytearray(20 * BLOCK))
        del nodes[number]
        with pytest.raises(native.CorruptNode):
            core.read_into(tree, 0, bytearray(20 * BLOCK))
        nodes[number] = whole
    core.read_into(tree, 0, bytearray(20 * BLOCK))


def test_a_damaged_block_is_named_and_not_returned(disk: Disk) -> None:
    core = disk.core
    tree = native.Tree()
    core.write(tree, 5, os.urandom(BLOCK * 3))
    (extent,) = core.lookup(tree, 0, 100)
    at = (extent.address + 1) * BLOCK + 77
    byte = os.pread(disk.slab.fileno(), 1, at)
    os.pwrite(disk.slab.fileno(), bytes([byte[0] ^ 4]), at)
    core.read_into(tree, 5 * BLOCK, bytearray(BLOCK))
    for offset, length in ((5 * BLOCK, 3 * BLOCK), (6 * BLOCK + 100, 7)):
        with pytest.raises(native.CorruptBlock) as caught:
            core.read_into(tree, offset, bytearray(length))
        assert (caught.value.block, caught.value.address) == (6, extent.address + 1)


def test_equal_fingerprints_of_unequal_blocks_stay_apart(disk: Disk) -> None:
    core = disk.core
    tree, one, two = native.Tree(), b"1" * BLOCK, b"2" * BLOCK
    core.write(tree, 0, one)
    (extent,) = core.lookup(tree, 0, 1)
    core.index_insert(core.hash(two), extent.address)
    new = core.written.new
    core.write(tree, 1, two)
    assert core.written.new == new + 1
    buffer = bytearray(2 * BLOCK)
    core.read_into(tree, 0, buffer)
    assert bytes(buffer) == one + two


def test_a_tree_of_a_later_epoch_is_never_changed(disk: Disk) -> None:
    """It would copy its path on every change, past all that is reserved for that."""
    core = disk.core
    tree = native.Tree()
    core.write(tree, 0, b"a" * BLOCK * 20)
    before = (tree.root, tree.blocks)
    lying = native.Tree(tree.root, tree.height, tree.blocks, core.epoch)
    for call in (
        lambda: core.write(lying, 0, os.urandom(BLOCK * 30)),
        lambda: core.punch(lying, 3, 5),
        lambda: core.share(lying, 4, tree, 0, 4),
    ):
        with pytest.raises(native.CorruptNode):
            call()
    assert (lying.root, lying.blocks) == before


def test_absurd_ranges_are_refused(disk: Disk) -> None:
    core = disk.core
    tree = native.Tree()
    for call in (
        lambda: core.write(tree, 1 << 60, ZERO),
        lambda: core.punch(tree, 1 << 60, 1),
        lambda: core.punch(tree, 1, (1 << 64) - 1),
        lambda: core.share(tree, 1 << 60, tree, 0, 1),
    ):
        with pytest.raises(ValueError):
            call()
    assert core.next_data(tree, (1 << 64) - 2) is None


def test_a_range_clone_of_holes_costs_what_is_mapped(disk: Disk) -> None:
    """As many steps as blocks there are in the range would be hours here."""
    core = disk.core
    source, target = native.Tree(), native.Tree()
    core.write(source, 3, b"a" * BLOCK)
    core.write(target, 9, b"b" * BLOCK)
    core.epoch = 2
    source.shared_epoch = target.shared_epoch = 1
    core.share(target, 0, source, 0, (1 << 40) - 1)
    assert [e.block for e in core.lookup(target, 0, (1 << 40) - 1)] == [3]


def test_slot_bits_past_a_slab_are_refused(disk: Disk) -> None:
    """Its last chunk is longer than the slab; gc would free such bits in the slab after it."""
    small = native.Core(hash_seed=7, load_node=disk.nodes.__getitem__, fanout=4, slab_slots=100)
    small.add_slab(0, disk.slab.fileno())
    bits = bytearray(2048)
    bits[12] = 0x0F
    small.load_chunk(0, 0, bytes(bits))
    assert small.allocated_slots == 4
    for at in (12, 1023, 1024 + 12, 2047):
        bits = bytearray(2048)
        bits[at] = 0x10
        with pytest.raises(ValueError):
            small.load_chunk(0, 0, bytes(bits))
    small.close()


def test_a_block_in_a_slab_that_is_not_there_is_damage_and_no_disk_error(disk: Disk) -> None:
    core = disk.core
    tree = native.Tree()
    core.write(tree, 0, b"a" * 2 * BLOCK)
    disk.commit()
    (number,) = disk.nodes
    leaf = bytearray(disk.nodes[number])
    struct.pack_into("<Q", leaf, 48, struct.unpack_from("<Q", leaf, 48)[0] + (1 << 40))
    leaf[24:32] = bytes(8)
    struct.pack_into("<Q", leaf, 24, core.hash(leaf))
    disk.nodes[number] = bytes(leaf)
    core.forget()
    core.read_into(tree, BLOCK, bytearray(BLOCK))
    for offset, length in ((0, BLOCK), (5, 9)):
        with pytest.raises(native.CorruptBlock) as caught:
            core.read_into(tree, offset, bytearray(length))
        assert caught.value.block == 0


def test_a_good_copy_heals_an_entry_whose_checksum_is_wrong(disk: Disk) -> None:
    """The block is still in its slot and the index knows it: the entry must change all the same."""
    core = disk.core
    tree, block = native.Tree(), b"a" * BLOCK
    core.write(tree, 0, block)
    disk.commit()
    (number,) = disk.nodes
    leaf = bytearray(disk.nodes[number])
    leaf[56] ^= 1
    leaf[24:32] = bytes(8)
    struct.pack_into("<Q", leaf, 24, core.hash(leaf))
    disk.nodes[number] = bytes(leaf)
    core.forget()
    buffer = bytearray(BLOCK)
    with pytest.raises(native.CorruptBlock):
        core.read_into(tree, 0, buffer)
    core.write(tree, 0, block)
    core.read_into(tree, 0, buffer)
    assert buffer == block


def test_the_same_block_in_a_slot_that_is_free_gets_a_slot(disk: Disk) -> None:
    """The map says so and the bitmap does not: left there, it would be overwritten by the next."""
    core = disk.core
    tree, block = native.Tree(), b"a" * BLOCK
    core.write(tree, 0, block)
    disk.commit()
    old = dict(disk.nodes)
    core.write(tree, 0, b"b" * BLOCK, dedup=False)
    disk.commit()
    disk.nodes.update(old)  # a node that was stored before comes back
    core.forget()
    (before,) = core.lookup(tree, 0, 1)
    assert not core.allocated(before.address)
    core.write(tree, 0, block, dedup=False)
    (after,) = core.lookup(tree, 0, 1)
    assert core.allocated(after.address)


def test_addresses_that_cannot_be_are_not_indexed(disk: Disk) -> None:
    for address in ((1 << 64) - 1, 1 << 48):
        disk.core.index_insert(5, address)
    assert (disk.core.index_len, disk.core.index_lookup(5)) == (0, None)


def test_a_node_from_the_future_is_never_used(disk: Disk) -> None:
    """One with an id still to be handed out would be overwritten, one of a later epoch be taken
    for a node of one tree alone by every tree that shares it."""
    core = disk.core
    tree = native.Tree()
    core.write(tree, 0, b"a" * BLOCK * 2)
    disk.commit()
    (number,) = disk.nodes
    good = disk.nodes[number]
    for offset, value in ((8, core.next_node_id), (16, core.epoch + 1)):
        leaf = bytearray(good)
        struct.pack_into("<Q", leaf, offset, value)
        struct.pack_into("<Q", leaf, 24, 0)
        struct.pack_into("<Q", leaf, 24, core.hash(leaf))
        ident = value if offset == 8 else number
        disk.nodes[ident] = bytes(leaf)
        core.forget()
        with pytest.raises(native.CorruptNode) as caught:
            core.read_into(native.Tree(ident, 1, 2), 0, bytearray(BLOCK))
        assert caught.value.node_id == ident
