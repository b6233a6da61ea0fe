"""All operations that this server has, by their number.

The others are NOTSUPP: pNFS, delegations, and what only 4.0 has.
"""

from nfsgw.v4 import (
    attribute_ops,
    clone_ops,
    data_ops,
    directory_ops,
    lookup_ops,
    open_ops,
    security_ops,
    sessions_ops,
    state_ops,
    xattr_ops,
)
from nfsgw.v4.current import Operation
from nfsgw.v4.protocol import Op

_MODULES = (
    attribute_ops, clone_ops, data_ops, directory_ops, lookup_ops, open_ops, security_ops,
    sessions_ops, state_ops, xattr_ops,
)  # fmt: skip
OPERATIONS: dict[int, Operation] = {
    number: operation for module in _MODULES for number, operation in module.OPERATIONS.items()
}
LAST_OP = {1: Op.RECLAIM_COMPLETE, 2: Op.REMOVEXATTR}  # by minor version
FAILED_BODY: dict[int, bytes] = {Op.SETATTR: bytes(4)}  # no attribute is set
