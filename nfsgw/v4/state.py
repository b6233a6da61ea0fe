"""What clients have open and locked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nfsgw.files import Place
from nfsgw.v4.protocol import Failed, Status
from nfsgw.v4.stateids import SPECIAL, Stateid

if TYPE_CHECKING:
    from nfsgw.v4.current import Current


@dataclass(slots=True, eq=False)
class Open:
    """A file that an open-owner of a client has open."""

    uid: int
    access: int
    deny: int


class State:
    """Opens and locks of all clients."""

    def for_io(
        self, current: "Current", stateid: Stateid, place: Place, wanted: int
    ) -> Open | None:
        """What a stateid allows for READ, or WRITE, of the file at ``place`` (access.READ, WRITE).

        The Open: permission was checked when the client opened the file. None: it has to be checked
        now (a special stateid, or the user is not the one who opened it). BAD_STATEID, OLD_STATEID,
        OPENMODE, LOCKED, GRACE, STALE.
        """
        if stateid.other in SPECIAL:
            return None
        raise Failed(Status.BAD_STATEID)
