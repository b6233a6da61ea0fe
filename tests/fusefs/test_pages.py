"""Direct writes beside the kernel's pages of the same file (fusefs/pages.py)."""

import ctypes
import mmap
import os
import platform
import signal
import struct
import subprocess
import threading
from pathlib import Path

from mounted import Mount

from fusefs.pages import STRETCH_BITS, Pages

BLOCK = 4096
FILE_BYTES = 32 << 20  # more parts of 1 MiB than the kernel has under way at a time, a dozen
NUMBERS = {"x86_64": (206, 209, 208, 17), "aarch64": (0, 2, 4, 67)}
SETUP, SUBMIT, EVENTS, PREAD = NUMBERS[platform.machine()]
PWRITE = 1
ONE = ctypes.c_long(1)
STRETCH = 1 << STRETCH_BITS
READ_S = 30  # a tenth of a second, on an idle machine

libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments: object) -> int:
    result: int = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class DirectWrite:
    """An asynchronous one in one request to the kernel, of the whole file unless told otherwise."""

    def __init__(self, fd: int, offset: int = 0, length: int = FILE_BYTES) -> None:
        self._length = length
        self._memory = mmap.mmap(-1, length)
        self._memory[:] = b"b" * length
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        request = (0, 0, 0, PWRITE, 0, fd, address, length, offset, 0, 0, 0)
        self._request = ctypes.create_string_buffer(struct.pack("<QIIHhIQQqQII", *request))
        self._context = ctypes.c_uint64()
        call(SETUP, 1, ctypes.byref(self._context))

    def submit(self) -> None:
        pointer = ctypes.c_void_p(ctypes.addressof(self._request))
        assert call(SUBMIT, self._context, ONE, ctypes.byref(pointer)) == 1

    def wait(self) -> None:
        event = ctypes.create_string_buffer(32)
        assert call(EVENTS, self._context, ONE, ONE, event, None) == 1
        assert struct.unpack("<QQqq", event.raw[:32])[2] == self._length


def until_in_call(thread: threading.Thread, number: int) -> None:
    """Return when the thread sleeps in a system call."""
    doing = Path(f"/proc/self/task/{thread.native_id}/syscall")
    while doing.read_text().split()[0] != str(number):
        assert thread.is_alive()


def test_a_page_that_is_read_before_an_asynchronous_direct_write_does_not_stay_old(
    shared: Mount,
) -> None:
    path, last, seen = shared.lab / "beside", FILE_BYTES - BLOCK, []
    path.write_bytes(b"a" * FILE_BYTES)
    direct, reader = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY)
    os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_RANDOM)
    # It asks for no attributes; a read would, and a new mtime drops the pages as well.
    mapped = mmap.mmap(reader, FILE_BYTES, prot=mmap.PROT_READ)
    write = DirectWrite(direct)
    submit = threading.Thread(target=write.submit)
    read = threading.Thread(target=lambda: seen.append(os.pread(reader, BLOCK, last)))
    # The kernel drops its pages of the file, and asks for as many parts of the write as may be
    # under way; the read goes before the others.
    os.kill(shared.process.pid, signal.SIGSTOP)
    try:
        submit.start()
        until_in_call(submit, SUBMIT)
        read.start()
        until_in_call(read, PREAD)
    finally:
        os.kill(shared.process.pid, signal.SIGCONT)
    submit.join()
    write.wait()
    read.join()
    assert seen == [b"a" * BLOCK]
    assert mapped[last:] == b"b" * BLOCK
    mapped.close()
    os.close(reader)
    os.close(direct)


def test_many_asynchronous_direct_writes_do_not_stop_a_reader(shared: Mount) -> None:
    """The kernel locks the pages that it reads ahead, and may ask for them only when it has answers
    to these writes."""
    path, over = shared.lab / "beside", threading.Event()
    path.write_bytes(b"a" * FILE_BYTES)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    writes = [DirectWrite(direct, place * (FILE_BYTES // 32), BLOCK) for place in range(32)]

    def write() -> None:
        while not over.is_set():
            for each in writes:
                each.submit()
            for each in writes:
                each.wait()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            subprocess.run(["cat", path], stdout=subprocess.DEVNULL, check=True, timeout=READ_S)
    finally:  # killed, it lets go of its pages
        over.set()
        writer.join()
        os.close(direct)


def test_only_stretches_that_were_used_have_pages() -> None:
    pages = Pages()
    pages.used(7, STRETCH - 1, 2)
    assert pages.of(7, 0, 1) == {0: 1}
    assert pages.of(7, 0, 3 * STRETCH) == {0: 1, 1: 1}
    assert pages.of(7, 2 * STRETCH, 1) == {}
    assert pages.of(8, 0, 1) == {}


def test_what_is_used_while_pages_are_dropped_may_have_pages_again() -> None:
    pages = Pages()
    pages.used(7, 0, 2 * STRETCH)
    found = pages.of(7, 0, 2 * STRETCH)
    pages.used(7, STRETCH, 1)
    pages.dropped(7, found)
    assert pages.of(7, 0, 2 * STRETCH) == {1: 2}


def test_a_file_that_the_kernel_has_forgotten_has_no_pages() -> None:
    pages = Pages()
    pages.used(7, 0, 1)
    found = pages.of(7, 0, 1)
    pages.forget(7)
    pages.dropped(7, found)
    assert pages.of(7, 0, 1) == {}


def test_a_flag_that_changes_meanwhile_holds_up_nobody(mount: Mount, tmp_path: Path) -> None:
    """A write by a page that was taken for one past the pages would wait for that page."""
    source, program = Path(__file__).with_name("toggle_direct.c"), tmp_path / "toggle_direct"
    subprocess.run(["cc", "-O1", "-pthread", "-o", program, source], check=True)
    writer = subprocess.Popen([program, mount.lab / "file", "3"], stdout=subprocess.PIPE)
    try:
        told, _ = writer.communicate(timeout=READ_S)
    except subprocess.TimeoutExpired:
        os.kill(mount.process.pid, signal.SIGTERM)  # nothing else ends the writer
        writer.wait()
        raise
    assert writer.returncode == 0
    assert int(told) > 100
