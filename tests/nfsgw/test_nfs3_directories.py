"""READDIR and READDIRPLUS."""

import pytest
from exported import Exported
from nfs3_client import ACCES, DIR, NOTDIR, TOOSMALL, Nfs3Client, Users, failed

MANY = 100_000
LISTING_MAX = 1 << 16


@pytest.fixture(scope="module")
def many(world: Exported) -> tuple[bytes, list[bytes]]:
    """The name of a directory of MANY files, and theirs."""
    names = [b"file-%06d" % number for number in range(MANY)]

    def fill():
        directory = world.lab.mkdir(1, b"many", 0o755, 0, 0).ino
        for name in names:
            world.lab.create(directory, name, 0o644, 0, 0)

    world.do(fill)
    return b"many", names


def test_an_empty_directory_has_itself_and_its_parent(root: Nfs3Client, top: bytes) -> None:
    listing = root.readdir(top)
    assert [(each.name, each.cookie) for each in listing.entries] == [(b".", 1), (b"..", 2)]
    assert listing.entries[0].fileid == root.getattr(top).fileid
    assert listing.entries[1].fileid == root.getattr(root.mount(b"/lab")).fileid
    assert listing.eof


def test_fileids_are_those_of_the_files(root: Nfs3Client, top: bytes) -> None:
    made = {name: root.create(top, name).attributes.fileid for name in (b"a", b"bb", b"c" * 255)}
    listing = root.readdir(top)
    assert {each.name: each.fileid for each in listing.entries[2:]} == made


def test_plus_gives_what_lookup_would(root: Nfs3Client, top: bytes) -> None:
    root.create(top, b"f", mode=0o4711, size=5)
    root.symlink(top, b"l", b"f")
    root.mkdir(top, b"d")
    listing = root.readdirplus(top)
    for entry in listing.entries:
        assert (entry.handle, entry.attributes) == root.lookup(top, entry.name)
        assert entry.fileid == entry.attributes.fileid
    assert [each.name for each in listing.entries] == [b".", b"..", b"f", b"l", b"d"]


def test_plus_gives_no_handles_to_whom_lookup_would_not(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    root.create(top, b"f")
    root.setattr(top, mode=0o744)
    other = user(1000, 1000)
    for entry in other.readdirplus(top).entries:
        assert (entry.attributes, entry.handle) == (None, None)
    assert b"f" in other.names(top)
    root.setattr(top, mode=0o711)
    for listing in (other.readdir, other.readdirplus):
        with failed(ACCES):
            listing(top)


def test_what_is_no_directory_is_not_listed(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    for listing in (root.readdir, root.readdirplus):
        with failed(NOTDIR) as caught:
            listing(handle)
        assert caught.value.tells == [root.getattr(handle)]


def test_counts_are_kept(root: Nfs3Client, top: bytes) -> None:
    for number in range(60):
        root.create(top, b"x" * (1 + 4 * number))
    for count in (132, 200, 333, 512, 1000, 4096, 40_000):
        listing = root.readdir(top, count=count)
        assert listing.size <= count
        assert listing.entries
    for dircount, maxcount in ((50, 4096), (1000, 4096), (8192, 400), (1, 4096), (200, 1 << 31)):
        listing = root.readdirplus(top, dircount=dircount, maxcount=maxcount)
        assert listing.size <= maxcount
        assert listing.names_size <= dircount or len(listing.entries) == 1
        assert listing.entries


def test_what_has_no_room_for_one_entry_is_too_small(root: Nfs3Client, top: bytes) -> None:
    root.create(top, b"n" * 255)
    smallest = root.readdir(top, 2).size
    assert root.readdir(top, 2, count=smallest).entries[0].name == b"n" * 255
    for count in (0, 1, 50, 104, smallest - 1):
        with failed(TOOSMALL):
            root.readdir(top, 2, count=count)
        with failed(TOOSMALL):
            root.readdirplus(top, 2, maxcount=count)
    assert root.readdir(top, 3, count=104) == ([], True, bytes(8), 104, 0)


@pytest.mark.parametrize("plus", [False, True])
def test_a_hundred_thousand_entries_come_in_bounded_pieces(
    root: Nfs3Client, many: tuple[bytes, list[bytes]], plus: bool
) -> None:
    name, names = many
    handle = root.lookup(root.mount(b"/lab"), name)[0]
    found, cookie, calls, eof = [], 0, 0, False
    while not eof:
        if plus:
            listing = root.readdirplus(handle, cookie, dircount=1 << 31, maxcount=1 << 31)
            assert all(each.handle for each in listing.entries)
        else:
            listing = root.readdir(handle, cookie, count=1 << 31)
        assert listing.size <= LISTING_MAX
        found += listing.entries
        cookie, eof, calls = found[-1].cookie, listing.eof, calls + 1
    assert [each.name for each in found[2:]] == names
    assert calls > MANY * (180 if plus else 32) // LISTING_MAX


def test_a_cookie_stays_where_it_is_whatever_comes_and_goes(root: Nfs3Client, top: bytes) -> None:
    for number in range(30):
        root.create(top, b"%02d" % number)
    first = root.readdir(top, count=600)
    seen = [each.name for each in first.entries[2:]]
    assert not first.eof
    for name in seen:
        root.remove(top, name)
    root.create(top, b"new")
    rest, listing = [], first
    while not listing.eof:
        listing = root.readdir(top, (listing.entries or first.entries)[-1].cookie, count=600)
        rest += [each.name for each in listing.entries]
    assert seen + rest == [b"%02d" % number for number in range(30)] + [b"new"]


def test_cookies_that_nobody_gave(root: Nfs3Client, top: bytes) -> None:
    root.create(top, b"f")
    for cookie in ((1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1000):
        for listing in (root.readdir(top, cookie), root.readdirplus(top, cookie)):
            assert (listing.entries, listing.eof) == ([], True)
    assert [each.name for each in root.readdir(top, 1).entries] == [b"..", b"f"]
    assert [each.name for each in root.readdir(top, 0, b"whatever").entries] == [b".", b"..", b"f"]


def test_snapshots_are_listed_and_read_only(world: Exported, root: Nfs3Client, top: bytes) -> None:
    lab = root.mount(b"/lab")
    handle = root.create(top, b"f", mode=0o666).handle
    root.write(handle, 0, b"then")
    snapshots, found = root.lookup(lab, b".snapshots")
    assert (found.type, found.mode) == (DIR, 0o555)
    world.do(lambda: world.store.create_snapshot(world.lab, "listed"))
    assert root.getattr(snapshots).mtime > found.mtime
    root.write(handle, 0, b"now!")
    (entry,) = [each for each in root.readdirplus(snapshots).entries if each.name == b"listed"]
    assert entry.attributes.fileid == entry.fileid
    assert root.lookup(snapshots, b"listed") == (entry.handle, entry.attributes)
    assert root.lookup(entry.handle, b"..")[0] == snapshots
    assert root.lookup(snapshots, b"..")[0] == lab
    path = next(e.name for e in root.readdirplus(lab).entries if e.handle == top)
    old = root.walk(entry.handle, path.decode() + "/f")
    assert root.read(old, 0, 10) == (b"then", True)
    assert root.getattr(old).fsid == root.getattr(handle).fsid
    assert root.getattr(old).fileid != root.getattr(handle).fileid
    world.do(lambda: world.store.remove_snapshot(world.lab, "listed"))
    with failed(70):
        root.getattr(old)


@pytest.mark.parametrize("plus", [False, True])
def test_a_listing_ends_although_what_it_has_listed_is_renamed(
    root: Nfs3Client, top: bytes, plus: bool
) -> None:
    names = [b"%02d" % number for number in range(40)]
    for name in names:
        root.create(top, name)
    found: list[bytes] = []
    cookie, eof = 2, False
    while not eof:
        listing = (
            root.readdirplus(top, cookie, maxcount=1000) if plus
            else root.readdir(top, cookie, count=300)
        )  # fmt: skip
        assert listing.entries or listing.eof
        for number, each in enumerate(listing.entries):
            found.append(each.name)
            if number % 3 == 0:
                root.rename(top, each.name, top, each.name + b".old")
            elif number % 3 == 1:
                root.create(top, b"new")
                root.rename(top, b"new", top, each.name)
        assert len(found) <= len(names)
        cookie, eof = (listing.entries[-1].cookie if listing.entries else cookie), listing.eof
    assert found == names
