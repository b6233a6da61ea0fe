"""Stateids on the wire, and the ones that have a meaning of their own (RFC 8881, 8.2)."""

from typing import NamedTuple

from nfsgw.xdr import Packer, Unpacker

OTHER_BYTES = 12
SEQID_MAX = (1 << 32) - 1


class Stateid(NamedTuple):
    """``seqid`` counts the changes of a state; ``other`` (12 bytes) says which it is."""

    seqid: int
    other: bytes


_ZEROS, _ONES = bytes(OTHER_BYTES), b"\xff" * OTHER_BYTES
ANONYMOUS = Stateid(0, _ZEROS)
BYPASS = Stateid(SEQID_MAX, _ONES)  # a READ that looks at no lock
CURRENT = Stateid(1, _ZEROS)  # what the operation before left
INVALID = Stateid(SEQID_MAX, _ZEROS)  # what CLOSE leaves: nothing
SPECIAL = frozenset({_ZEROS, _ONES})


def read_stateid(args: Unpacker) -> Stateid:
    return Stateid(args.u32(), bytes(args.fixed(OTHER_BYTES)))


def pack_stateid(out: Packer, stateid: Stateid) -> None:
    out.u32(stateid.seqid)
    out.fixed(stateid.other)
