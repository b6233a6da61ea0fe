"""How much of everything clients may have: memory is bounded whatever they do.

What is refused at a limit, or because an address has its part of it (origins.py), is answered
DELAY, after what belongs to clients whose lease has run out was taken away, and, for a new client
or session, a silent one that has nothing open; version 4.1 has no other word for it (RFC 8881,
15.1.1.3).
"""

from dataclasses import dataclass

from nfsgw.v4.protocol import LEASE_S

REQUEST_BYTES_MAX = (1 << 20) + 8192  # a record: a megabyte of data and its compound
RESPONSE_BYTES_MAX = (1 << 20) + 8192
OWNER_BYTES_MAX = 1024  # of clients, open-owners, lock-owners (NFS4_OPAQUE_LIMIT)
TAG_BYTES_MAX = 1024
OPERATIONS_MAX = 128  # of a compound


@dataclass(frozen=True)
class Limits:
    """Times in seconds. ``courtesy_s``: how long what a silent client has is kept when nobody
    else asks for it. ``turn_s``: of a compound, before others have theirs."""

    lease_s: float = LEASE_S
    courtesy_s: float = 3600
    turn_s: float = 0.002
    clients: int = 1024  # confirmed ones, and as many that are not yet
    sessions_of_client: int = 16
    slots_of_session: int = 64
    slots: int = 16_384
    cached_bytes: int = 4096  # the largest reply that a slot keeps
    opens_of_client: int = 32_768
    opens: int = 131_072
    locks_of_client: int = 32_768  # ranges, and lock-owners of files
    locks: int = 131_072
