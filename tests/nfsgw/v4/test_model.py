"""Contents over NFSv4.2 against plain bytes: any order of writes, holes, clones and copies.

A model of a file is its bytes; a block of zeroes is a hole, always, so SEEK and READ_PLUS have one
right answer. What a clone or copy must refuse is told from the sizes alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import nfs4_ops as ops
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nfs4_direct import Client, Gateway, gateway
from nfs4_ops import u64

from engine import ROOT_INO, fsck
from nfsgw.v4.fattr import Attr
from nfsgw.v4.protocol import Status

BLOCK = 4096
SIZE_MAX = 20 * BLOCK
FILES = ("lab/a", "lab/b", "other/c")
DATA, HOLE = 0, 1

near = st.sampled_from([-1, 0, 0, 0, 0, 1, 77])
offsets = st.builds(lambda block, by: max(block * BLOCK + by, 0), st.integers(0, 20), near)
lengths = st.builds(lambda block, by: max(block * BLOCK + by, 1), st.integers(0, 9), near)
aligned = st.integers(0, 16).map(lambda block: block * BLOCK)
files = st.sampled_from(FILES)


class Write(NamedTuple):
    file: str
    offset: int
    length: int
    filler: int


class Range(NamedTuple):
    """DEALLOCATE, ALLOCATE, READ, READ_PLUS."""

    what: str
    file: str
    offset: int
    length: int


class Pair(NamedTuple):
    """CLONE, COPY; no length: to the end."""

    what: str
    source: str
    offset: int
    file: str
    target_offset: int
    length: int


class Other(NamedTuple):
    """size, seek, commit."""

    what: str
    file: str
    offset: int


operations = st.lists(
    st.builds(Write, files, offsets, lengths, st.integers(0, 3))
    | st.builds(
        Range, st.sampled_from(["deallocate", "allocate", "read", "plus"]), files, offsets, lengths
    )
    | st.builds(Pair, st.just("clone"), files, aligned, files, aligned, st.just(0) | aligned)
    | st.builds(Pair, st.just("copy"), files, offsets, files, offsets, st.just(0) | lengths)
    | st.builds(Other, st.sampled_from(["size", "seek", "snapshot", "commit"]), files, offsets),
    min_size=1,
    max_size=25,
)


class Rig:
    """Three files and their models."""

    def __init__(self, gate: Gateway) -> None:
        self.gate, self.client = gate, Client(gate)
        for file in FILES:
            volume, name = file.split("/")
            gate.store.volume(volume).create(ROOT_INO, name.encode(), 0o644, 0, 0)
        self.at = {file: ops.put_fh(self.client.handle("/" + file)) for file in FILES}
        self.bytes = {file: bytearray() for file in FILES}
        self.snapshots = 0

    def do(self, each: Write | Range | Pair | Other) -> None:
        match each:
            case Write():
                data = bytes((each.filler * 85 + n // BLOCK) % 256 for n in range(each.length))
                if not each.filler:
                    data = bytes(each.length)
                self.client.ok(self.at[each.file], ops.write(each.offset, data))
                self.put(each.file, each.offset, data)
            case Pair():
                getattr(self, each.what)(*each[1:])
            case _:
                getattr(self, each.what)(*each[1:])
        self.plus(each.file, each.offset, 3 * BLOCK)
        self.seek(each.file, each.offset)
        found = self.client.ok(self.at[each.file], ops.getattr_([Attr.SIZE, Attr.SPACE_USED]))
        assert ops.read_attributes(found.last()) == {
            Attr.SIZE: len(self.bytes[each.file]),
            Attr.SPACE_USED: BLOCK * sum(self.mapped(each.file)),
        }

    # --- the model

    def put(self, file: str, offset: int, data: bytes) -> None:
        past = self.bytes[file]
        past.extend(bytes(max(offset + len(data) - len(past), 0)))
        past[offset : offset + len(data)] = data

    def mapped(self, file: str) -> list[bool]:
        """Of each block, whether it is no hole."""
        data = self.bytes[file]
        return [any(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]

    def runs(self, file: str, start: int, end: int) -> list[tuple[int, int, bytes | int]]:
        """READ_PLUS: data with its bytes, holes with their length."""
        found: list[tuple[int, int, bytes | int]] = []
        mapped = self.mapped(file)
        while start < end:
            kind = mapped[start // BLOCK]
            stop = start - start % BLOCK + BLOCK
            while stop < end and mapped[stop // BLOCK] == kind:
                stop += BLOCK
            stop = min(stop, end)
            data = bytes(self.bytes[file][start:stop])
            found.append((DATA, start, data) if kind else (HOLE, start, stop - start))
            start = stop
        return found

    # --- operations and what they should do

    def deallocate(self, file: str, offset: int, length: int) -> None:
        self.client.ok(self.at[file], ops.deallocate(offset, length))
        data = self.bytes[file]
        end = min(offset + length, len(data))
        data[offset:end] = bytes(max(end - offset, 0))

    def allocate(self, file: str, offset: int, length: int) -> None:
        self.client.ok(self.at[file], ops.allocate(offset, length))
        data = self.bytes[file]
        data.extend(bytes(max(offset + length - len(data), 0)))

    def read(self, file: str, offset: int, length: int) -> None:
        result = self.client.ok(self.at[file], ops.read(offset, length)).last()
        data = self.bytes[file]
        assert result.boolean() == (offset + length >= len(data))
        assert result.opaque(1 << 20) == data[offset : offset + length]

    def plus(self, file: str, offset: int, length: int) -> None:
        result = self.client.ok(self.at[file], ops.read_plus(offset, length)).last()
        size = len(self.bytes[file])
        assert result.boolean() == (offset + length >= size)
        found = []
        for _ in range(result.u32()):
            kind, at = result.u32(), result.u64()
            found.append((kind, at, result.u64() if kind else bytes(result.opaque(1 << 20))))
        assert found == self.runs(file, offset, min(offset + length, size))

    def size(self, file: str, size: int) -> None:
        self.client.ok(self.at[file], ops.setattr_({Attr.SIZE: u64(size)}))
        data = self.bytes[file]
        del data[size:]
        data.extend(bytes(size - len(data)))

    def seek(self, file: str, offset: int) -> None:
        size = len(self.bytes[file])
        for what in (DATA, HOLE):
            call = ops.seek(offset, what)
            if offset >= size:
                assert self.client.fails(self.at[file], call) == Status.NXIO
                continue
            result = self.client.ok(self.at[file], call).last()
            runs = self.runs(file, offset, size)
            expected = next((at for kind, at, _ in runs if kind == what), size)
            assert (result.boolean(), result.u64()) == (expected >= size, expected)

    def commit(self, file: str, offset: int) -> None:
        self.client.ok(self.at[file], ops.commit())

    def snapshot(self, file: str, offset: int) -> None:
        """Nothing changes, but that everything is shared."""
        self.snapshots += 1
        volume = self.gate.store.volume(file.split("/", maxsplit=1)[0])
        self.gate.store.create_snapshot(volume, f"s{self.snapshots}")

    def clone(self, source: str, offset: int, file: str, target_offset: int, length: int) -> None:
        past, size = self.bytes[source], len(self.bytes[file])
        count = length or len(past) - offset
        bad = offset > len(past) or offset + length > len(past) or (
            count % BLOCK and target_offset + count < size
        ) or (source == file and abs(offset - target_offset) < count)  # fmt: skip
        self._pair(ops.clone, source, offset, file, target_offset, length, bool(bad))

    def copy(self, source: str, offset: int, file: str, target_offset: int, length: int) -> None:
        past = self.bytes[source]
        count = length or len(past) - offset
        bad = offset > len(past) or offset + length > len(past) or (
            source == file and abs(offset - target_offset) < count
        )  # fmt: skip
        self._pair(ops.copy, source, offset, file, target_offset, length, bool(bad))

    def _pair(self, call, source, offset, file, target_offset, length, bad) -> None:  # type: ignore[no-untyped-def]
        pair = (self.at[source], ops.save_fh(), self.at[file])
        call = call(offset, target_offset, length)
        if bad:
            assert self.client.fails(*pair, call) == Status.INVAL
            return
        self.client.ok(*pair, call)
        past = bytes(self.bytes[source])
        data = past[offset : offset + length] if length else past[offset:]
        if data:
            self.put(file, target_offset, data)

    def check(self) -> None:
        for file in FILES:
            self.read(file, 0, SIZE_MAX * 3)
            self.plus(file, 0, SIZE_MAX * 3)


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    path = tmp_path_factory.mktemp("nfs4") / "store"
    with gateway(path, fanout=4, records_max=8, slab_slots=256) as made:
        yield made


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=operations)
def test_files_are_what_plain_bytes_would_be(
    hall: Gateway, script: list[Write | Range | Pair | Other]
) -> None:
    with hall.volumes("lab", "other") as gate:
        rig = Rig(gate)
        for each in script:
            rig.do(each)
        rig.check()
        gate.store.commit()
        assert fsck.check(gate.store, data=True).findings == []
        rig.check()
