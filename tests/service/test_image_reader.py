"""Images read ahead: all of their data, none of their holes, and a thread that ends."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import image_reader
from service.image_reader import BUFFER_BYTES, BUFFERS, ImageReader, Piece, read_pieces

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    """Data, a hole, data of no whole block, a hole."""
    with (tmp_path / "image").open("w+b") as file:
        file.write(os.urandom(3 * MIB))
        file.seek(8 * MIB)
        file.write(os.urandom(MIB // 2 + 5))
        file.truncate(16 * MIB)
        yield file.fileno()


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def all_pieces(reader: ImageReader) -> list[tuple[int, bytes]]:
    found = []
    while pieces := reader.take():
        found += [(at, bytes(data)) for at, data in pieces]
    return found


def test_all_data_comes_in_order_and_holes_are_left_out(image: int) -> None:
    found = all_pieces(ImageReader(image, lambda: None))
    whole = bytearray(16 * MIB)
    for at, data in found:
        whole[at : at + len(data)] = data
    assert bytes(whole) == os.pread(image, 16 * MIB, 0)
    assert [at for at, _ in found] == sorted(at for at, _ in found)
    assert sum(len(data) for _, data in found) < 4 * MIB


def test_small_ranges_share_a_buffer_and_pieces_end_with_a_block(tmp_path: Path) -> None:
    with (tmp_path / "image").open("w+b") as file:
        for at in range(0, 64 * 65536, 65536):
            os.pwrite(file.fileno(), os.urandom(4096), at)
        os.ftruncate(file.fileno(), 64 * 65536)
        buffer = memoryview(bytearray(MIB))
        pieces, _ = read_pieces(file.fileno(), 0, buffer)
        assert [at for at, _ in pieces] == list(range(0, 64 * 65536, 65536))
        os.pwrite(file.fileno(), os.urandom(2 * MIB), 0)
        pieces, at = read_pieces(file.fileno(), 100, buffer)
        assert at is not None
        assert at % 4096 == 0
        joined = b"".join(data for _, data in pieces)
        assert joined == os.pread(file.fileno(), len(joined), 100)


def test_an_image_that_shrinks_meanwhile_ends_early(image: int) -> None:
    os.ftruncate(image, MIB)
    assert read_pieces(image, 2 * MIB, memoryview(bytearray(MIB))) == ([], None)


def test_an_empty_image_has_no_pieces(tmp_path: Path) -> None:
    with (tmp_path / "empty").open("w+b") as file:
        assert ImageReader(file.fileno(), lambda: None).take() == []
        file.truncate(MIB)
        assert ImageReader(file.fileno(), lambda: None).take() == []


def test_a_read_error_comes_out_of_take(image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int, at: int, buffer: memoryview) -> tuple[list[Piece], int | None]:
        if at:
            raise OSError(5, "it is damaged")
        return read_pieces(fd, at, buffer)

    monkeypatch.setattr(image_reader, "read_pieces", fails)
    reader = ImageReader(image, lambda: None)
    assert reader.take()
    with pytest.raises(OSError, match="it is damaged"):
        reader.take()


def test_who_stops_taking_leaves_no_thread_and_no_descriptor(image: int) -> None:
    os.pwrite(image, os.urandom((BUFFERS + 4) * BUFFER_BYTES), 0)
    before, fds = threads(), set(os.listdir("/proc/self/fd"))
    reader = ImageReader(image, lambda: None)
    assert reader.take()
    reader.stop()
    for thread in threads() - before:
        thread.join(60)
        assert not thread.is_alive()
    assert set(os.listdir("/proc/self/fd")) == fds


def test_the_image_may_be_closed_by_who_stops(tmp_path: Path) -> None:
    data = os.urandom(4 * MIB)
    (tmp_path / "image").write_bytes(data)
    with (tmp_path / "image").open("rb") as file:
        reader = ImageReader(file.fileno(), lambda: None)
    assert b"".join(piece for _, piece in all_pieces(reader)) == data


def test_write_back_begins_on_the_way(image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_reader, "WRITE_BACK_BUFFERS", 2)
    begun: list[None] = []
    all_pieces(ImageReader(image, lambda: begun.append(None)))
    assert begun
