"""Hostile calls to the NFS gateway: RPC heads, procedures of version 3, compounds of version 4.

A stranger's call never gets past a handle, so an input may name some that are good: a word of
MARK in it stands for a handle, a session's stateid, or a name that is there. Each program has a store
of its own that is put back after every call, so that an input does the same whenever it comes.
"""

import contextlib
import ipaddress
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import nfs4_ops as ops
from nfs4_direct import Client, Gateway, Peer

from engine import ROOT_INO, Store, errors
from nfsgw import contents, rpc
from nfsgw.dispatch import Dispatcher, Running
from nfsgw.exports import Right, Rule
from nfsgw.mount3 import Mount3
from nfsgw.nfs3.program import Nfs3
from nfsgw.replay import ReplayCache
from nfsgw.rpc import Call, Credential
from nfsgw.v4.program import COMPOUND, Nfs4
from nfsgw.v4.protocol import PROGRAM, Op, Status
from nfsgw.xdr import Garbage, Packer, Unpacker

MARK = b"\xf5\xf5\xf5"  # and a byte: which
CALLS_KEPT = 200  # after so many a store begins anew
ANSWER_BYTES_MAX = 1 << 21


class Ground:
    """A store with a few files, exported; ``words`` stand for what only the server can make."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="ramet-fuzz-")
        path = Path(self._scratch.name) / "store"
        Store.create(path, fanout=4, records_max=8, slab_slots=256)
        self.store = Store.open(path)
        self.calls = 0
        lab = self.store.create_volume("lab")
        self.directory = lab.mkdir(ROOT_INO, b"d", 0o777, 0, 0)
        self.file = lab.create(self.directory.ino, b"f", 0o666, 0, 0)
        lab.write(self.file.ino, 0, b"data" * 9000)
        lab.symlink(ROOT_INO, b"l", b"d/f", 0, 0)
        self.store.create_snapshot(lab, "s")
        self.gateway = Gateway(self.store)
        self.gateway.export("lab", rule=Rule(ipaddress.ip_network("127.0.0.0/8"), Right.ROOT))
        self.client = Client(self.gateway)
        self.handles = [
            self.client.handle(path)
            for path in ("/", "/lab", "/lab/d", "/lab/d/f", "/lab/l", "/lab/.snapshots/s/d/f")
        ]
        self.words = [ops.opaque(handle) for handle in self.handles]
        self.words += [self._open(), ops.opaque(b"f"), ops.opaque(b"new"), bytes(16)]

    def _open(self) -> bytes:
        """The stateid of an open file."""
        owner = struct.pack(">Q", 0) + ops.opaque(b"owner")
        call = ops.u32(Op.OPEN, 0, 3, 0) + owner + ops.u32(0, 4)
        answer = self.client.ok(ops.put_fh(self.handles[3]), call)
        answer.to(Op.PUTFH)
        return bytes(answer.to(Op.OPEN).fixed(16))

    def filled(self, data: bytes) -> bytes:
        """An input with its marks replaced."""
        first, *others = data.split(MARK)
        found = [first]
        for each in others:
            found.append(self.words[each[0] % len(self.words)] if each else b"")
            found.append(each[1:])
        return b"".join(found)

    def close(self) -> None:
        self.store.abandon()
        self._scratch.cleanup()


def drive(outcome: rpc.Outcome) -> None:
    """To the end; what it waits for is there."""
    for _ in outcome or ():
        pass


_grounds: dict[str, Ground] = {}


def _ground(name: str) -> Ground:
    """The ground of a program: a new one every CALLS_KEPT calls."""
    found = _grounds.get(name)
    if found is None or found.calls >= CALLS_KEPT:
        if found is not None:
            found.close()
        found = _grounds[name] = Ground()
    found.calls += 1
    return found


def close() -> None:
    while _grounds:
        _grounds.popitem()[1].close()


def _refused(call: Callable[[], None]) -> None:
    with contextlib.suppress(Garbage, rpc.AuthFailed, rpc.ProcedureUnavailable):
        call()
