"""The write verifier (RFC 1813, 3.3.7; RFC 8881, 18.32.3): how a client knows that data are lost.

What was written UNSTABLE is acknowledged before it is on disk. A client keeps such data until a
COMMIT answers with the verifier that its writes were answered with; when it is another, it writes
them again. So there is a new one whenever data may be gone: with each start of the server, and
after a write or a commit that the store's disk has failed.
"""

import os

VERIFIER_BYTES = 8


class WriteVerifier:
    """The verifier of this instant, one for all files and both versions of NFS."""

    def __init__(self) -> None:
        self.value = os.urandom(VERIFIER_BYTES)

    def renew(self) -> None:
        """What was acknowledged and not committed may be lost."""
        old = self.value
        while self.value == old:
            self.value = os.urandom(VERIFIER_BYTES)
