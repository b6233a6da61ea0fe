"""A program for tests of the server: it answers with what it gets, and counts."""

import struct
import threading
from collections.abc import Generator

import trio
from rpc_client import RpcClient

from engine import errors
from nfsgw.gate import Outcome, Wait
from nfsgw.record import RECORD_BYTES_MAX
from nfsgw.rpc import NO_SHORT_WAYS, Again, Call, ProcedureUnavailable
from nfsgw.xdr import Packer, Unpacker

PROGRAM, VERSION = 0x20_0000_05, 3
NULL, ECHO, LATER, COUNT, BUG, FAIL_LATER, BIG, WHO, COUNT_LATER = range(9)


class Echo:
    """Answers with what it gets, at once or when ``gate`` opens."""

    number = PROGRAM
    versions = (VERSION, VERSION + 2)
    again: dict[int, Again] = NO_SHORT_WAYS

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.counted = 0

    def cached(self, call: Call) -> bool:
        return call.procedure in (COUNT, COUNT_LATER)

    def call(self, call: Call, args: Unpacker, out: Packer) -> Outcome:
        match call.procedure:
            case 0:
                return None
            case 1:
                out.opaque(args.opaque(RECORD_BYTES_MAX))
                args.end()
            case 2:
                return self._later(args.opaque(RECORD_BYTES_MAX), out)
            case 3:
                self.counted += 1
                out.u32(self.counted)
            case 4:
                out.u32(1)
                raise ZeroDivisionError
            case 5:
                return self._fail_later(out)
            case 6:
                out.opaque(bytes(args.u32()))
            case 7:
                assert call.credential is not None
                for word in (call.credential.uid, call.credential.gid, *call.credential.gids):
                    out.u32(word)
            case 8:
                self.counted += 1
                return self._later(b"%4d" % self.counted, out)
            case _:
                raise ProcedureUnavailable
        return None

    async def _open(self) -> None:
        self.waiting.release()
        await trio.to_thread.run_sync(self.gate.wait, abandon_on_cancel=True)

    def _later(self, data: memoryview | bytes, out: Packer) -> Generator[Wait, None, None]:
        yield self._open
        out.opaque(data)

    @staticmethod
    def _fail_later(out: Packer) -> Generator[Wait, None, None]:
        async def fails() -> None:
            raise errors.StoreFailed("not durable")

        try:
            yield fails
        except errors.StoreFailed:
            out.u32(5)


def opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def echoed(client: RpcClient, data: bytes) -> bytes:
    return bytes(client.call(PROGRAM, VERSION, ECHO, opaque(data)).opaque(RECORD_BYTES_MAX))
