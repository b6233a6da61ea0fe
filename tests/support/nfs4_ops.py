"""Operations of NFSv4 as a client writes them: each is its number and its arguments, as XDR.

``attributes`` and ``read_attributes`` are fattr4, to set and as it comes back.
"""

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from nfsgw.v4.protocol import Op
from nfsgw.xdr import Packer, Unpacker

ANONYMOUS = bytes(16)
CURRENT = b"\0\0\0\1" + bytes(12)
DIR, BLK, CHR, LNK, SOCK, FIFO = 2, 3, 4, 5, 6, 7
UNSTABLE, DATA_SYNC, FILE_SYNC = 0, 1, 2


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f">{len(values)}Q", *values)


def opaque(data: bytes) -> bytes:
    return u32(len(data)) + data + bytes(-len(data) % 4)


def bitmap(numbers: Iterable[int]) -> bytes:
    """bitmap4 of attributes."""
    words = [0]
    for number in numbers:
        words.extend([0] * (number // 32 + 1 - len(words)))
        words[number // 32] |= 1 << number % 32
    return u32(len(words), *words)


def settime(ns: int | None) -> bytes:
    """settime4; None: the server's time."""
    return u32(0) if ns is None else u32(1) + struct.pack(">qI", *divmod(ns, 10**9))


def attributes(values: dict[int, bytes]) -> bytes:
    """fattr4 of attributes whose values are XDR."""
    return bitmap(values) + opaque(b"".join(values[number] for number in sorted(values)))


# --- operations


def put_fh(handle: bytes) -> bytes:
    return u32(Op.PUTFH) + opaque(handle)


def put_root_fh() -> bytes:
    return u32(Op.PUTROOTFH)


def get_fh() -> bytes:
    return u32(Op.GETFH)


def save_fh() -> bytes:
    return u32(Op.SAVEFH)


def restore_fh() -> bytes:
    return u32(Op.RESTOREFH)


def lookup(name: bytes) -> bytes:
    return u32(Op.LOOKUP) + opaque(name)


def walk(path: str) -> list[bytes]:
    """From the root of exports along a path."""
    return [put_root_fh(), *(lookup(name.encode()) for name in path.split("/") if name)]


def lookup_parent() -> bytes:
    return u32(Op.LOOKUPP)


def getattr_(numbers: Iterable[int]) -> bytes:
    return u32(Op.GETATTR) + bitmap(numbers)


def setattr_(values: dict[int, bytes], stateid: bytes = ANONYMOUS) -> bytes:
    return u32(Op.SETATTR) + stateid + attributes(values)


def verify(values: dict[int, bytes]) -> bytes:
    return u32(Op.VERIFY) + attributes(values)


def nverify(values: dict[int, bytes]) -> bytes:
    return u32(Op.NVERIFY) + attributes(values)


def access(bits: int) -> bytes:
    return u32(Op.ACCESS, bits)


def create(
    kind: int, name: bytes, values: dict[int, bytes] | None = None, *, target: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:  # fmt: skip
    data = {LNK: opaque(target), BLK: u32(*device), CHR: u32(*device)}.get(kind, b"")
    return u32(Op.CREATE, kind) + data + opaque(name) + attributes(values or {})


def remove(name: bytes) -> bytes:
    return u32(Op.REMOVE) + opaque(name)


def rename(name: bytes, new_name: bytes) -> bytes:
    return u32(Op.RENAME) + opaque(name) + opaque(new_name)


def link(name: bytes) -> bytes:
    return u32(Op.LINK) + opaque(name)


def readlink() -> bytes:
    return u32(Op.READLINK)


def readdir(
    numbers: Iterable[int], cookie: int = 0, verifier: bytes = bytes(8), size: int = 1 << 20
) -> bytes:
    return u32(Op.READDIR) + u64(cookie) + verifier + u32(size, size) + bitmap(numbers)


def read(offset: int, count: int, stateid: bytes = ANONYMOUS) -> bytes:
    return u32(Op.READ) + stateid + u64(offset) + u32(count)


def read_plus(offset: int, count: int, stateid: bytes = ANONYMOUS) -> bytes:
    return u32(Op.READ_PLUS) + stateid + u64(offset) + u32(count)


def write(
    offset: int, data: bytes, how: int = UNSTABLE, stateid: bytes = ANONYMOUS
) -> bytes:  # fmt: skip
    return u32(Op.WRITE) + stateid + u64(offset) + u32(how) + opaque(data)


def commit() -> bytes:
    return u32(Op.COMMIT) + u64(0) + u32(0)


def seek(offset: int, what: int, stateid: bytes = ANONYMOUS) -> bytes:
    return u32(Op.SEEK) + stateid + u64(offset) + u32(what)


def allocate(offset: int, length: int, stateid: bytes = ANONYMOUS) -> bytes:
    return u32(Op.ALLOCATE) + stateid + u64(offset, length)


def deallocate(offset: int, length: int, stateid: bytes = ANONYMOUS) -> bytes:
    return u32(Op.DEALLOCATE) + stateid + u64(offset, length)


def io_advise(offset: int, length: int, hints: int, stateid: bytes = ANONYMOUS) -> bytes:
    return u32(Op.IO_ADVISE) + stateid + u64(offset, length) + u32(1, hints)


def clone(
    offset: int, target_offset: int, length: int, source: bytes = ANONYMOUS,
    target: bytes = ANONYMOUS,
) -> bytes:  # fmt: skip
    return u32(Op.CLONE) + source + target + u64(offset, target_offset, length)


def copy(
    offset: int, target_offset: int, length: int, source: bytes = ANONYMOUS,
    target: bytes = ANONYMOUS, *, servers: bytes = u32(0), synchronous: bool = True,
) -> bytes:  # fmt: skip
    ends = source + target + u64(offset, target_offset, length)
    return u32(Op.COPY) + ends + u32(1, synchronous) + servers


# --- results


class Change(NamedTuple):
    """change_info4."""

    atomic: bool
    before: int
    after: int


def read_change(result: Unpacker) -> Change:
    return Change(result.boolean(), result.u64(), result.u64())


def read_bitmap(result: Unpacker) -> list[int]:
    words = [result.u32() for _ in range(result.u32())]
    return [32 * at + bit for at, word in enumerate(words) for bit in range(32) if word >> bit & 1]


_FIXED = {
    1: ">I", 2: ">I", 3: ">Q", 4: ">Q", 5: ">I", 6: ">I", 7: ">I", 8: ">QQ", 9: ">I", 10: ">I",
    11: ">I", 13: ">I", 15: ">I", 16: ">I", 17: ">I", 18: ">I", 20: ">Q", 21: ">Q", 22: ">Q",
    23: ">Q", 26: ">I", 27: ">Q", 28: ">I", 29: ">I", 30: ">Q", 31: ">Q", 33: ">I", 34: ">I",
    35: ">I", 41: ">II", 42: ">Q", 43: ">Q", 44: ">Q", 45: ">Q", 47: ">qI", 50: ">qI", 51: ">qI",
    52: ">qI", 53: ">qI", 55: ">Q", 62: ">I", 76: ">I", 77: ">I", 79: ">I", 82: ">I",
}  # fmt: skip


def read_attributes(result: Unpacker) -> dict[int, Any]:
    """fattr4: numbers, pairs of them, bytes, and lists of attributes, by attribute."""
    numbers = read_bitmap(result)
    values = Unpacker(result.opaque(1 << 20))
    found: dict[int, Any] = {}
    for number in numbers:
        if number in (0, 75):
            found[number] = read_bitmap(values)
        elif number in _FIXED:
            form = struct.Struct(_FIXED[number])
            value = values.take(form)
            found[number] = value[0] if len(value) == 1 else value
        else:
            found[number] = bytes(values.opaque(4096))
    values.end()
    return found


class Entry(NamedTuple):
    """An entry of a directory."""

    cookie: int
    name: bytes
    attributes: dict[int, Any]


def read_entries(result: Unpacker) -> tuple[list[Entry], bytes, bool]:
    """READDIR: the entries, the verifier, whether that was all."""
    verifier = bytes(result.fixed(8))
    found = []
    while result.boolean():
        cookie, name = result.u64(), bytes(result.opaque(255))
        found.append(Entry(cookie, name, read_attributes(result)))
    return found, verifier, result.boolean()


def pack(parts: Iterable[bytes]) -> Packer:
    out = Packer()
    for part in parts:
        out.raw(part)
    return out
