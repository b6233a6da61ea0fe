"""The write verifier: how a client learns that data it was not promised may be gone.

RFC 1813, 3.3.7 and 3.3.21 (RFC 8881, 18.32 and 18.3 for version 4): what was written UNSTABLE may
be lost only together with a change of the verifier; a client that sees another one writes again
what it has not committed. So it is new with each start, once the store has failed, and after a
restore, which takes back what was written without a commit of its own.
"""

import secrets

from engine import Change, Store

VERIFIER_BYTES = 8


class WriteVerifier:
    """One a server; ``current`` is asked for with each answer that has it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._failed = store.failed
        self._value = secrets.token_bytes(VERIFIER_BYTES)
        store.listeners.append(self._volumes_changed)

    def current(self) -> bytes:
        if self._store.failed != self._failed:
            self._failed = self._store.failed
            self.renew()
        return self._value

    def renew(self) -> None:
        """After a write or commit that failed: nothing uncommitted is vouched for."""
        self._value = secrets.token_bytes(VERIFIER_BYTES)

    def _volumes_changed(self, change: Change) -> None:
        if change.what == "volumes" and change.name is not None:  # restored (or renamed: no harm)
            self.renew()
