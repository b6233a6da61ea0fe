"""Owners on the wire: strings (RFC 8881, 5.9), of which we speak the numeric ones.

A number is what AUTH_SYS credentials are made of, so nothing has to agree about names on both
sides; Linux clients use it by default (nfs4_disable_idmapping). The few names that mean the same
everywhere are understood, with any domain after them.
"""

from functools import lru_cache

from nfsgw.access import NOBODY
from nfsgw.v4.protocol import Failed, Status
from nfsgw.xdr import Packer, Unpacker

OWNER_BYTES_MAX = 1024
ID_MAX = (1 << 32) - 2  # the last one is chown(2)'s "leave it"
_NAMES = {b"root": 0, b"nobody": NOBODY, b"nogroup": NOBODY, b"nfsnobody": NOBODY}


def read_owner(args: Unpacker) -> int:
    """A uid or gid; BADOWNER for what is neither a number nor a name that everybody has."""
    raw = bytes(args.opaque(args.left))
    if not raw:
        raise Failed(Status.INVAL)
    if len(raw) > OWNER_BYTES_MAX:
        raise Failed(Status.BADOWNER)
    name, _, domain = raw.partition(b"@")
    if name.isdigit() and not domain and (len(name) == 1 or name[:1] != b"0"):
        number = int(name) if len(name) <= len(str(ID_MAX)) else ID_MAX + 1
    else:
        number = _NAMES.get(name, ID_MAX + 1)
    if number > ID_MAX:
        raise Failed(Status.BADOWNER)
    return number


@lru_cache(4096)
def packed_owner(number: int) -> bytes:
    """A uid or gid on the wire."""
    out = Packer()
    out.opaque(b"%d" % number)
    return b"".join(out.parts)
