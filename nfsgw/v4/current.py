"""What the operations of one compound hand on to each other (RFC 8881, 2.10.2 and 16.2.3.1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nfsgw.files import Files, Place
from nfsgw.gate import Outcome
from nfsgw.rpc import Call
from nfsgw.v4.protocol import Failed, Status
from nfsgw.v4.stateids import Stateid
from nfsgw.xdr import Packer, Unpacker

if TYPE_CHECKING:
    from nfsgw.v4.sessions import Session
    from nfsgw.v4.state import State


class PseudoRoot(NamedTuple):
    """The directory of all exports that the client may use: what NFSv4 mounts at ``/``."""


At = Place | PseudoRoot


@dataclass(slots=True)
class Current:
    """One compound in progress: current and saved filehandle, each with its stateid.

    An operation that changes what has to be on disk before it is answered sets ``must_store``;
    one whose change need only be seen by the mount sets ``must_show``. The compound waits once,
    at its end.  ``exports_ns``: when it began, the exports were as they have been since then.
    """

    call: Call
    minor: int
    files: Files
    state: "State"
    session: "Session | None" = None
    at: At | None = None
    saved: At | None = None
    stateid: Stateid | None = None
    saved_stateid: Stateid | None = None
    must_store: bool = False
    must_show: bool = False
    exports_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.exports_ns = self.files.exports.changed_ns

    def go(self, at: At | None) -> None:
        """Another current filehandle; the current stateid was that of the old one."""
        self.at = at
        self.stateid = None

    def save(self) -> None:
        """SAVEFH; NOFILEHANDLE."""
        if self.at is None:
            raise Failed(Status.NOFILEHANDLE)
        self.saved, self.saved_stateid = self.at, self.stateid

    def restore(self) -> None:
        """RESTOREFH; NOFILEHANDLE."""
        if self.saved is None:
            raise Failed(Status.NOFILEHANDLE)
        self.at, self.stateid = self.saved, self.saved_stateid

    def place(self) -> Place:
        """The current file; NOFILEHANDLE, or ROFS for the pseudo-root, which nobody changes."""
        return self._place(self.at)

    def saved_place(self) -> Place:
        return self._place(self.saved)

    @staticmethod
    def _place(at: At | None) -> Place:
        if at is None:
            raise Failed(Status.NOFILEHANDLE)
        if isinstance(at, PseudoRoot):
            raise Failed(Status.ROFS)
        return at


Operation = Callable[[Current, Unpacker, Packer], Outcome]
"""Reads its arguments and appends the body of its result, for status OK. Raises Failed, an error of
the engine's, or Garbage; what it has appended by then is forgotten. May be a generator (gate.py).
"""
