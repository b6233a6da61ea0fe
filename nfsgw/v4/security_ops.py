"""SECINFO and SECINFO_NO_NAME (RFC 8881, 18.29, 18.45): by which flavors a file can be reached.

By all that the server takes: who may do what is decided by address and user. Both use the current
filehandle up, so that no client mistakes it for the file it has asked about (2.6.3.1.1.8).
"""

from nfsgw.rpc import AUTH_NONE, AUTH_SYS
from nfsgw.v4.current import Current, Operation
from nfsgw.v4.lookup_ops import lookup, lookup_parent
from nfsgw.v4.places import here
from nfsgw.v4.protocol import Op
from nfsgw.xdr import Garbage, Packer, Unpacker

CURRENT_FH, PARENT = 0, 1


def security_of_name(current: Current, args: Unpacker, out: Packer) -> None:
    """SECINFO."""
    lookup(current, args, out)
    _answer(current, out)


def security(current: Current, args: Unpacker, out: Packer) -> None:
    """SECINFO_NO_NAME."""
    style = args.u32()
    if style not in (CURRENT_FH, PARENT):
        raise Garbage(f"{style} is no style of SECINFO_NO_NAME")
    here(current)
    if style == PARENT:
        lookup_parent(current, args, out)
    _answer(current, out)


def _answer(current: Current, out: Packer) -> None:
    current.go(None)
    out.u32(2)
    out.u32(AUTH_SYS)
    out.u32(AUTH_NONE)


OPERATIONS: dict[Op, Operation] = {
    Op.SECINFO: security_of_name,
    Op.SECINFO_NO_NAME: security,
}
