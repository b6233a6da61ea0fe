"""Names in operations (component4)."""

from engine.keys import NAME_MAX
from nfsgw.v4.protocol import Failed, Status
from nfsgw.xdr import Unpacker


def read_name(args: Unpacker) -> bytes:
    """A name to look up or make: INVAL when empty, NAMETOOLONG, BADCHAR, BADNAME.

    Bytes that are no UTF-8 are let through, as RFC 8881, 14.5 permits: the mount lets programs
    make such names, and who can see a file can reach it.
    """
    raw = bytes(args.opaque(args.left))
    if not raw:
        raise Failed(Status.INVAL)
    if len(raw) > NAME_MAX:
        raise Failed(Status.NAMETOOLONG)
    if b"/" in raw or b"\0" in raw:
        raise Failed(Status.BADCHAR)
    if raw in (b".", b".."):
        raise Failed(Status.BADNAME)
    return raw
