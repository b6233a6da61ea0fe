"""Any sequence of NFSv3 calls against a model of dicts and bytes, through the real server.

The model knows objects by identity, so hard links, handles of removed files and renames of whole
trees are in it; each step that fails must fail with the status the model has for it, and change
nothing: at the end the whole tree is compared, attributes, contents, listings.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from exported import exported
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from nfs3_client import (
    DIR,
    EXIST,
    FILE_SYNC,
    INVAL,
    ISDIR,
    LNK,
    NOENT,
    NOTDIR,
    NOTEMPTY,
    PERM,
    REG,
    STALE,
    UNSTABLE,
    Failed3,
    Nfs3Client,
)

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff long " * 30])
OFFSETS = st.sampled_from([0, 1, 4095, 4096, 8191, 20_000])
SIZES = st.sampled_from([0, 1, 100, 4096, 5000, 12_288])
_numbers = itertools.count()


class Object:
    """A file, symlink or directory of the model."""

    def __init__(self, kind: int, handle: bytes, target: bytes = b"") -> None:
        self.kind, self.handle, self.target = kind, handle, target
        self.data = bytearray()
        self.mode = 0
        self.names = 1
        self.entries: dict[bytes, Object] = {}
        self.parent: Object | None = None

    def below(self, other: "Object") -> bool:
        """Whether it is ``other``, or somewhere below it."""
        at: Object | None = self
        while at is not None and at is not other:
            at = at.parent
        return at is other


class Refused(Exception):
    """What the model says to a step."""


def directory(found: Object) -> Object:
    if not found.names:
        raise Refused(STALE)
    if found.kind != DIR:
        raise Refused(NOTDIR)
    return found


def entry(found: Object, name: bytes) -> Object:
    if name not in directory(found).entries:
        raise Refused(NOENT)
    return found.entries[name]


def free(found: Object, name: bytes) -> None:
    if name in directory(found).entries:
        raise Refused(EXIST)


def regular(found: Object) -> Object:
    if not found.names:
        raise Refused(STALE)
    if found.kind != REG:
        raise Refused(ISDIR if found.kind == DIR else INVAL)
    return found


class Machine(RuleBasedStateMachine):
    """One test directory, and what it should hold."""

    objects = Bundle("objects")
    client: Nfs3Client

    def __init__(self) -> None:
        super().__init__()
        lab = self.client.mount(b"/lab")
        made = self.client.mkdir(lab, b"model-%d" % next(_numbers), mode=0o755)
        self.top = Object(DIR, made.handle)
        self.top.mode = 0o755
        self.steps = 0

    @rule(target=objects)
    def root(self) -> Object:
        return self.top

    def agree(self, model, call):  # type: ignore[no-untyped-def]
        """Both, or the same refusal; what the call returned, None when it was refused."""
        try:
            model()
        except Refused as refused:
            with pytest.raises(Failed3) as caught:
                call()
            assert caught.value.status == refused.args[0]
            return None
        return call()

    def _new(self, where: Object, name: bytes, kind: int, made, mode: int, target: bytes = b""):  # type: ignore[no-untyped-def]
        if made is None:
            return multiple()
        found = Object(kind, made.handle, target)
        found.mode, found.parent = mode, where
        where.entries[name] = found
        return found

    @rule(target=objects, where=objects, name=NAMES, mode=st.sampled_from([0o600, 0o751]))
    def create(self, where: Object, name: bytes, mode: int):  # type: ignore[no-untyped-def]
        made = self.agree(
            lambda: free(where, name),
            lambda: self.client.create(where.handle, name, guarded=True, mode=mode),
        )
        return self._new(where, name, REG, made, mode)

    @rule(where=objects, name=NAMES, size=SIZES)
    def create_over(self, where: Object, name: bytes, size: int) -> None:
        if name not in where.entries:
            return

        def model() -> None:
            if entry(where, name).kind != REG:
                raise Refused(EXIST)

        made = self.agree(model, lambda: self.client.create(where.handle, name, size=size))
        if made is not None:
            found = where.entries[name]
            assert made.handle == found.handle
            found.data = found.data[:size].ljust(size, b"\0")

    @rule(target=objects, where=objects, name=NAMES, mode=st.sampled_from([0o700, 0o1755]))
    def mkdir(self, where: Object, name: bytes, mode: int):  # type: ignore[no-untyped-def]
        made = self.agree(
            lambda: free(where, name), lambda: self.client.mkdir(where.handle, name, mode=mode)
        )
        return self._new(where, name, DIR, made, mode)

    @rule(target=objects, where=objects, name=NAMES, to=st.binary(min_size=1, max_size=50))
    def symlink(self, where: Object, name: bytes, to: bytes):  # type: ignore[no-untyped-def]
        to = to.replace(b"\0", b"0")
        made = self.agree(
            lambda: free(where, name), lambda: self.client.symlink(where.handle, name, to)
        )
        return self._new(where, name, LNK, made, 0o777, to)

    @rule(which=objects, offset=OFFSETS, size=SIZES, byte=st.integers(0, 3), sync=st.booleans())
    def write(self, which: Object, offset: int, size: int, byte: int, sync: bool) -> None:
        data = bytes([byte]) * size
        stable = FILE_SYNC if sync else UNSTABLE
        written = self.agree(
            lambda: regular(which), lambda: self.client.write(which.handle, offset, data, stable)
        )
        if written is not None and size:
            which.data = which.data.ljust(offset + size, b"\0")
            which.data[offset : offset + size] = data
            assert written.wcc.after.size == len(which.data)

    @rule(which=objects, offset=OFFSETS, size=SIZES)
    def read(self, which: Object, offset: int, size: int) -> None:
        found = self.agree(
            lambda: regular(which), lambda: self.client.read(which.handle, offset, size)
        )
        if found is not None:
            expected = bytes(which.data[offset : offset + size])
            assert found == (expected, offset + size >= len(which.data))

    @rule(which=objects, size=SIZES, mode=st.sampled_from([None, 0o640]))
    def setattr(self, which: Object, size: int, mode: int | None) -> None:
        wcc = self.agree(
            lambda: regular(which),
            lambda: self.client.setattr(which.handle, size=size, mode=mode),
        )
        if wcc is not None:
            which.data = which.data[:size].ljust(size, b"\0")
            which.mode = which.mode if mode is None else mode

    @rule(which=objects, where=objects, name=NAMES)
    def link(self, which: Object, where: Object, name: bytes) -> None:
        def model() -> None:
            if not which.names:
                raise Refused(STALE)
            directory(where)
            if which.kind == DIR:
                raise Refused(PERM)
            free(where, name)

        if self.agree(model, lambda: self.client.link(which.handle, where.handle, name)):
            where.entries[name] = which
            which.names += 1

    @rule(where=objects, name=NAMES)
    def remove(self, where: Object, name: bytes) -> None:
        def model() -> None:
            if entry(where, name).kind == DIR:
                raise Refused(ISDIR)

        if self.agree(model, lambda: self.client.remove(where.handle, name)):
            where.entries.pop(name).names -= 1

    @rule(where=objects, name=NAMES)
    def rmdir(self, where: Object, name: bytes) -> None:
        def model() -> None:
            found = entry(where, name)
            if found.kind != DIR:
                raise Refused(NOTDIR)
            if found.entries:
                raise Refused(NOTEMPTY)

        if self.agree(model, lambda: self.client.rmdir(where.handle, name)):
            where.entries.pop(name).names -= 1

    @rule(source=objects, name=NAMES, into=objects, new=NAMES)
    def rename(self, source: Object, name: bytes, into: Object, new: bytes) -> None:
        def model() -> None:
            if not (source.names and into.names):
                raise Refused(STALE)
            directory(source)
            directory(into)
            moved = entry(source, name)
            if moved.kind == DIR and into.below(moved):
                raise Refused(INVAL)
            old = into.entries.get(new)
            if old is None or old is moved:
                return
            if old.kind == DIR:
                if moved.kind != DIR:
                    raise Refused(ISDIR)
                if old.entries:
                    raise Refused(NOTEMPTY)
            elif moved.kind == DIR:
                raise Refused(NOTDIR)

        done = self.agree(model, lambda: self.client.rename(source.handle, name, into.handle, new))
        if done and into.entries.get(new) is not source.entries[name]:
            moved = source.entries.pop(name)
            if new in into.entries:
                into.entries[new].names -= 1
            into.entries[new] = moved
            if moved.kind == DIR:
                moved.parent = into

    @rule(which=objects)
    def getattr(self, which: Object) -> None:
        def model() -> None:
            if not which.names:
                raise Refused(STALE)

        found = self.agree(model, lambda: self.client.getattr(which.handle))
        if found is not None:
            assert (found.type, found.mode) == (which.kind, which.mode)

    @invariant()
    def whole_tree(self) -> None:
        """Every fifth step: it is what takes the time."""
        self.steps += 1
        if self.steps % 5 == 0:
            self._compare(self.top)

    def teardown(self) -> None:
        self._compare(self.top)

    def _compare(self, where: Object) -> None:
        listing = self.client.readdirplus(where.handle, maxcount=1 << 20, dircount=1 << 20)
        assert listing.eof
        found = {each.name: each for each in listing.entries if each.name not in (b".", b"..")}
        assert set(found) == set(where.entries)
        subdirectories = 0
        for name, expected in where.entries.items():
            entry, handle = found[name], expected.handle
            assert entry.handle == handle
            attributes = entry.attributes
            assert attributes is not None
            assert attributes == self.client.getattr(handle)
            assert (attributes.type, attributes.mode) == (expected.kind, expected.mode)
            if expected.kind == DIR:
                subdirectories += 1
                self._compare(expected)
                continue
            assert attributes.nlink == expected.names
            if expected.kind == LNK:
                assert self.client.readlink(handle) == expected.target
            else:
                assert self.client.read(handle, 0, 1 << 20) == (bytes(expected.data), True)
        assert self.client.getattr(where.handle).nlink == 2 + subdirectories


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nfs3Client]:
    path: Path = tmp_path_factory.mktemp("model")
    with exported(path) as world:
        made = Nfs3Client(world.address, uid=0)
        yield made
        made.close()


def test_any_sequence_of_calls_is_what_a_model_says(client: Nfs3Client) -> None:
    Machine.client = client
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(max_examples=25, stateful_step_count=40, deadline=None),
    )
