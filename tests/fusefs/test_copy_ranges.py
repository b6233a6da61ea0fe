"""copy_file_range(2) as its manual page says, on any two files of a mount."""

import errno
import os
import random
from pathlib import Path

import pytest
from chance import SEED
from mounted import Mount

BLOCK = 4096
STEPS = 400


def refused(source: int, target: int, length: int, at: int, to: int) -> int:
    with pytest.raises(OSError) as caught:
        os.copy_file_range(source, target, length, at, to)
    assert caught.value.errno is not None
    return caught.value.errno


def test_any_ranges_of_any_files_are_those_of_a_model(shared: Mount) -> None:
    choose = random.Random(SEED)
    files: list[tuple[int, bytearray]] = []
    for volume in ("lab", "other"):
        for name in ("a", "b"):
            data = choose.randbytes(choose.randrange(20 * BLOCK))
            (shared.root / volume / name).write_bytes(data)
            fd = os.open(shared.root / volume / name, os.O_RDWR)
            files.append((fd, bytearray(data)))
    for _ in range(STEPS):
        (source, have), (target, into) = choose.choice(files), choose.choice(files)
        unit = choose.choice((1, BLOCK))
        at, to = (choose.randrange(24 * BLOCK) // unit * unit for _ in range(2))
        length = choose.randrange(1, 12 * BLOCK)
        piece = bytes(have[at : at + length])
        if source == target and abs(at - to) < len(piece):  # they overlap
            assert refused(source, target, length, at, to) == errno.EINVAL
            continue
        assert os.copy_file_range(source, target, length, at, to) == len(piece)
        if piece:
            into.extend(bytes(max(0, to - len(into))))
            into[to : to + len(piece)] = piece
        assert os.fstat(target).st_size == len(into)
    for fd, expected in files:
        assert os.pread(fd, 1 << 20, 0) == expected
        os.close(fd)


def test_from_a_snapshot_and_not_into_one(shared: Mount, tmp_path: Path) -> None:
    source, target = shared.lab / "source", shared.lab / "target"
    source.write_bytes(os.urandom(3 * BLOCK))
    target.touch()
    past = shared.lab / ".snapshots" / "empty"
    os.listdir(past)
    reading, writing = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR)
    appending, folder = os.open(target, os.O_WRONLY | os.O_APPEND), os.open(past, os.O_RDONLY)
    outside = os.open(tmp_path / "outside", os.O_RDWR | os.O_CREAT)
    assert os.copy_file_range(reading, writing, BLOCK, 1 << 40, 0) == 0  # past the end
    assert os.copy_file_range(reading, writing, 1 << 40, 2 * BLOCK + 9, 0) == BLOCK - 9
    assert refused(reading, appending, BLOCK, 0, 0) == errno.EBADF
    assert refused(writing, reading, BLOCK, 0, 0) == errno.EBADF
    assert refused(folder, writing, BLOCK, 0, 0) == errno.EISDIR
    assert refused(reading, outside, BLOCK, 0, 0) == errno.EXDEV
    assert refused(reading, writing, BLOCK, 0, 1 << 50) == errno.EFBIG
    assert target.read_bytes() == source.read_bytes()[2 * BLOCK + 9 :]
    for fd in (reading, writing, appending, folder, outside):
        os.close(fd)
