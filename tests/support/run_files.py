"""Runs of the fingerprint index as bytes: their checksums made right after they were changed."""

import struct

import xxhash

PAGE = 4096
PAGE_ENTRIES = (PAGE - 8) // 13
STEP = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def _filter_bytes(groups: int, entries: int) -> int:
    used = (groups + 1) * 24 + (entries * 10 + 7) // 8 + 4
    return -(-used // PAGE) * PAGE


def resealed(raw: bytes, seed: int) -> bytes:
    """The same with a magic and checksums that hold, as far as it is laid out like a run."""
    if len(raw) < PAGE:
        return raw
    out = bytearray(raw)
    end = len(raw) - PAGE
    magic = struct.pack("<Q", 0x31304E5552544D52)
    out[end : end + 8] = magic
    _, _, _, high, entries, groups = struct.unpack_from("<6Q", out, end)
    pages = -(-entries // PAGE_ENTRIES)
    if entries < 1 << 20 and groups <= entries + 1:
        for n in range(min(pages, end // PAGE)):
            at = n * PAGE
            page_seed = seed ^ (((high ^ n << 32) + 1) * STEP & MASK)
            checksum = xxhash.xxh3_64_intdigest(bytes(out[at + 8 : at + PAGE]), page_seed)
            out[at : at + 8] = struct.pack("<Q", checksum)
        content = bytes(out[pages * PAGE : pages * PAGE + _filter_bytes(groups, entries)])
        out[end + 48 : end + 56] = struct.pack("<Q", xxhash.xxh3_64_intdigest(content, seed))
    out[end + 56 : end + 64] = struct.pack(
        "<Q", xxhash.xxh3_64_intdigest(bytes(out[end : end + 56]), seed)
    )
    return bytes(out)
