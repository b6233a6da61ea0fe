"""A directory put in the place of another: all of it or nothing, and nothing else is touched."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Inode, Store, Volume, errors, fsck, replacement

BLOCK = 4096
Tree = dict[str, bytes]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store", fanout=4, records_max=4, slab_slots=64)
    made = Store.open(tmp_path / "store")
    made.create_volume("lab")
    yield made
    made.abandon()


def fill(volume: Volume, path: str, tree: Tree) -> None:
    """A directory with files in it, one of them in a directory of its own."""
    parent, name = volume.resolve_parent(path)
    top = volume.mkdir(parent.ino, name, 0o755, 0, 0).ino
    below = volume.mkdir(top, b"disks", 0o750, 7, 7).ino
    for file, data in tree.items():
        into = below if file.endswith(".raw") else top
        ino = volume.create(into, file.encode(), 0o640, 7, 7).ino
        volume.write(ino, 0, data)


def found(volume: Volume, path: str) -> Tree:
    tree: Tree = {}
    for where in (path, f"{path}/disks"):
        for entry in volume.readdir(volume.resolve(where).ino):
            inode = volume.inode(entry.ino)
            if inode.is_file:
                tree[entry.name.decode()] = volume.read(entry.ino, 0, inode.size)
    return tree


def vm(letter: int, blocks: int = 9) -> Tree:
    disk = b"".join(bytes([letter, n]) * (BLOCK // 2) for n in range(blocks))
    return {"domain.xml": bytes([letter]) * 300, "root.raw": disk, "data.raw": disk[BLOCK:]}


def change(volume: Volume, path: str) -> None:
    """What a guest does after the snapshot, and an administrator."""
    ino = volume.resolve(f"{path}/disks/root.raw").ino
    volume.write(ino, 2 * BLOCK, os.urandom(5 * BLOCK))
    volume.unlink(volume.resolve(f"{path}/disks").ino, b"data.raw")
    volume.create(volume.resolve(path).ino, b"new-file", 0o644, 0, 0)


def revert(store: Store, path: str, *, force: bool = False) -> None:
    lab = store.volume("lab")
    past = store.snapshot(lab, "s")
    parent, name = lab.resolve_parent(path)
    store.replace_tree(past, past.resolve(path).ino, lab, parent.ino, name, force=force)


def two_vms(store: Store) -> Volume:
    lab = store.volume("lab")
    fill(lab, "/one", vm(1))
    fill(lab, "/two", vm(2))
    store.create_snapshot(lab, "s")
    change(lab, "/one")
    change(lab, "/two")
    return lab


def whole(store: Store) -> None:
    store.gc()
    report = fsck.check(store, data=True)
    assert report.findings == []
    assert report.garbage_slots == 0


def test_one_directory_goes_back_and_its_neighbour_stays(store: Store) -> None:
    lab = two_vms(store)
    other, two = found(lab, "/two"), lab.resolve("/two").ino
    revert(store, "/one")
    assert found(lab, "/one") == vm(1)
    assert (found(lab, "/two"), lab.resolve("/two").ino) == (other, two)
    assert {e.name for e in lab.readdir(ROOT_INO)} == {b"one", b"two"}
    assert lab.inode(ROOT_INO).nlink == 4
    disks = lab.resolve("/one/disks")
    assert (disks.mode & 0o777, disks.uid, disks.gid) == (0o750, 7, 7)
    assert found(store.snapshot(lab, "s"), "/one") == vm(1)
    whole(store)
    assert found(lab, "/one") == vm(1)


def test_what_had_the_old_inodes_finds_them_stale(store: Store) -> None:
    lab = two_vms(store)
    old = [lab.resolve(path).ino for path in ("/one", "/one/disks", "/one/disks/root.raw")]
    revert(store, "/one")
    for ino in old:
        with pytest.raises(errors.Stale):
            lab.inode(ino)


def test_an_open_file_stops_it_and_a_forced_one_lives_on(store: Store) -> None:
    lab = two_vms(store)
    inode = lab.hold(lab.resolve("/one/disks/root.raw").ino)
    before, content = found(lab, "/one"), lab.read(inode.ino, 0, inode.size)
    with pytest.raises(errors.Busy, match=r"lab:/one/disks/root\.raw is open"):
        revert(store, "/one")
    assert found(lab, "/one") == before
    revert(store, "/one", force=True)
    assert found(lab, "/one") == vm(1)
    lab.write(inode.ino, 0, b"still here")
    assert lab.read(inode.ino, 0, inode.size) == b"still here" + content[10:]
    lab.release(inode.ino)
    whole(store)


def test_a_disk_that_a_host_has_stops_it_before_anything_is_made(store: Store) -> None:
    """Else the disk would lie in a second directory, and the VM with it."""
    lab = two_vms(store)
    ino = lab.resolve("/one/disks/root.raw").ino
    before = found(lab, "/one")
    store.pool.presented = {(lab.id, ino)}
    for force in (False, True):
        with pytest.raises(errors.Busy, match=r"lab:/one/disks/root\.raw is presented as a LUN"):
            revert(store, "/one", force=force)
        assert {e.name for e in lab.readdir(ROOT_INO)} == {b"one", b"two"}
        assert found(lab, "/one") == before
        assert lab.path_of(ino) == "/one/disks/root.raw"
    store.pool.presented = set()
    revert(store, "/one")
    assert found(lab, "/one") == vm(1)
    whole(store)


def test_an_old_tree_that_cannot_be_removed_goes_back_to_its_place(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = two_vms(store)
    before, one = found(lab, "/one"), lab.resolve("/one").ino
    real, failed = replacement.remove_tree, []

    def remove_tree(volume: Volume, parent: int, name: bytes) -> int:
        if not failed:
            failed.append(name)
            raise errors.Corrupt("damage on the way")
        return real(volume, parent, name)

    monkeypatch.setattr(replacement, "remove_tree", remove_tree)
    with pytest.raises(errors.Corrupt, match="on the way"):
        revert(store, "/one")
    assert {e.name for e in lab.readdir(ROOT_INO)} == {b"one", b"two"}
    assert (found(lab, "/one"), lab.resolve("/one").ino) == (before, one)
    whole(store)


def test_changes_show_at_the_names_that_changed(store: Store) -> None:
    lab = two_vms(store)
    told: set[tuple[int, bytes]] = set()
    store.listeners.append(lambda c: told.add((c.parent, c.name or b"")))
    one = lab.resolve("/one").ino
    revert(store, "/one")
    assert {(ROOT_INO, b"one"), (one, b"disks"), (one, b"new-file")} <= told
    assert (ROOT_INO, b"two") not in told


def test_a_quota_counts_what_stays(store: Store) -> None:
    """A volume that is full can be reverted; one where the old tree is larger, too."""
    lab = two_vms(store)
    store.set_quota("lab", lab.referenced_bytes + 8 * BLOCK)  # what was data.raw
    revert(store, "/one")
    assert found(lab, "/one") == vm(1)
    past = store.snapshot(lab, "s")
    small = store.create_volume("small")
    fill(small, "/one", vm(3, 2))
    store.set_quota("small", small.referenced_bytes + 2 * BLOCK)
    with pytest.raises(errors.QuotaExceeded):
        store.replace_tree(past, past.resolve("/one").ino, small, ROOT_INO, b"one")
    assert found(small, "/one") == vm(3, 2)
    assert [e.name for e in small.readdir(ROOT_INO)] == [b"one"]


def test_what_is_refused_changes_nothing(store: Store) -> None:
    lab = two_vms(store)
    one = lab.resolve("/one").ino
    lab.create(ROOT_INO, b"file", 0o644, 0, 0)
    with pytest.raises(errors.NotADirectory):
        store.replace_tree(lab, one, lab, ROOT_INO, b"file")
    for source in ("/one", "/one/disks"):
        with pytest.raises(errors.InvalidArgument, match="would replace"):
            store.replace_tree(lab, lab.resolve(source).ino, lab, ROOT_INO, b"one")
    with pytest.raises(errors.InvalidArgument, match="below itself"):
        store.replace_tree(lab, one, lab, one, b"disks")
    past = store.snapshot(lab, "s")
    with pytest.raises(errors.ReadOnly):
        store.replace_tree(lab, one, past, ROOT_INO, b"one")
    assert {e.name for e in lab.readdir(ROOT_INO)} == {b"one", b"two", b"file"}
    assert lab.resolve("/one").ino == one


@pytest.mark.parametrize("name", [b"one", b"new"])
def test_what_cannot_be_prepared_is_taken_back(store: Store, name: bytes) -> None:
    lab = two_vms(store)
    before, past = found(lab, "/one"), store.snapshot(lab, "s")

    def prepare(made: Inode) -> None:
        lab.create(made.ino, b"half", 0o644, 0, 0)
        raise errors.NoSpace("full")

    with pytest.raises(errors.NoSpace):
        store.replace_tree(past, past.resolve("/one").ino, lab, ROOT_INO, name, prepare=prepare)
    assert {e.name for e in lab.readdir(ROOT_INO)} == {b"one", b"two"}
    assert found(lab, "/one") == before
    whole(store)


def test_hard_links_outside_keep_their_file(store: Store) -> None:
    lab = two_vms(store)
    ino = lab.resolve("/one/disks/root.raw").ino
    lab.link(ino, ROOT_INO, b"kept")
    content = lab.read(ino, 0, lab.inode(ino).size)
    revert(store, "/one")
    assert lab.read(lab.resolve("/kept").ino, 0, len(content)) == content
    assert lab.inode(ino).nlink == 1
    whole(store)


def test_where_nothing_is_yet_it_is_a_clone(store: Store) -> None:
    lab = two_vms(store)
    past = store.snapshot(lab, "s")
    store.replace_tree(past, past.resolve("/one").ino, lab, ROOT_INO, b"again")
    assert found(lab, "/again") == vm(1)


@pytest.mark.parametrize("moment", ["not captured", "captured before", "written", "finished"])
def test_a_crash_leaves_the_old_or_the_new(store: Store, moment: str, tmp_path: Path) -> None:
    lab = two_vms(store)
    old = found(lab, "/one")
    store.commit()
    lab.create(ROOT_INO, b"something", 0o644, 0, 0)
    commit = store.capture() if moment == "captured before" else None
    revert(store, "/one")
    if moment in ("written", "finished"):
        commit = store.capture()
    if commit is not None:
        commit.write()
        if moment == "finished":
            store.finish(commit)
    store.abandon()
    with Store.open(tmp_path / "store") as again:
        lab = again.volume("lab")
        new = moment in ("written", "finished")
        assert found(lab, "/one") == (vm(1) if new else old)
        names = {e.name for e in lab.readdir(ROOT_INO)}
        assert names - {b"something"} == {b"one", b"two"}
        again.reclaim()
        whole(again)
