"""What the C core does, in plain Python: extent maps, dedup, ownership by epoch, slots.

The one thing it does not decide is which free slot a fresh block takes; that is told to it and
checked against the slots it knows to be free.
"""

from dataclasses import dataclass, field

BLOCK = 4096
ZERO = bytes(BLOCK)


class WrongSlot(AssertionError):
    """The core took a slot that it must not take."""


@dataclass
class Entry:
    address: int
    owned: bool


@dataclass
class Leaf:
    birth: int
    entries: dict[int, Entry] = field(default_factory=dict)


@dataclass
class Tree:
    """A file's map: leaves by number.  ``shared_epoch`` as in DESIGN, Ownership."""

    leaves: dict[int, Leaf] = field(default_factory=dict)
    shared_epoch: int = 0
    height: int = 0

    def blocks(self) -> int:
        return sum(len(leaf.entries) for leaf in self.leaves.values())

    def clone(self) -> "Tree":
        """The same nodes: leaves are shared, not copied."""
        return Tree(dict(self.leaves), self.shared_epoch, self.height)


class Reference:
    """All slots and the epoch of a store; trees are passed in."""

    def __init__(self, fanout: int) -> None:
        self.fanout = fanout
        self.epoch = 1
        self.content: dict[int, bytes] = {}  # allocated slots
        self.shared: set[int] = set()
        self.pending: set[int] = set()  # freed, not yet to be reused
        self.index: dict[bytes, int] = {}

    # --- reading

    def address(self, tree: Tree, block: int) -> int | None:
        leaf = tree.leaves.get(block // self.fanout)
        entry = leaf.entries.get(block % self.fanout) if leaf else None
        return entry.address if entry else None

    def read(self, tree: Tree, block: int) -> bytes:
        address = self.address(tree, block)
        return ZERO if address is None else self.content[address]

    def may_be_shared(self, tree: Tree, block: int) -> bool:
        """Whether an overwrite would leave the block's slot alone."""
        leaf = tree.leaves[block // self.fanout]
        entry = leaf.entries[block % self.fanout]
        return leaf.birth <= tree.shared_epoch or not entry.owned or entry.address in self.shared

    # --- ownership

    def own(self, tree: Tree, number: int) -> Leaf:
        """The leaf, to be changed in place: a shared one is copied, and the copy owns nothing."""
        leaf = tree.leaves.get(number)
        if leaf is None:
            leaf = Leaf(self.epoch)
        elif leaf.birth <= tree.shared_epoch:
            entries = {at: Entry(entry.address, False) for at, entry in leaf.entries.items()}
            leaf = Leaf(self.epoch, entries)
        tree.leaves[number] = leaf
        return leaf

    def share_epoch(self, *trees: Tree) -> None:
        for tree in trees:
            tree.shared_epoch = self.epoch
        self.epoch += 1

    def free(self, entry: Entry | None) -> None:
        if entry and entry.owned and entry.address not in self.shared:
            del self.content[entry.address]
            self.pending.add(entry.address)

    # --- changes

    def grow(self, tree: Tree, end: int) -> None:
        tree.height = max(tree.height, 1)
        while self.fanout**tree.height < end:
            tree.height += 1

    def write(self, tree: Tree, first: int, data: list[bytes], took: list[int | None]) -> None:
        """``took``: the address that each block has afterwards, for those that are fresh."""
        plan: list[tuple[str, int]] = []
        fresh: dict[bytes, int] = {}
        for i, block in enumerate(data):
            old = self.address(tree, first + i)
            hit = self.index.get(block)
            if block == ZERO:
                plan.append(("zero", 0))
            elif old is not None and self.content[old] == block:
                plan.append(("same", old))
            elif hit is not None and self.content.get(hit) == block:
                plan.append(("same" if hit == old else "shared", hit))
            elif block in fresh:
                plan.append(("shared", fresh[block]))
            else:
                address = took[i]
                if address is None or address in self.content or address in self.pending:
                    raise WrongSlot(f"block {first + i} went to slot {address}")
                if address in fresh.values():
                    raise WrongSlot(f"slot {address} was taken twice")
                fresh[block] = address
                plan.append(("fresh", address))
        for block, address in fresh.items():
            self.content[address] = block
        self.shared |= {address for kind, address in plan if kind == "shared"}
        changed = [
            i for i, (kind, _) in enumerate(plan)
            if kind != "same" and not (kind == "zero" and self.address(tree, first + i) is None)
        ]  # fmt: skip
        if changed:
            self.grow(tree, first + len(data))
        for i in changed:
            kind, address = plan[i]
            number, at = divmod(first + i, self.fanout)
            leaf = self.own(tree, number)
            self.free(leaf.entries.pop(at, None))
            if kind != "zero":
                leaf.entries[at] = Entry(address, kind == "fresh")
        for block, address in fresh.items():
            self.index[block] = address

    def punch(self, tree: Tree, first: int, count: int) -> None:
        """Whole leaves are cut off and left to gc; single entries are freed if owned."""
        end = first + count
        if not first and tree.height and end >= self.fanout**tree.height:
            tree.leaves.clear()
            tree.height = 0
            return
        for number in sorted(tree.leaves):
            start, stop = number * self.fanout, (number + 1) * self.fanout
            inside = [at for at in tree.leaves[number].entries if first <= start + at < end]
            if not inside:
                continue
            if tree.height > 1 and first <= start and stop <= end:
                del tree.leaves[number]
                continue
            leaf = self.own(tree, number)
            for at in inside:
                self.free(leaf.entries.pop(at))

    def share(self, into: Tree, into_first: int, source: Tree, first: int, count: int) -> None:
        """Entry by entry; that the core shares whole subtrees must not be seen."""
        old = {n: self.address(source, first + n) for n in range(count)}
        for n, address in old.items():
            number, at = divmod(into_first + n, self.fanout)
            if address is None and self.address(into, into_first + n) is None:
                continue
            leaf = self.own(into, number)
            self.free(leaf.entries.pop(at, None))
            if address is not None:
                leaf.entries[at] = Entry(address, False)
        self.grow(into, into_first + count)
