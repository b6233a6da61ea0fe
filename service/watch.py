"""What an administrator should know before a guest pauses: conditions, each with the time it began.

A condition is looked at once a second; when it begins or ends, that is a line in the log.  Nothing
here changes anything: gc has thresholds of its own (service/cleaner.py).
"""

import time
from typing import Any

from engine import Store
from service.log import log

SPACE_LOW_SHARE = 1 / 10  # free, of free and stored
SPACE_LOW_BYTES = 256 << 20
METADATA_MAP_SHARE = 8 / 10  # of the map that LMDB was opened with


class Watch:
    """One store's conditions.  ``look`` finds which hold, ``events`` tells them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since: dict[str, tuple[float, str]] = {}

    def look(self) -> None:
        found = dict(self._conditions())
        for kind in self._since.keys() - found.keys():
            del self._since[kind]
            log(f"{kind} is over")
        for kind, text in found.items():
            if kind not in self._since:
                log(f"{kind}: {text}")
            began = self._since[kind][0] if kind in self._since else time.time()
            self._since[kind] = began, text

    def _conditions(self) -> list[tuple[str, str]]:
        store = self._store
        found = []
        if store.failed is not None:
            found.append(("failed", f"{store.failed}; reopen the store"))
        space = store.space()
        least = max(SPACE_LOW_BYTES, (space.free_bytes + space.physical_bytes) * SPACE_LOW_SHARE)
        if space.free_bytes < least:
            found.append(("space_low", f"{space.free_bytes >> 20} MiB are free; delete files, "
                          "remove snapshots or add space"))  # fmt: skip
        if not store.pool.read_only and not store.pool.reserve.whole:
            found.append(("metadata_low", "the reserve for metadata is not whole: what makes "
                          "something new is refused; delete files or add space"))  # fmt: skip
        elif space.metadata_bytes > store.pool.meta.map_bytes * METADATA_MAP_SHARE:
            found.append(("metadata_low", f"{space.metadata_bytes >> 20} MiB of metadata; remove "
                          "snapshots and clones"))  # fmt: skip
        found += [
            (f"quota_low {volume.name}", f"{volume.referenced_bytes} of {volume.quota_bytes} bytes")
            for volume in store.volumes()
            if volume.quota_bytes
            and volume.referenced_bytes > volume.quota_bytes * (1 - SPACE_LOW_SHARE)
        ]
        return found

    def events(self) -> list[dict[str, Any]]:
        """What holds now: kind, since when (UTC, ISO 8601), in words."""
        return [
            {"kind": kind, "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
             "text": text}
            for kind, (began, text) in sorted(self._since.items())
        ]  # fmt: skip
