"""Each invariant of docs/FORMAT.md, broken alone, is found under its own name; repair is honest."""

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import Surgery, fingerprint, slots_of

from engine import ROOT_INO, Store, errors, keys
from engine.findings import CHECKS
from engine.fsck import check_path
from engine.intent_log import LOG_FILE, IntentLog, Logged
from engine.keys import DirEntry
from engine.meta import SUPERBLOCK_KEY, chunk_key, orphan_key
from engine.reclaim import EXTENT, Entry
from engine.repair import repair

BLOCK = 4096
FILE = (stat.S_IFREG, stat.S_IFDIR)


def build(path: Path) -> dict[str, int]:
    """A store with something for every check; returns inode numbers by path."""
    Store.create(path, fanout=4, records_max=6, slab_slots=64)
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        inos = {"d": lab.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino}
        inos["e"] = lab.mkdir(inos["d"], b"e", 0o755, 0, 0).ino
        for name, blocks in ((b"f", 30), (b"g", 9)):
            inode = lab.create(inos["d"], name, 0o644, 0, 0)
            lab.write(inode.ino, 0, os.urandom(blocks * BLOCK - 100))
            inos[name.decode()] = inode.ino
        inos["twin"] = store.clone_file(lab, inos["f"], lab, ROOT_INO, b"twin").ino
        lab.write(inos["twin"], 0, os.urandom(BLOCK))
        inos["l"] = lab.symlink(ROOT_INO, b"l", b"x" * 1500, 0, 0).ino
        lab.set_xattr(inos["f"], b"user.big", bytes(2500))
        lab.set_mark(inos["d"], b"vm", b"payload")
        lab.link(inos["g"], ROOT_INO, b"second")
        store.create_snapshot(lab, "monday")
        store.clone_volume(lab, "test")
        lab.write(inos["g"], 0, os.urandom(BLOCK))
        gone = lab.create(ROOT_INO, b"gone", 0o644, 0, 0)
        lab.write(gone.ino, 0, os.urandom(20 * BLOCK))
        store.commit()
        lab.unlink(ROOT_INO, b"gone")  # its map waits in the reclaim queue
        store.records.put("key", b"value")
    return inos


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    path = tmp_path_factory.mktemp("sound") / "store"
    return path, build(path)


class Case:
    """A store of one's own to break."""

    def __init__(self, path: Path, inos: dict[str, int]) -> None:
        self.path = path
        self.inos = inos

    def file(self, slab: int) -> Path:
        return self.path / "slabs" / f"{slab:08d}.slab"

    def slots(self, path: str) -> list[int]:
        with Store.open(self.path, read_only=True) as store:
            lab = store.volume("lab")
            return slots_of(lab, lab.resolve(path))


@pytest.fixture
def case(sound: tuple[Path, dict[str, int]], tmp_path: Path) -> Case:
    shutil.copytree(sound[0], tmp_path / "store")
    return Case(tmp_path / "store", sound[1])


BREAKERS: dict[str, tuple[str, Callable[[Case, Surgery], None]]] = {}


def breaks(check: str) -> Callable[[Callable[[Case, Surgery], None]], None]:
    def note(breaker: Callable[[Case, Surgery], None]) -> None:
        BREAKERS[f"{check}: {breaker.__name__}"] = (check, breaker)

    return note


@breaks("F1")
def node_counter_behind(_: Case, s: Surgery) -> None:
    s.set_state(next_node=s.state().next_node - 1)


@breaks("F1")
def counters_lost(_: Case, s: Surgery) -> None:
    s.put("super", b"state", b"short")


@breaks("F1")
def inode_counter_behind(case: Case, s: Surgery) -> None:
    s.set_state(next_ino=case.inos["l"])


@breaks("F1")
def generation_behind(_: Case, s: Surgery) -> None:
    s.set_state(next_generation=2)


@breaks("F1")
def volume_counter_behind(_: Case, s: Surgery) -> None:
    s.set_state(next_volume=s.volume("test").id)


@breaks("F2")
def extent_node_missing(case: Case, s: Surgery) -> None:
    s.drop_node(s.first_leaf(s.inode("lab", case.inos["g"]).root))


@breaks("F2")
def extent_node_of_another(case: Case, s: Surgery) -> None:
    one, two = (s.first_leaf(s.inode("lab", case.inos[n]).root) for n in ("g", "twin"))
    s.put_node(one, s.meta.read_node(two))


@breaks("F2")
def extent_node_flipped(case: Case, s: Surgery) -> None:
    node_id = s.first_leaf(s.inode("lab", case.inos["g"]).root)
    raw = bytearray(s.meta.read_node(node_id))
    raw[60] ^= 4
    s.put_node(node_id, bytes(raw))


@breaks("F3")
def keys_out_of_order(case: Case, s: Surgery) -> None:
    node = s.leaf("lab", keys.inode_key(case.inos["f"]))
    node.keys[:2], node.vals[:2] = node.keys[1::-1], node.vals[1::-1]
    s.store(node)


@breaks("F3")
def record_of_no_kind(_: Case, s: Surgery) -> None:
    s.set_record("lab", b"Z" + bytes(8), b"?")


@breaks("F3")
def inode_record_short(case: Case, s: Surgery) -> None:
    s.set_record("lab", keys.inode_key(99), b"short")


@breaks("F4")
def counts_wrong(case: Case, s: Surgery) -> None:
    root = s.inode("lab", case.inos["g"]).root
    header, words = s.extent(root)
    words[0] = (words[0][0], words[0][1] - 1)
    header[7] -= 1
    s.set_extent(root, header, words)
    s.set_inode("lab", case.inos["g"], blocks=s.inode("lab", case.inos["g"]).blocks - 1)
    s.set_volume("lab", blocks=s.volume("lab").blocks - 1)


@breaks("F4")
def entry_without_its_flag(case: Case, s: Surgery) -> None:
    leaf = s.first_leaf(s.inode("lab", case.inos["g"]).root)
    header, words = s.extent(leaf)
    words[0] = (words[0][0] & ~(1 << 48), words[0][1])
    s.set_extent(leaf, header, words)


@breaks("F4")
def blocks_past_the_end(case: Case, s: Surgery) -> None:
    size = s.inode("lab", case.inos["g"]).size
    s.set_inode("lab", case.inos["g"], size=4 * BLOCK)
    s.set_volume("lab", logical_bytes=s.volume("lab").logical_bytes - size + 4 * BLOCK)


@breaks("F4")
def height_wrong(case: Case, s: Surgery) -> None:
    s.set_inode("lab", case.inos["g"], height=s.inode("lab", case.inos["g"]).height + 1)


@breaks("F5")
def cookie_record_missing(case: Case, s: Surgery) -> None:
    s.set_record("lab", keys.cookie_key(case.inos["d"], 4), None)


@breaks("F5")
def name_record_missing(case: Case, s: Surgery) -> None:
    """Found, and put back, from the record by cookie alone (the counts miss it as well)."""
    s.set_record("lab", keys.name_key(case.inos["d"], b"f"), None)


@breaks("F5")
def entry_of_no_inode(case: Case, s: Surgery) -> None:
    without_others(s)
    d = case.inos["d"]
    cookie = s.inode("lab", d).next_cookie
    enter(s, d, DirEntry(b"ghost", 12345, stat.S_IFREG, cookie))
    s.set_inode("lab", d, next_cookie=cookie + 1, entries=s.inode("lab", d).entries + 1)


@breaks("F5")
def entry_of_another_type(case: Case, s: Surgery) -> None:
    d = case.inos["d"]
    enter(s, d, DirEntry(b"f", case.inos["f"], stat.S_IFIFO, 4))


@breaks("F5")
def name_no_directory_may_hold(case: Case, s: Surgery) -> None:
    without_others(s)
    cookie = s.inode("lab", ROOT_INO).next_cookie
    enter(s, ROOT_INO, DirEntry(b"a/b", case.inos["g"], stat.S_IFREG, cookie))
    s.set_inode("lab", ROOT_INO, next_cookie=cookie + 1, entries=5)
    s.set_inode("lab", case.inos["g"], nlink=3)


def without_others(s: Surgery) -> None:
    """What shares nodes with lab goes, so that a change of them is a change of lab alone."""
    for name in ("monday", "test"):
        s.delete("volumes", s.volume(name).id.to_bytes(8, "big"))


def enter(s: Surgery, parent: int, entry: DirEntry) -> None:
    by_name = keys.pack_by_name(entry.cookie, entry.ino, entry.kind)
    s.set_record("lab", keys.name_key(parent, entry.name), by_name)
    by_cookie = keys.pack_by_cookie(entry.ino, entry.kind, entry.name)
    s.set_record("lab", keys.cookie_key(parent, entry.cookie), by_cookie)


@breaks("F6")
def link_count_wrong(case: Case, s: Surgery) -> None:
    s.set_inode("lab", case.inos["g"], nlink=7)


@breaks("F6")
def inode_without_a_name(case: Case, s: Surgery) -> None:
    without_others(s)
    s.set_record("lab", keys.name_key(ROOT_INO, b"twin"), None)
    s.set_record("lab", keys.cookie_key(ROOT_INO, 4), None)
    s.set_inode("lab", ROOT_INO, entries=3)


@breaks("F6")
def directories_in_a_ring(case: Case, s: Surgery) -> None:
    without_others(s)
    d, e = case.inos["d"], case.inos["e"]
    s.set_record("lab", keys.name_key(ROOT_INO, b"d"), None)
    s.set_record("lab", keys.cookie_key(ROOT_INO, 3), None)
    enter(s, e, DirEntry(b"d", d, stat.S_IFDIR, 3))
    s.set_inode("lab", e, next_cookie=4, entries=1, nlink=3)
    s.set_inode("lab", d, parent=e, parent_cookie=3)
    s.set_inode("lab", ROOT_INO, entries=3, nlink=2)


@breaks("F6")
def directory_with_another_parent(case: Case, s: Surgery) -> None:
    s.set_inode("lab", case.inos["e"], parent=ROOT_INO)


@breaks("F7")
def entry_count_wrong(case: Case, s: Surgery) -> None:
    s.set_inode("lab", case.inos["d"], entries=17)


@breaks("F7")
def totals_wrong(_: Case, s: Surgery) -> None:
    s.set_volume("lab", logical_bytes=1)


@breaks("F8")
def slot_not_allocated(case: Case, s: Surgery) -> None:
    set_bits(s, case.slot, allocated=False)


@breaks("F9")
def owned_slot_mapped_twice(case: Case, s: Surgery) -> None:
    """Block 0 of g, written after the clone, is owned; another leaf names its slot too."""
    _, words = s.extent(s.first_leaf(s.inode("lab", case.inos["g"]).root))
    leaf = s.first_leaf(s.inode("lab", case.inos["twin"]).root)
    other_header, other = s.extent(leaf)
    assert words[0][0] >> 49 & 1
    other[1] = (words[0][0] & ~(1 << 49), words[0][1])
    s.set_extent(leaf, other_header, other)


@breaks("F10")
def content_flipped(case: Case, _: Surgery) -> None:
    slab, slot = divmod(case.slot, 64)
    with case.file(slab).open("r+b") as file:
        file.seek(slot * BLOCK + 9)
        was = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([was ^ 1]))


@breaks("F11")
def shared_node_thought_owned(case: Case, s: Surgery) -> None:
    s.set_volume("test", shared_epoch=0)


@breaks("F12")
def target_cut(case: Case, s: Surgery) -> None:
    s.set_record("lab", keys.target_key(case.inos["l"], 1), None)


@breaks("F12")
def attribute_without_its_middle(case: Case, s: Surgery) -> None:
    s.set_record("lab", keys.xattr_key(case.inos["f"], b"user.big", 1), None)


@breaks("F12")
def mark_with_one_record(case: Case, s: Surgery) -> None:
    s.set_record("lab", keys.mark_of_inode_key(case.inos["d"], b"vm"), None)


@breaks("F12")
def mark_that_its_inode_denies(case: Case, s: Surgery) -> None:
    s.set_inode("lab", case.inos["d"], flags=0)


@breaks("F13")
def two_volumes_of_one_name(_: Case, s: Surgery) -> None:
    s.set_volume("test", name="lab")


@breaks("F13")
def name_with_a_slash(_: Case, s: Surgery) -> None:
    s.set_volume("test", name="a/b")


@breaks("F13")
def snapshot_of_nothing(_: Case, s: Surgery) -> None:
    s.set_volume("monday", parent_id=77)


@breaks("F13")
def volume_under_another_number(_: Case, s: Surgery) -> None:
    s.set_volume("test", id=s.volume("test").id)
    key, record = s.volume("test").id.to_bytes(8, "big"), s.volume("test")
    record.id = 1
    s.put("volumes", key, record.pack())


@breaks("F13")
def volume_record_short(_: Case, s: Surgery) -> None:
    s.put("volumes", s.volume("test").id.to_bytes(8, "big"), b"short")


@breaks("F14")
def bits_past_the_slab(_: Case, s: Surgery) -> None:
    raw = bytearray(s.meta.get("slots", chunk_key(0, 0)))
    raw[700] = 1
    s.put("slots", chunk_key(0, 0), bytes(raw))


@breaks("F14")
def bits_of_no_slab(_: Case, s: Surgery) -> None:
    s.put("slots", chunk_key(50, 0), b"\1" + bytes(2047))


@breaks("F14")
def shared_but_free(_: Case, s: Surgery) -> None:
    last = s.state().slabs - 1
    raw = bytearray(s.meta.get("slots", chunk_key(last, 0)))
    assert not raw[7] & 128
    raw[1024 + 7] |= 128
    s.put("slots", chunk_key(last, 0), bytes(raw))


@breaks("F15")
def slab_file_cut(case: Case, _: Surgery) -> None:
    os.truncate(case.file(0), 5 * BLOCK)


@breaks("F16")
def orphan_of_no_volume(case: Case, s: Surgery) -> None:
    inode = s.inode("lab", case.inos["d"])
    s.put("orphans", orphan_key(77, 5), inode.pack())


@breaks("F16")
def orphan_with_a_name(case: Case, s: Surgery) -> None:
    ino = case.inos["d"]
    s.put("orphans", orphan_key(s.volume("lab").id, ino), s.inode("lab", ino).pack())


@breaks("F16")
def orphan_that_does_not_parse(_: Case, s: Surgery) -> None:
    s.put("orphans", b"odd", b"?")


@breaks("F17")
def index_of_slots_that_are_not_there(case: Case, _: Surgery) -> None:
    with (case.path / "index" / "fingerprints").open("ab") as file:
        file.write(b"\xff" * 16)


@breaks("F17")
def run_of_the_index_that_is_cut(case: Case, _: Surgery) -> None:
    (case.path / "index" / f"0-{1:016x}-{1:016x}.run").write_bytes(bytes(8192))


@breaks("F18")
def bytes_past_the_end(case: Case, s: Surgery) -> None:
    size = s.inode("lab", case.inos["g"]).size
    s.set_inode("lab", case.inos["g"], size=size - 1)
    s.set_volume("lab", logical_bytes=s.volume("lab").logical_bytes - 1)


@breaks("F19")
def record_key_that_is_no_text(_: Case, s: Surgery) -> None:
    s.put("records", b"\xff\xfe", b"?")


@breaks("F20")
def queue_entry_that_does_not_parse(_: Case, s: Surgery) -> None:
    s.put("reclaim", b"odd", b"?")


@breaks("F20")
def queue_entry_of_no_node(_: Case, s: Surgery) -> None:
    s.put("reclaim", (1 << 40).to_bytes(8, "big"), Entry(1 << 40, EXTENT, 0, 0).pack())


@breaks("F20")
def queue_entry_of_the_wrong_kind(_: Case, s: Surgery) -> None:
    root = s.volume("lab").root
    s.put("reclaim", root.to_bytes(8, "big"), Entry(root, EXTENT, 0, 1 << 40).pack())


@breaks("F20")
def queue_entry_of_the_wrong_level(case: Case, s: Surgery) -> None:
    leaf = s.first_leaf(s.inode("lab", case.inos["g"]).root)
    s.put("reclaim", leaf.to_bytes(8, "big"), Entry(leaf, EXTENT, 3, 1 << 40).pack())


def set_bits(s: Surgery, address: int, *, allocated: bool) -> None:
    slab, slot = divmod(address, 64)
    raw = bytearray(s.meta.get("slots", chunk_key(slab, 0)))
    mask = 1 << (slot & 7)
    raw[slot >> 3] = raw[slot >> 3] | mask if allocated else raw[slot >> 3] & ~mask
    raw[1024 + (slot >> 3)] &= ~mask
    s.put("slots", chunk_key(slab, 0), bytes(raw))


ALSO = {  # what a missing record of one kind says of others as well
    "name_record_missing": {"F5", "F6", "F7"},
    "slab_file_cut": {"F15", "F10"},
    "extent_node_of_another": {"F2"},
}
LOST = {"F2", "F10", "F15", "F18"}  # what no repair can bring back


@breaks("F21")
def damaged_record_of_the_intent_log(case: Case, s: Surgery) -> None:
    log = IntentLog(case.path, s.seed, 1 << 20)
    log.prepare()
    ino, commit = case.inos["g"], s.state().commits + 1
    write = Logged(
        s.volume("lab").id, ino, s.inode("lab", ino).generation, 1, 0, 0, memoryview(b"x")
    )
    for record in (log.record(commit, [write]), log.record(commit, [write])):
        assert record is not None
        log.write(record)
    log.close(remove=False)
    with (case.path / LOG_FILE).open("r+b") as file:
        file.seek(commit % 2 << 20)
        file.write(b"?")


@pytest.mark.parametrize("name", BREAKERS)
def test_a_broken_invariant_is_found_under_its_name_and_repaired(name: str, case: Case) -> None:
    check, breaker = BREAKERS[name]
    case.slot = case.slots("/d/g")[0]
    with Surgery(case.path) as surgery:
        breaker(case, surgery)
    before = fingerprint(case.path)
    found = {finding.check for finding in check_path(case.path, data=True).findings}
    assert check in found
    assert found <= ALSO.get(breaker.__name__, {check}), check_path(case.path).findings
    assert fingerprint(case.path) == before, "fsck changed the store"

    first = repair(case.path, data=True)
    left = {finding.check for finding in first.left.findings}
    assert left <= LOST
    assert left == (found & LOST), first.left.findings
    second = repair(case.path, data=True)
    assert second.repaired == []
    assert {f.check for f in second.left.findings} == left
    with Store.open(case.path) as store:  # it opens, and works
        lab = store.volume("lab")
        lab.create(ROOT_INO, b"new", 0o644, 0, 0)
        if "F2" not in left:
            store.commit()
            store.gc()


def test_every_check_has_a_test_that_breaks_it_and_a_line_in_the_format() -> None:
    assert {check for check, _ in BREAKERS.values()} == set(CHECKS)
    text = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text()
    assert re.findall(r"^- \*\*(F\d+)\*\*", text, re.M) == list(CHECKS)


def test_a_sound_store_is_clean_and_repair_leaves_it_alone(case: Case) -> None:
    before = fingerprint(case.path)
    assert check_path(case.path, data=True).findings == []
    assert repair(case.path).repaired == []
    assert fingerprint(case.path) == before


def test_a_store_without_a_superblock_is_refused(case: Case) -> None:
    with Surgery(case.path) as surgery:
        surgery.put("super", SUPERBLOCK_KEY, b"RAMETSB1")
    for call in (check_path, repair, Store.open):
        with pytest.raises(errors.Corrupt):
            call(case.path)


def test_keys_below_the_first_separator_are_in_order(tmp_path: Path) -> None:
    """Attributes fill the root's tree first; names, which sort before them, come later."""
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        for n in range(10):
            lab.set_xattr(ROOT_INO, b"user.%d" % n, bytes(3000))
        for n in range(300):
            lab.create(ROOT_INO, b"f%d" % n, 0o644, 0, 0)
    assert check_path(tmp_path / "store").findings == []


def test_what_has_lost_its_place_is_in_lost_and_found(case: Case) -> None:
    with Surgery(case.path) as surgery:
        directories_of_a_lost_one(case, surgery)
    assert repair(case.path).left.clean
    with Store.open(case.path) as store:
        lab = store.volume("lab")
        found = {e.name for e in lab.readdir(lab.resolve("/lost+found").ino)}
        assert found == {b"#%d" % case.inos[name] for name in ("e", "f")}
        f = lab.resolve(f"/lost+found/#{case.inos['f']}")
        assert len(lab.read(f.ino, 0, 1 << 20)) == 30 * BLOCK - 100
        assert lab.resolve("/second").ino == case.inos["g"]


def directories_of_a_lost_one(case: Case, s: Surgery) -> None:
    s.set_record("lab", keys.inode_key(case.inos["d"]), None)


def test_a_slot_that_lost_its_bit_is_not_handed_out_again(case: Case) -> None:
    slot = case.slots("/d/g")[0]
    with Surgery(case.path) as surgery:
        set_bits(surgery, slot, allocated=False)
    assert repair(case.path).left.clean
    with Store.open(case.path) as store:
        lab = store.volume("lab")
        before = lab.read(case.inos["g"], 0, BLOCK)
        assert store.pool.core.shared(slot)
        lab.write(lab.create(ROOT_INO, b"new", 0o644, 0, 0).ino, 0, os.urandom(99 * BLOCK))
        store.commit()
        store.gc()
        assert lab.read(case.inos["g"], 0, BLOCK) == before
    assert check_path(case.path, data=True).clean
