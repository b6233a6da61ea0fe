"""What a trio program in Python can at most do for NFS clients: answers made of constants.

No rights, no handles, no store: one file in memory behind READ and WRITE, with just as much of
portmap, MOUNT and NFSv3 as libnfs asks for before it reads.  ``python -m bench.nfs_bare ADDRESS
MIB``: at ports 111 and 2049 of an address; says ``ready``.
"""

import contextlib
import os
import struct
import sys
from collections.abc import Callable

import trio

NFS, MOUNT, PORTMAP = 100_003, 100_005, 100_000
LAST = 1 << 31
HANDLE = struct.pack(">I", 16) + b"r" * 16
RECEIVE_BYTES = 4 << 20
_CALL = struct.Struct(">6I")
_ACCEPTED = struct.Struct(">7I")
_READ = struct.Struct(">QI")


def attributes(size: int, *, directory: bool = False) -> bytes:
    kind = (2, 0o755) if directory else (1, 0o644)
    return struct.pack(">5I2Q2I2Q6I", *kind, 1, 0, 0, size, size, 0, 0, 1, 2 + directory, *[0] * 6)


class Bare:
    """One connection's calls, answered from memory."""

    def __init__(self, mib: int) -> None:
        self.memory = memoryview(bytearray(os.urandom(mib << 20)))
        file, root = attributes(mib << 20), attributes(0, directory=True)
        there = b"\0\0\0\1"
        self.file = there + file
        ok = bytes(4)
        info = struct.pack(">7IQ3I", *(1 << 20, 1 << 20, 4096) * 2, 4096, 1 << 50, 0, 1, 27)
        self.constant = {
            (NFS, 1): ok + file,
            (NFS, 3): ok + HANDLE + self.file + there + root,
            (NFS, 18): ok + self.file + struct.pack(">6QI", *[1 << 40] * 6, 0),
            (NFS, 19): ok + self.file + info,
            (NFS, 20): ok + self.file + struct.pack(">6I", 65_000, 255, 1, 1, 0, 1),
            (NFS, 21): ok + bytes(4) + self.file + bytes(8),
            (MOUNT, 1): ok + HANDLE + struct.pack(">2I", 1, 1),
            (MOUNT, 5): bytes(4),
            (PORTMAP, 3): struct.pack(">I", 2049),
        }

    def answer(self, record: memoryview) -> tuple[bytes, memoryview | bytes]:
        """The answer, record mark included, in two parts."""
        xid, _, _, program, _, procedure = _CALL.unpack_from(record)
        at = 24
        for _ in range(2):  # credential and verifier
            at += 8 + int.from_bytes(record[at + 4 : at + 8], "big")
        data: memoryview | bytes = b""
        if program == NFS and procedure == 6:
            offset, count = _READ.unpack_from(record, at + 20)
            data = self.memory[offset : offset + count]
            body = bytes(4) + self.file + struct.pack(">3I", len(data), 0, len(data))
        elif program == NFS and procedure == 7:
            offset, count = _READ.unpack_from(record, at + 20)
            self.memory[offset : offset + count] = record[at + 40 : at + 40 + count]
            body = bytes(8) + self.file + struct.pack(">2I", count, 0) + bytes(8)
        elif program == NFS and procedure == 4:
            body = bytes(4) + self.file + record[at + 20 : at + 24]  # whatever is asked for
        else:
            body = self.constant.get((program, procedure), b"")
        length = 24 + len(body) + len(data)
        return _ACCEPTED.pack(LAST | length, xid, 1, 0, 0, 0, 0) + body, data

    async def serve(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError):  # reset: so libnfs ends
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        start = end = 0
        while True:
            count = await stream.socket.recv_into(buffer[end:])
            if not count:
                return
            end += count
            answers: list[memoryview | bytes] = []
            while end - start >= 4:
                length = int.from_bytes(buffer[start : start + 4], "big") & ~LAST
                if end - start - 4 < length:
                    break
                answers += self.answer(buffer[start + 4 : start + 4 + length])
                start += 4 + length
            if answers:
                await stream.send_all(b"".join(answers))
            if start == end:
                start = end = 0
            elif end > RECEIVE_BYTES // 2:
                rest = bytes(buffer[start:end])
                buffer[: len(rest)] = rest
                start, end = 0, len(rest)


async def main(address: str, mib: int) -> None:
    bare = Bare(mib)
    handler: Callable[[trio.SocketStream], object] = bare.serve
    async with trio.open_nursery() as nursery:
        for port in (111, 2049):
            listeners = await trio.open_tcp_listeners(port, host=address)
            nursery.start_soon(trio.serve_listeners, handler, listeners)
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
