"""What the operations of one compound hand on to each other (RFC 8881, 2.10.2 and 16.2.3.1)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nfsgw.files import Files, Place
from nfsgw.rpc import Call
from nfsgw.v4.protocol import Failed, Status

if TYPE_CHECKING:
    from nfsgw.v4.sessions import Session
    from nfsgw.v4.state import State


class Stateid(NamedTuple):
    """``seqid`` counts the changes of a state; ``other`` (12 bytes) says which it is."""

    seqid: int
    other: bytes


class PseudoRoot(NamedTuple):
    """The directory of all exports that the client may use: what NFSv4 mounts at ``/``."""


At = Place | PseudoRoot


@dataclass(slots=True)
class Current:
    """One compound in progress: current and saved filehandle, each with its stateid."""

    call: Call
    minor: int
    files: Files
    state: "State"
    session: "Session | None" = None
    at: At | None = None
    saved: At | None = None
    stateid: Stateid | None = None
    saved_stateid: Stateid | None = None

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
