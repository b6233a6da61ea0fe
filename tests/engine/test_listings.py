"""Listings that go on while names change: they end, and have each name that stays just once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_store import small_store

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.namespace import RENAME_EXCHANGE

FILES = 12
NAMES = st.integers(0, FILES + 3).map(lambda number: b"%02d" % number)
RENAMES = st.lists(
    st.tuples(NAMES, NAMES, st.sampled_from([0, RENAME_EXCHANGE])), max_size=3
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with small_store(tmp_path, "v") as made:
        yield made


def findings(store: Store) -> list[fsck.Finding]:
    store.commit()
    return fsck.check(store, data=True).findings


def create(volume: Volume, parent: int, *names: bytes) -> None:
    for name in names:
        volume.create(parent, name, 0o644, 0, 0)


def listed(volume: Volume, parent: int = ROOT_INO) -> list[tuple[bytes, int]]:
    return [(each.name, each.cookie) for each in volume.readdir(parent)]


def test_what_is_renamed_keeps_its_cookie(store: Store) -> None:
    volume = store.volume("v")
    create(volume, ROOT_INO, b"a", b"b", b"c")
    before = listed(volume)
    volume.rename(ROOT_INO, b"a", ROOT_INO, b"z" * 200)
    assert listed(volume) == [(b"z" * 200, 3), *before[1:]]
    assert volume.path_of(volume.lookup(ROOT_INO, b"z" * 200).ino) == "/" + "z" * 200
    create(volume, ROOT_INO, b"d")
    assert listed(volume)[-1] == (b"d", 6)
    assert findings(store) == []


def test_what_takes_the_place_of_a_name_has_its_cookie(store: Store) -> None:
    volume = store.volume("v")
    other = volume.mkdir(ROOT_INO, b"other", 0o755, 0, 0).ino
    create(volume, ROOT_INO, b"a", b"b")
    create(volume, other, b"x", b"y")
    volume.link(volume.lookup(ROOT_INO, b"b").ino, other, b"second")
    volume.link(volume.lookup(ROOT_INO, b"b").ino, ROOT_INO, b"third")  # the newest name of it
    before, elsewhere = listed(volume), listed(volume, other)
    volume.rename(ROOT_INO, b"a", ROOT_INO, b"third")
    before = [each for each in before if each[0] != b"a"]
    assert listed(volume) == before
    assert volume.path_of(volume.lookup(ROOT_INO, b"b").ino) is None  # as when it is unlinked
    volume.rename(other, b"x", ROOT_INO, b"b")
    volume.rename(other, b"y", ROOT_INO, b"b", RENAME_EXCHANGE)
    staged = volume.create_staged(0o644, 0, 0).ino
    volume.publish(staged, ROOT_INO, b"third", replace=True)
    assert listed(volume) == before
    assert listed(volume, other) == elsewhere[1:]
    assert volume.lookup(ROOT_INO, b"third").ino == staged
    assert findings(store) == []


def test_what_comes_from_another_directory_has_a_cookie_of_its_own(store: Store) -> None:
    volume = store.volume("v")
    other = volume.mkdir(ROOT_INO, b"other", 0o755, 0, 0).ino
    create(volume, other, b"x")
    create(volume, ROOT_INO, b"a", b"b")
    volume.unlink(ROOT_INO, b"b")
    volume.rename(other, b"x", ROOT_INO, b"b")
    assert listed(volume) == [(b"other", 3), (b"a", 4), (b"b", 6)]
    assert findings(store) == []


@given(limit=st.integers(1, 4), between=st.lists(RENAMES, max_size=FILES))
def test_renames_between_two_pages_hide_nothing_and_repeat_nothing(
    tmp_path_factory: pytest.TempPathFactory, limit: int,
    between: list[list[tuple[bytes, bytes, int]]],
) -> None:  # fmt: skip
    with small_store(tmp_path_factory.mktemp("listing"), "v") as store:
        volume = store.volume("v")
        create(volume, ROOT_INO, *(b"%02d" % number for number in range(FILES)))
        always = {each.name for each in volume.readdir(ROOT_INO)}
        found, cookie = [], 0
        while page := volume.readdir(ROOT_INO, cookie, limit):
            found += page
            cookie = page[-1].cookie
            for old, new, how in between.pop() if between else ():
                try:
                    volume.rename(ROOT_INO, old, ROOT_INO, new, how)
                except errors.NotFound:
                    continue
                if not how:
                    always -= {old}
        names = [each.name for each in found]
        assert len(found) <= FILES
        assert all(names.count(name) == 1 for name in always)
        assert findings(store) == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_listing_whose_every_entry_is_renamed_or_replaced_ends(
    store: Store, replaced: bool
) -> None:
    volume = store.volume("v")
    create(volume, ROOT_INO, *(b"%02d" % number for number in range(40)))
    before, seen = listed(volume), []
    while page := volume.readdir(ROOT_INO, seen[-1][1] if seen else 0, 1):
        name = page[0].name
        seen.append((name, page[0].cookie))
        assert len(seen) <= 40
        if replaced:
            create(volume, ROOT_INO, name + b".new")
            volume.rename(ROOT_INO, name + b".new", ROOT_INO, name)
        else:
            volume.rename(ROOT_INO, name, ROOT_INO, name + b".old")
    assert seen == before
    assert findings(store) == []
