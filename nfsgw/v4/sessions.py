"""Sessions: slots that make an operation happen exactly once (RFC 8881, 2.10)."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Session:
    """A session of a client."""

    id: bytes
