"""Decoders of hostile bytes, each a function of one input: only the documented error may come out.

Where a decoder accepts the input, what it made must survive being encoded and decoded again. The
first byte of an input for ``node`` says whether its checksum is made right.
"""

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import nfs
import xxhash
from run_files import resealed

import native
from engine import Store, errors, keys
from engine.inode import Inode
from engine.meta import unpack_chunk_key, unpack_orphan_key
from engine.nodes import decode, encode
from engine.reclaim import Entry
from engine.superblock import State, Superblock
from engine.volume_record import VolumeRecord
from hypervisor import domain, images, machines
from native import fingerprints
from service import addresses, rpc

Target = Callable[[bytes], None]
SEED = 7


def node(data: bytes) -> None:
    raw = bytearray(data[1:])
    if data[:1] < b"\xe0" and len(raw) >= 48:
        raw[:5] = struct.pack("<IB", 0x4E4D5452, 2)
        raw[8:16] = struct.pack("<Q", 5)
        raw[24:32] = bytes(8)
        raw[24:32] = struct.pack("<Q", xxhash.xxh3_64_intdigest(raw, SEED))
    with contextlib.suppress(errors.Corrupt):
        made = decode(5, raw, SEED)
        again = decode(5, encode(made, SEED), SEED)
        assert (made.keys, made.vals, made.level, made.birth, made.size) == (
            again.keys, again.vals, again.level, again.birth, again.size,
        )  # fmt: skip


def _sealed(data: bytes) -> bytes:
    return data + struct.pack("<Q", xxhash.xxh3_64_intdigest(data))


def superblock(data: bytes) -> None:
    for raw in (data, _sealed(data)):
        with contextlib.suppress(errors.Corrupt, errors.Unsupported):
            assert Superblock.unpack(raw).pack() == raw


def state(data: bytes) -> None:
    for raw in (data, _sealed(data)):
        with contextlib.suppress(errors.Corrupt):
            assert State.unpack(raw).pack() == raw


def inode(data: bytes) -> None:
    with contextlib.suppress(errors.Corrupt):
        packed = Inode.unpack(9, data).pack()
        assert Inode.unpack(9, packed).pack() == packed


def volume(data: bytes) -> None:
    with contextlib.suppress(errors.Corrupt):
        assert VolumeRecord.unpack(data).pack() == data


def entry(data: bytes) -> None:
    with contextlib.suppress(errors.Corrupt):
        found = keys.unpack_by_name(b"name", data)
        assert keys.pack_by_name(found.cookie, found.ino, found.kind) == data
    with contextlib.suppress(errors.Corrupt):
        found = keys.unpack_by_cookie(data[:17], data[17:])
        assert keys.pack_by_cookie(found.ino, found.kind, found.name) == data[17:]


def record_keys(data: bytes) -> None:
    with contextlib.suppress(errors.Corrupt):
        Entry.unpack(data[:8], data[8:])
    with contextlib.suppress(errors.Corrupt):
        unpack_chunk_key(data)
    with contextlib.suppress(errors.Corrupt):
        unpack_orphan_key(data)
    keys.ino_of_inode_key(data)


def index_file(data: bytes) -> None:
    _core.index_import(data)
    assert _core.index_len <= len(data) // 16
    assert len(_core.index_export()) == 16 * _core.index_len
    fingerprints.clear(_core)


def index_run(data: bytes) -> None:
    """A run as it is, and with checksums made right: checked, looked into, merged, with a front."""
    for raw in (data, resealed(data, SEED)):
        fd = os.memfd_create("run")
        os.write(fd, raw)
        fingerprints.check_run(SEED, f"/proc/self/fd/{fd}", 64)
        span = struct.unpack_from("<3Q", raw, len(raw) - 4096 + 8) if len(raw) >= 4096 else (0,) * 3
        if fingerprints.open_run(_core, span[0] & 15, fd, *span[1:]):
            if front := fingerprints.begin_front(_core, span[0] & 15, 100):
                front.step(1 << 20)
                front.install()
                front.close()
            for key in (0, 1 << 60, 1 << 63, (1 << 64) - 1, *(n << 52 for n in range(0, 4096, 64))):
                _core.index_lookup(key)
            out = os.memfd_create("merged")
            job = fingerprints.begin(_core, span[0], out, first=0, count=1)
            assert job is not None
            job.step(1 << 20)
            job.close()
        fingerprints.clear(_core)


def request(data: bytes) -> None:
    with contextlib.suppress(errors.InvalidArgument):
        assert rpc.body_length(data[:4].ljust(4, b"\0")) <= rpc.FRAME_BYTES_MAX
    with contextlib.suppress(errors.InvalidArgument):
        rpc.decode_request(data[4:])
    with contextlib.suppress(errors.InvalidArgument):
        answer = rpc.decode_answer(data[4:])
        assert issubclass(rpc.error_class(answer.kind), errors.RametError)


def vm_mark(data: bytes) -> None:
    with contextlib.suppress(errors.Corrupt):
        machine = machines.read_mark(data)
        assert machines.read_mark(msgspec.msgpack.encode(machine)) == machine


def domain_xml(data: bytes) -> None:
    with contextlib.suppress(errors.InvalidArgument):
        root = domain.parse(data)
        for ask in (domain.name_of, lambda r: list(domain.disks(r)), domain.macs):
            with contextlib.suppress(errors.InvalidArgument):
                ask(root)
        whole = domain.serialize(root)
        if len(whole) <= domain.XML_BYTES_MAX:
            assert domain.serialize(domain.parse(whole)) == whole


def image_head(data: bytes) -> None:
    assert images.detect(data) in images.FORMATS
    with contextlib.suppress(errors.InvalidArgument):
        images.check_head(data, "x")


def address(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    with contextlib.suppress(errors.InvalidArgument, errors.NotFound):
        found = addresses.parse(_context(), text)
        assert addresses.parse(_context(), str(found)) == found


_core = native.Core(hash_seed=SEED, load_node={}.__getitem__, fanout=4, index_entries=64)
_opened: list[addresses.Context] = []


def _context() -> addresses.Context:
    """A store with a volume and a snapshot, made when first needed and gone with the process."""
    if not _opened:
        scratch = tempfile.TemporaryDirectory(prefix="ramet-fuzz-")
        path = Path(scratch.name) / "store"
        Store.create(path, fanout=4)
        store = Store.open(path)
        store.create_snapshot(store.create_volume("v"), "s")
        _opened.append(addresses.Context(store, Path("/mnt/r")))
        _scratch.append(scratch)
    return _opened[0]


_scratch: list[tempfile.TemporaryDirectory[str]] = []


def close() -> None:
    """Let go of the stores that targets made."""
    nfs.close()
    while _opened:
        _opened.pop().store.close()
    while _scratch:
        _scratch.pop().cleanup()


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        node, superblock, state, inode, volume, entry, record_keys, index_file, index_run, request,
        vm_mark, domain_xml, image_head, address, nfs.rpc_record, nfs.nfs3_call, nfs.nfs4_compound,
    )
}  # fmt: skip
