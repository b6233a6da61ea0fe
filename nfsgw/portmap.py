"""The port mapper, version 2 (RFC 1833, 3): where the programs of an address are.

QEMU, libnfs, showmount and kernel clients ask it, on port 111, before they connect.  It tells of
our own programs only; nobody registers anything, and it calls nobody on others' behalf (CALLIT is
how port mappers are made to attack third parties).  Over UDP an answer is as short as its question,
but for DUMP's, a few hundred bytes.
"""

import ipaddress
import socket
from enum import IntEnum
from typing import Any, NamedTuple

import trio

from nfsgw.dispatch import Dispatcher
from nfsgw.rpc import NO_SHORT_WAYS, Address, Call, ProcedureUnavailable
from nfsgw.xdr import Garbage, Packer, Unpacker

PROGRAM, VERSION, PORT = 100_000, 2, 111
TCP, UDP = 6, 17
DATAGRAM_BYTES_MAX = 1024


class Procedure(IntEnum):
    """What may be asked."""

    NULL = 0
    SET = 1
    UNSET = 2
    GETPORT = 3
    DUMP = 4
    CALLIT = 5


class Mapping(NamedTuple):
    """A program, and the port at which one version of it is."""

    program: int
    version: int
    protocol: int
    port: int


class Portmap:
    """The program; ``mappings`` are the others."""

    number = PROGRAM
    versions = (VERSION,)
    again = NO_SHORT_WAYS

    def __init__(self, mappings: list[Mapping]) -> None:
        own = [Mapping(PROGRAM, VERSION, protocol, PORT) for protocol in (TCP, UDP)]
        self._mappings = [*own, *mappings]

    def cached(self, call: Call) -> bool:
        return False

    def call(self, call: Call, args: Unpacker, out: Packer) -> None:
        match call.procedure:
            case Procedure.NULL:
                pass
            case Procedure.SET | Procedure.UNSET:
                out.boolean(False)
            case Procedure.GETPORT:
                wanted = Mapping(args.u32(), args.u32(), args.u32(), args.u32())
                out.u32(self._port(wanted))
            case Procedure.DUMP:
                for mapping in self._mappings:
                    out.boolean(True)
                    for word in mapping:
                        out.u32(word)
                out.boolean(False)
            case _:
                raise ProcedureUnavailable

    def _port(self, wanted: Mapping) -> int:
        """0: no such program.  Another version's will do: the server itself says which it has."""
        found = [
            each for each in self._mappings
            if (each.program, each.protocol) == (wanted.program, wanted.protocol)
        ]  # fmt: skip
        found.sort(key=lambda each: each.version != wanted.version)
        return found[0].port if found else 0


class _Asker(NamedTuple):
    address: Address
    port: int
    memo: dict[bytes, Any]


async def serve_datagrams(bound: socket.socket, dispatcher: Dispatcher) -> None:
    """Answer calls that come one a datagram, until cancelled.  None of them may have to wait."""
    with bound:
        while True:
            await trio.lowlevel.wait_readable(bound)
            try:
                data, sender = bound.recvfrom(DATAGRAM_BYTES_MAX)
                asker = _Asker(ipaddress.ip_address(sender[0].partition("%")[0]), sender[1], {})
                answer = dispatcher.start(memoryview(data), asker)
                if isinstance(answer, list):
                    bound.sendto(b"".join(answer), sender)
            except (Garbage, OSError):  # nothing to be said, or nobody to hear it
                continue
