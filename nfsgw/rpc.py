"""ONC RPC version 2 (RFC 5531): calls as programs get them, and the headers of answers."""

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nfsgw.gate import Outcome
from nfsgw.xdr import Garbage, Packer, Part, Unpacker

if TYPE_CHECKING:
    from nfsgw.replay import ReplayCache

RPC_VERSION = 2
CALL, REPLY = 0, 1
ACCEPTED, DENIED = 0, 1
SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS, SYSTEM_ERR = range(6)
RPC_MISMATCH, AUTH_ERROR = 0, 1
AUTH_BADCRED, AUTH_REJECTEDCRED, AUTH_BADVERF, AUTH_REJECTEDVERF, AUTH_TOOWEAK = 1, 2, 3, 4, 5
AUTH_NONE, AUTH_SYS = 0, 1
AUTH_BYTES_MAX = 400
GIDS_MAX = 16
MACHINE_BYTES_MAX = 255

_HEAD = struct.Struct(">7I")
_ACCEPTED = struct.Struct(">6I")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProcedureUnavailable(Exception):
    """The program has no such procedure."""


class AuthFailed(Exception):
    """The credential is not taken; ``status`` is an auth_stat."""

    def __init__(self, status: int) -> None:
        super().__init__(f"auth_stat {status}")
        self.status = status


class VersionMismatch(Exception):
    """The program is there in other versions, or (``rpc``) the call is of another RPC."""

    def __init__(self, low: int, high: int, *, rpc: bool = False) -> None:
        super().__init__(f"versions {low} to {high}")
        self.low, self.high, self.rpc = low, high, rpc


class Credential(NamedTuple):
    """Who calls, as the client says (AUTH_SYS), before any squashing; None of it for AUTH_NONE."""

    uid: int
    gid: int
    gids: tuple[int, ...]
    machine: bytes = b""


class Peer(Protocol):
    """The other end of a connection; programs may hang state of their own on it by identity.
    ``memo`` is one's of them (nfs3/again.py), who keeps it small; it goes with the connection."""

    @property
    def memo(self) -> dict[bytes, Any]: ...

    @property
    def address(self) -> Address: ...

    @property
    def port(self) -> int: ...


@dataclass(slots=True)
class Call:
    """One call; its arguments come with it as an Unpacker."""

    xid: int
    program: int
    version: int
    procedure: int
    credential: Credential | None
    peer: Peer


class Answered(NamedTuple):
    """Calls that were carried out from what a connection has received: ``taken`` bytes of it,
    record marks included.  ``answer``: to all of them, marks included."""

    taken: int
    calls: int
    answer: Part


Again = Callable[[memoryview, Peer, "ReplayCache"], Answered | None]
"""From what was received, which begins with a record; None: its first call goes the long way."""
NO_SHORT_WAYS: dict[int, Again] = {}


class Program(Protocol):
    """A program that the server offers.

    ``call`` appends results to ``out`` at once, or is a generator that does by its end (gate.py).
    It raises Garbage, ProcedureUnavailable or AuthFailed; whatever else it raises is SYSTEM_ERR,
    and its results so far are forgotten.  Its arguments are there until it ends: what it keeps for
    longer it copies.
    """

    @property
    def number(self) -> int: ...

    @property
    def versions(self) -> tuple[int, ...]: ...

    @property
    def again(self) -> dict[int, Again]:
        """Short ways for some procedures, by their numbers."""
        ...

    def cached(self, call: Call) -> bool:
        """Whether a duplicate of the call must not be carried out again (replay.py)."""
        ...

    def call(self, call: Call, args: Unpacker, out: Packer) -> Outcome: ...


def read_call(args: Unpacker, peer: Peer) -> Call:
    """The head of a call; Garbage when it is none, VersionMismatch, AuthFailed.

    Whoever wants to answer the last two reads the xid itself: it is the record's first word.
    """
    try:
        xid, kind, rpc, program, version, procedure, flavor = _HEAD.unpack_from(args.data, args.at)
    except struct.error:
        raise Garbage("a record was cut short") from None
    if kind != CALL:
        raise Garbage("no call")
    if rpc != RPC_VERSION:
        raise VersionMismatch(RPC_VERSION, RPC_VERSION, rpc=True)
    args.at += _HEAD.size
    body = bytes(args.opaque(AUTH_BYTES_MAX))
    args.u32()  # the verifier's flavor: AUTH_SYS and AUTH_NONE have an empty one
    args.opaque(AUTH_BYTES_MAX)
    if flavor == AUTH_SYS:
        credential = _auth_sys(body)
    elif flavor == AUTH_NONE:
        credential = None
    else:
        raise AuthFailed(AUTH_TOOWEAK)
    return Call(xid, program, version, procedure, credential, peer)


@lru_cache(maxsize=1024)  # a client says the same in every call; all of it is a few hundred KiB
def _auth_sys(raw: bytes) -> Credential:
    """RFC 5531, appendix A."""
    body = Unpacker(memoryview(raw))
    try:
        body.u32()  # stamp
        machine = bytes(body.opaque(MACHINE_BYTES_MAX))
        uid, gid = body.u32(), body.u32()
        gids = tuple(body.u32() for _ in range(body.count(GIDS_MAX)))
        body.end()
    except Garbage:
        raise AuthFailed(AUTH_BADCRED) from None
    return Credential(uid, gid, gids, machine)


def accepted(out: Packer, xid: int, status: int = SUCCESS) -> None:
    """The head of an accepted call's answer; the results follow."""
    out.raw(_ACCEPTED.pack(xid, REPLY, ACCEPTED, AUTH_NONE, 0, status))


def refused(xid: int, error: Exception) -> Packer:
    """The whole answer to a call that was not carried out."""
    out = Packer()
    words: tuple[int, ...] = ()
    match error:
        case AuthFailed():
            words = (xid, REPLY, DENIED, AUTH_ERROR, error.status)
        case VersionMismatch() if error.rpc:
            words = (xid, REPLY, DENIED, RPC_MISMATCH, error.low, error.high)
        case VersionMismatch():
            accepted(out, xid, PROG_MISMATCH)
            words = (error.low, error.high)
        case _:
            found = {Garbage: GARBAGE_ARGS, ProcedureUnavailable: PROC_UNAVAIL}
            accepted(out, xid, found.get(type(error), SYSTEM_ERR))
    for word in words:
        out.u32(word)
    return out
