"""Ranges of a B+tree cut off and put elsewhere, against a dict; every structural rule looked at."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Store, errors
from engine.btree import BTree
from engine.grafts import graft, split
from engine.nodes import BODY_BYTES, record_bytes

RECORDS_MAX = 4
Records = dict[bytes, bytes]
NUMBERS = st.sets(st.integers(0, 400), max_size=120)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("grafts") / "store"
    Store.create(path, records_max=RECORDS_MAX)
    with Store.open(path) as made:
        yield made


def key(number: int) -> bytes:
    return b"k" + number.to_bytes(8, "big")


def tree_of(store: Store, records: Records, shared_epoch: int = 0) -> BTree:
    tree = BTree(store.pool.nodes, 0, shared_epoch, RECORDS_MAX)
    for each, value in records.items():
        tree.put(each, value)
    return tree


def whole(tree: BTree) -> Records:
    """All records, after a look at each node: levels, order, sizes, who may change it."""
    found: Records = {}
    if tree.root:
        _look(tree, tree.root, None, b"", None, True, found)
    assert list(tree.scan(b"", b"")) == list(found.items())
    return found


def _look(
    tree: BTree, node_id: int, level: int | None, low: bytes, high: bytes | None, owned: bool,
    found: Records,
) -> None:  # fmt: skip
    node = tree._cache.get(node_id)
    assert level is None or node.level == level
    assert node.keys
    assert len(node.keys) <= RECORDS_MAX
    sizes = map(record_bytes, [node.level] * len(node.keys), node.keys, node.vals)
    assert node.size == sum(sizes) <= BODY_BYTES
    mine = node.birth > tree.shared_epoch
    assert owned or not mine, "owned below a node that is not"
    counted = node.keys[node.level > 0 :]
    assert counted == sorted(counted)
    assert all(low <= each and (high is None or each < high) for each in counted)
    if not node.level:
        found.update(zip(node.keys, node.vals, strict=True))  # type: ignore[arg-type]
        return
    bounds = [low, *node.keys[1:]], [*node.keys[1:], high]
    for child, start, end in zip(node.vals, *bounds, strict=True):
        _look(tree, child, node.level - 1, start, end, mine, found)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.integers(0, 401))
def test_a_tree_that_is_cut_is_two(store: Store, numbers: set[int], at: int) -> None:
    records = {key(n): b"v%d" % n for n in sorted(numbers)}
    tree = tree_of(store, records)
    right = BTree(tree._cache, split(tree, key(at)), 0, RECORDS_MAX)
    assert whole(tree) == {k: v for k, v in records.items() if k < key(at)}
    assert whole(right) == {k: v for k, v in records.items() if k >= key(at)}


@settings(max_examples=120, deadline=None)
@given(NUMBERS, NUMBERS, st.integers(0, 401), st.integers(0, 401), st.booleans(), st.booleans())
def test_a_range_is_moved_into_a_tree_that_has_none_of_it(
    store: Store, there: set[int], numbers: set[int], one: int, other: int, before: bool,
    after: bool,
) -> None:  # fmt: skip
    """Also into one that was shared: ``before`` all of the range was made, or half-way."""
    start, end = sorted((one, other))
    kept = {key(n): b"there" for n in sorted(there) if not start <= n < end}
    moved = {key(n): b"moved" for n in sorted(numbers) if start <= n < end}
    target = tree_of(store, kept)
    source = BTree(target._cache, 0, 0, RECORDS_MAX)
    if before:
        target.shared_epoch = store.pool.bump_epoch()
    for n, each in enumerate(moved):
        if after and n == len(moved) // 2:
            target.shared_epoch = store.pool.bump_epoch()
        source.shared_epoch = target.shared_epoch
        source.put(each, moved[each])
    old = BTree(target._cache, target.root, store.pool.state.epoch, RECORDS_MAX)
    graft(target, source.root, key(start), key(end))
    assert whole(target) == dict(sorted((kept | moved).items()))
    if before or after:
        assert whole(old) == kept, "what had shared the tree sees a change of it"
    for each in list(moved)[::2]:
        assert target.delete(each)
    target.put(key(start), b"again")
    expected = kept | dict(list(moved.items())[1::2]) | {key(start): b"again"}
    assert whole(target) == dict(sorted(expected.items()))


def test_a_cut_that_meets_damage_changes_nothing(store: Store) -> None:
    tree = tree_of(store, {key(n): b"v" for n in range(100)})
    root = tree._cache.get(tree.root)
    missing = store.pool.core.take_node_id()
    child = root.vals[1]
    root.vals[1] = missing  # type: ignore[call-overload]
    at = root.keys[1]
    before = dict(tree._cache.dirty)
    with pytest.raises(errors.Corrupt):
        split(tree, at)
    with pytest.raises(errors.Corrupt):
        graft(tree, tree_of(store, {at + b"x": b"v"}).root, at + b"x", at + b"y")
    root.vals[1] = child  # type: ignore[call-overload]
    assert whole(tree) == {key(n): b"v" for n in range(100)}
    assert before.keys() <= tree._cache.dirty.keys()
