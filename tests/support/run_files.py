"""Runs of the fingerprint index as bytes: their checksums made right after they were changed, and
runs as earlier versions wrote them."""

import struct

import xxhash

PAGE = 4096
PAGE_ENTRIES = (PAGE - 8) // 13
ENTRY = struct.Struct("<Q5s")
STEP = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
MAGIC = 0x32304E5552544D52
MAGIC_OLD = 0x31304E5552544D52
GROUP_BYTES = 24
GROUP_BUCKETS = 64


def _whole(used: int) -> int:
    return -(-used // PAGE) * PAGE


def _filter_bytes(groups: int, entries: int, *, old: bool) -> int:
    return _whole((groups + 1) * GROUP_BYTES + ((entries * 10 + 7) // 8 + 4 if old else entries))


def _sum(data: bytes, seed: int) -> bytes:
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(data, seed))


def entries_of(raw: bytes) -> int:
    return int(struct.unpack_from("<Q", raw, len(raw) - PAGE + 32)[0])


def entry_at(i: int) -> int:
    """Where the i-th entry is in a file."""
    return i // PAGE_ENTRIES * PAGE + 8 + i % PAGE_ENTRIES * 13


def entry_of(raw: bytes, i: int) -> tuple[int, int]:
    """(key, address) of the i-th entry."""
    key, address = ENTRY.unpack_from(raw, entry_at(i))
    return key, int.from_bytes(address, "little") - 1


def ends_at(raw: bytes) -> int:
    """Where the keys' last bytes are."""
    return len(raw) - PAGE - _whole(entries_of(raw))


def resealed(raw: bytes, seed: int, *, magic: int | None = None) -> bytes:
    """The same with a magic and checksums that hold, as far as it is laid out like a run."""
    if len(raw) < PAGE:
        return raw
    out = bytearray(raw)
    end = len(raw) - PAGE
    found, _, _, high, entries, groups = struct.unpack_from("<6Q", out, end)
    if magic is None:
        magic = MAGIC_OLD if found == MAGIC_OLD else MAGIC
    old = magic == MAGIC_OLD
    out[end : end + 8] = struct.pack("<Q", magic)
    pages = -(-entries // PAGE_ENTRIES)
    if entries < 1 << 20 and groups <= entries + 1:
        for n in range(min(pages, end // PAGE)):
            at = n * PAGE
            page_seed = seed ^ (((high ^ n << 32) + 1) * STEP & MASK)
            out[at : at + 8] = _sum(bytes(out[at + 8 : at + PAGE]), page_seed)
        ends = pages * PAGE + _filter_bytes(groups, entries, old=old)
        out[end + 48 : end + 56] = _sum(bytes(out[pages * PAGE : ends]), seed)
        if not old:
            out[end + 56 : end + 64] = _sum(bytes(out[ends : ends + _whole(entries)]), seed)
    last = end + (56 if old else 64)
    out[last : last + 8] = _sum(bytes(out[end:last]), seed)
    return bytes(out)


def aged(raw: bytes, seed: int) -> bytes:
    """A sound run as earlier versions wrote it: magic RMTRUN01, tags of ten bits, no keys' ends."""
    end = len(raw) - PAGE
    _, part, low, high, entries, groups = struct.unpack_from("<6Q", raw, end)
    pages = -(-entries // PAGE_ENTRIES) * PAGE
    tags = 0
    for i in range(entries):
        key, _ = entry_of(raw, i)
        rest = (key << 4 & MASK) * GROUP_BUCKETS * groups & MASK
        tags |= rest >> 54 << 10 * i
    filter_ = raw[pages : pages + (groups + 1) * GROUP_BYTES]
    filter_ += tags.to_bytes((entries * 10 + 7) // 8 + 4, "little")
    filter_ = filter_.ljust(_filter_bytes(groups, entries, old=True), b"\0")
    footer = struct.pack("<6Q", MAGIC_OLD, part, low, high, entries, groups)
    return resealed(raw[:pages] + filter_ + footer.ljust(PAGE, b"\0"), seed)
