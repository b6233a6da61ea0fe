"""A small persistent table for the layers above: jobs, hosts, shares."""

from engine import errors
from engine.pool import Pool


class Records:
    """The store's table of records; changes are in the next commit."""

    def __init__(self, pool: Pool, table: dict[str, bytes]) -> None:
        self._pool = pool
        self._table = table

    def get(self, key: str) -> bytes | None:
        return self._table.get(key)

    def put(self, key: str, value: bytes) -> None:
        if not key or len(key.encode()) > 500:
            raise errors.InvalidArgument("a record's key has 1 to 500 bytes")
        self._pool.check_room()
        self._table[key] = value
        self._pool.put("records", key.encode(), value)

    def delete(self, key: str) -> None:
        self._pool.check_writable()
        if self._table.pop(key, None) is not None:
            self._pool.delete("records", key.encode())

    def items(self, prefix: str = "") -> list[tuple[str, bytes]]:
        return sorted((k, v) for k, v in self._table.items() if k.startswith(prefix))
