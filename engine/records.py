"""A small persistent table for the layers above: jobs, hosts, shares."""

from engine import errors
from engine.pool import Pool

RECORD_BYTES_ADMITTED = 4080  # LMDB keeps it in one page of its own


class Records:
    """The store's table of records; changes are in the next commit."""

    def __init__(self, pool: Pool, table: dict[str, bytes]) -> None:
        self._pool = pool
        self._table = table

    def get(self, key: str) -> bytes | None:
        return self._table.get(key)

    def put(self, key: str, value: bytes) -> None:
        """NoSpace when the commit of it might meet a full disk."""
        if not key or len(key.encode()) > 500:
            raise errors.InvalidArgument("a record's key has 1 to 500 bytes")
        self._pool.check_room()
        self._put(key, value)

    def put_admitted(self, key: str, value: bytes) -> None:
        """``put`` for what tells of a change that was just admitted, or undone: never NoSpace.

        A page at most, one or two a change: it lives on what that change asked for (CALL_PAGES),
        or on the floor, as deletes do (engine/reserve.py).
        """
        assert len(value) <= RECORD_BYTES_ADMITTED, f"a record of {len(value)} bytes"
        self._pool.check_writable()
        self._put(key, value)

    def _put(self, key: str, value: bytes) -> None:
        self._table[key] = value
        self._pool.put("records", key.encode(), value)

    def delete(self, key: str) -> None:
        self._pool.check_writable()
        if self._table.pop(key, None) is not None:
            self._pool.delete("records", key.encode())

    def items(self, prefix: str = "") -> list[tuple[str, bytes]]:
        return sorted((k, v) for k, v in self._table.items() if k.startswith(prefix))
