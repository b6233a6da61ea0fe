"""What calls of NFSv3 cost the gateway in instructions, which no load on the machine changes.

One process has a connection of a server and its client's socket, and carries out READs and WRITEs
of 4 and 64 KiB, 1 and 16 at a time, without the loop.  It runs in cachegrind twice, with few and
with many, so that start and end do not count; nor does the kernel, but the client does: 6,000 of
a call at depth 1.  A write is of one pattern, as in bench/nfs.py.  Wants valgrind.
"""

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import trio

import engine.meta
from engine import Store
from nfsgw.connection import Common, Connection
from nfsgw.dispatch import Dispatcher
from nfsgw.exports import Export, Exports, Right, Rule
from nfsgw.files import Files
from nfsgw.gate import Gate
from nfsgw.handles import Handles
from nfsgw.mount3 import Mount3
from nfsgw.nfs3.program import Nfs3
from nfsgw.quotas import Quota
from nfsgw.record import LAST, Buffers
from nfsgw.replay import ReplayCache

FEW, MANY = 128, 640
FILE_MIB = 4
MAP_BYTES = 1 << 30  # of LMDB: valgrind has no room for what a store maps
NFS, MOUNT = 100_003, 100_005
LOOKUP, READ, WRITE, MNT = 3, 6, 7, 1
KIB = 1024
_HEAD = struct.Struct(">6I")
_USER = struct.pack(">2I4s3I", 0, 4, b"host", 0, 0, 0)
_CREDENTIAL = struct.pack(">2I", 1, len(_USER)) + _USER + bytes(8)


def record(xid: int, program: int, procedure: int, arguments: bytes) -> bytearray:
    call = _HEAD.pack(xid, 0, 2, program, 3, procedure) + _CREDENTIAL + arguments
    return bytearray(struct.pack(">I", LAST | len(call)) + call)


def opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


class Client:
    """A client whose server does nothing but by ``served``."""

    def __init__(self, store: Store, nursery: trio.Nursery) -> None:
        self._answers = memoryview(bytearray(2 << 20))
        exports = Exports()
        rule = Rule(ipaddress.ip_network("127.0.0.0/8"), Right.ROOT)
        lab = store.volume("lab")
        exports.replace([Export(lab.id, "/lab", lab.id, (rule,))], 1)
        gate = Gate(
            store, trio.lowlevel.checkpoint, trio.lowlevel.checkpoint, lambda: store.strained,
            contextlib.nullcontext, trio.lowlevel.checkpoint, lambda: False,
        )  # fmt: skip
        files = Files(gate, exports, Handles(bytes(32)))
        self._dispatcher = Dispatcher([Nfs3(files), Mount3(files)], ReplayCache(store.pool.core))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._socket = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        common = Common(self._dispatcher, Buffers(), nursery, Quota(1 << 26), Quota(1 << 28))
        self._server = Connection(accepted, common)

    def close(self) -> None:
        self._socket.close()
        self._server._close()

    def served(self, calls: bytes | bytearray, answer_bytes: int) -> memoryview:
        """What the server answers, when it is as long as that; valid until the next."""
        self._socket.sendall(calls)
        server, end = self._server, 0
        while end < answer_bytes:
            server._receive()
            server._turn()
            server._flush()
            self._dispatcher.settle()
            try:
                end += self._socket.recv_into(self._answers[end:], 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
        return self._answers[:end]

    def handle(self) -> bytes:
        path = self.served(record(1, MOUNT, MNT, opaque(b"/lab")), 36)
        root = bytes(path[36 : 36 + int.from_bytes(path[32:36], "big")])
        found = self.served(record(2, NFS, LOOKUP, opaque(root) + opaque(b"file")), 36)
        return bytes(found[36 : 36 + int.from_bytes(found[32:36], "big")])

    def run(self, procedure: int, size: int, depth: int, count: int) -> None:
        handle = opaque(self.handle())
        data = struct.pack(">2I", 0, size) + b"\xa5" * size if procedure == WRITE else b""
        alone = record(0, NFS, procedure, handle + struct.pack(">QI", 0, size) + data)
        calls = alone * depth
        offset_at = 4 + _HEAD.size + len(_CREDENTIAL) + len(handle)
        answer_bytes = depth * (132 + size if procedure == READ else 164)
        blocks = (FILE_MIB << 20) // size
        for n in range(0, count, depth):
            for i in range(depth):
                struct.pack_into(">I", calls, i * len(alone) + 4, n + i + 1000)
                place = (n + i) % blocks * size
                struct.pack_into(">Q", calls, i * len(alone) + offset_at, place)
            assert len(self.served(calls, answer_bytes)) == answer_bytes


def inside(folder: str, *numbers: str) -> None:
    engine.meta.MAP_BYTES = MAP_BYTES
    Store.create(Path(folder))

    async def run() -> None:
        with Store.open(Path(folder)) as store:
            lab = store.create_volume("lab")
            file = lab.create(1, b"file", 0o644, 0, 0)
            lab.write(file.ino, 0, os.urandom(FILE_MIB << 20))
            store.commit()
            async with trio.open_nursery() as nursery:
                client = Client(store, nursery)
                with contextlib.closing(client):
                    client.run(*map(int, numbers))

    trio.run(run)


def counted(folder: str, *numbers: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
         sys.executable, "-P", "-m", "bench.nfs_call", folder, *map(str, numbers)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip


def instructions(*what: int) -> float:
    """Of a call: what MANY have cost more than FEW."""
    found = []
    with tempfile.TemporaryDirectory(prefix="ramet-bench-") as folder:
        runs = [counted(f"{folder}/{count}", *what, count) for count in (FEW, MANY)]
        for run in runs:
            _, told = run.communicate()
            total = re.search(r"I\s+refs:\s+([\d,]+)", told)
            if run.returncode or total is None:
                raise OSError(f"valgrind failed: {told[-500:]}")
            found.append(int(total[1].replace(",", "")))
    few, many = found
    return (many - few) / (MANY - FEW)


def main() -> None:
    if shutil.which("valgrind") is None:
        raise OSError("valgrind is not installed: `make bench-packages` installs it")
    print(f"{'instructions a call':<24}{'at depth 1':>12}{'16':>12}")
    for procedure, name in ((READ, "READ"), (WRITE, "WRITE")):
        for size in (4 * KIB, 64 * KIB):
            costs = (instructions(procedure, size, depth) for depth in (1, 16))
            figures = "".join(f"{each:>12,.0f}" for each in costs)
            print(f"{f'{name}, {size // KIB} KiB':<24}{figures}", flush=True)


if __name__ == "__main__":
    inside(*sys.argv[1:]) if sys.argv[1:] else main()
