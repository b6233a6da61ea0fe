"""NFS version 4 as an RPC program: NULL and COMPOUND.

Retries are the sessions' business (RFC 8881, 2.10.6), not the duplicate-request cache's.  Who may
use no export has no business here at all: who a client is, is what it says, and a stranger who says
that he is another would end that one's sessions and locks.  What a client has from the time when it
was admitted expires with its lease.
"""

from nfsgw.files import Files
from nfsgw.gate import Outcome
from nfsgw.rpc import AUTH_TOOWEAK, NO_SHORT_WAYS, AuthFailed, Call, ProcedureUnavailable
from nfsgw.v4.compound import Compound
from nfsgw.v4.protocol import PROGRAM, VERSION
from nfsgw.v4.state import State
from nfsgw.xdr import Packer, Unpacker

NULL, COMPOUND = 0, 1


class Nfs4:
    """Minor versions 1 and 2.  ``state.sweep`` wants to be called now and then."""

    number = PROGRAM
    versions = (VERSION,)
    again = NO_SHORT_WAYS

    def __init__(self, files: Files, state: State) -> None:
        self.files = files
        self.state = state

    def cached(self, call: Call) -> bool:
        return False

    def call(self, call: Call, args: Unpacker, out: Packer) -> Outcome:
        if call.procedure == NULL:
            return None
        if call.procedure != COMPOUND:
            raise ProcedureUnavailable
        if not self.files.exports.admit(call.peer.address):
            raise AuthFailed(AUTH_TOOWEAK)
        return Compound(self.files, self.state, call, args, out).run()
