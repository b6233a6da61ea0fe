"""What is looked at before a change is all that the change reads: it never waits for the disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume
from engine.cold import read_only

BLOCK = 4096
NAMES = 60


class Case:
    """A volume with deep trees, of which nothing is in memory."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lab = lab = store.create_volume("lab")
        self.top = lab.mkdir(ROOT_INO, b"top", 0o755, 0, 0).ino
        self.other = lab.mkdir(ROOT_INO, b"other", 0o755, 0, 0).ino
        for n in range(NAMES):
            ino = lab.create(self.top, b"file %d" % n, 0o644, 0, 0).ino
            lab.set_xattr(ino, b"user.a", b"value" * 300)
            lab.mkdir(self.other, b"dir %d" % n, 0o755, 0, 0)
            lab.symlink(self.other, b"link %d" % n, b"target" * 100, 0, 0)
        self.file = lab.lookup(self.top, b"file 7").ino
        self.twin = lab.lookup(self.top, b"file 9").ino
        for n in range(0, 400, 2):
            lab.write(self.file, n * BLOCK, b"%d" % n * 900)
            lab.write(self.twin, n * BLOCK, b"%d" % (n + 1) * 900)
        store.commit()
        self.forget()

    def forget(self) -> None:
        self.store.pool.core.forget()
        self.store.pool.nodes._nodes.clear()
        self.lab.drop_caches()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    Store.create(tmp_path / "store", fanout=8, records_max=4)
    with Store.open(tmp_path / "store") as store:
        yield Case(store)


Step = Callable[[Case, Volume], object]


def names(*looks: tuple[str, bytes]) -> Step:
    def look(case: Case, lab: Volume) -> None:
        for directory, name in looks:
            lab.look_at_name(getattr(case, directory), name)

    return look


def clone(case: Case, lab: Volume) -> None:
    case.store.clone_range(lab, case.file, 3 * BLOCK, lab, case.twin, 10 * BLOCK, 50 * BLOCK)


def look_at_both(case: Case, lab: Volume) -> None:
    lab.look_at_map(case.file, 3 * BLOCK, 50 * BLOCK)
    lab.look_at_map(case.twin, 10 * BLOCK, 50 * BLOCK)


CHANGES: dict[str, tuple[Step, Step]] = {
    "create": (
        names(("top", b"file 7a")),
        lambda c, lab: lab.create(c.top, b"file 7a", 0o644, 0, 0),
    ),
    "mkdir": (names(("other", b"dir x")), lambda c, lab: lab.mkdir(c.other, b"dir x", 0, 0, 0)),
    "symlink": (
        names(("other", b"link x")),
        lambda c, lab: lab.symlink(c.other, b"link x", b"t" * 2000, 0, 0),
    ),
    "unlink": (names(("top", b"file 30")), lambda c, lab: lab.unlink(c.top, b"file 30")),
    "unlink a symlink": (
        names(("other", b"link 30")),
        lambda c, lab: lab.unlink(c.other, b"link 30"),
    ),
    "rmdir": (names(("other", b"dir 30")), lambda c, lab: lab.rmdir(c.other, b"dir 30")),
    "rename": (
        names(("top", b"file 20"), ("other", b"new")),
        lambda c, lab: lab.rename(c.top, b"file 20", c.other, b"new"),
    ),
    "rename over another": (
        names(("top", b"file 20"), ("top", b"file 41")),
        lambda c, lab: lab.rename(c.top, b"file 20", c.top, b"file 41"),
    ),
    "exchange": (
        names(("top", b"file 20"), ("other", b"dir 41")),
        lambda c, lab: lab.rename(c.top, b"file 20", c.other, b"dir 41", 2),
    ),
    "set an attribute": (
        lambda c, lab: lab.look_at_xattr(c.file, b"user.a"),
        lambda c, lab: lab.set_xattr(c.file, b"user.a", b"other" * 900),
    ),
    "remove an attribute": (
        lambda c, lab: lab.look_at_xattr(c.file, b"user.a"),
        lambda c, lab: lab.remove_xattr(c.file, b"user.a"),
    ),
    "cut": (
        lambda c, lab: lab.look_at_cut(c.file, 100 * BLOCK),
        lambda c, lab: lab.setattr(c.file, size=100 * BLOCK),
    ),
    "punch": (
        lambda c, lab: lab.look_at_map(c.file, 10 * BLOCK, 200 * BLOCK),
        lambda c, lab: lab.punch(c.file, 10 * BLOCK, 200 * BLOCK),
    ),
    "clone of a range": (look_at_both, clone),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reads_what_was_looked_at(name: str, case: Case) -> None:
    look, change = CHANGES[name]
    pool, waits, reads = case.store.pool, 0, 0
    steps = read_only(pool, lambda: look(case, case.lab))
    for work in steps:
        work()
        waits += 1
    assert waits > 1

    load, read = pool.nodes._load, pool.core._load_node

    def counted(of: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def loaded(node: int) -> bytes:
            nonlocal reads
            reads += 1
            return of(node)

        return loaded

    pool.nodes._load, pool.core._load_node = counted(load), counted(read)
    change(case, case.lab)
    assert reads == 0


@pytest.mark.parametrize("name", CHANGES)
def test_a_look_changes_nothing(name: str, case: Case) -> None:
    CHANGES[name][0](case, case.lab)
    assert not case.store.dirty
