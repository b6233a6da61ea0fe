"""What has been written since the last commit, as long as nothing else has changed.

Then a sync need not wait for a commit: the intent log (engine/intent_log.py) takes what is here.
After a crash the store as a whole is in a state that it had: a record of the log has *all* that was
written and is neither durable nor in the log yet, of whatever file, and where anything but file
data has changed (a name, a size that was set, a clone, a record) there is only a commit.

Whatever changes a record, a node of a namespace, an inode or an epoch counts one in ``changes``; a
write says afterwards that it was nothing else (``wrote``).  What nobody has explained blocks the
log until the commit that has it is durable.  So a new kind of change that knows nothing of this is
safe, unless it changes slots and extent maps alone, as healing does: that counts by itself.

Engine thread only.
"""

from collections import deque
from typing import NamedTuple

WRITES_MAX = 128
BYTES_MAX = 512 << 10  # of one record; more is as quick by a commit, which has to write it anyway


class Written(NamedTuple):
    """A range of a file; ``generation``: of the commit that will have it."""

    generation: int
    volume_id: int
    ino: int
    offset: int
    length: int


class Intents:
    """Of one store.  ``pool.generation`` is the generation of what changes now."""

    def __init__(self) -> None:
        self.changes = 0
        self.pending: deque[Written] = deque()
        self._bytes = 0
        self._explained = 0  # of ``changes``
        self._blocked = 0  # the last generation in which more than data changed
        self._durable = 0

    def look(self, generation: int) -> None:
        """Before a write and before a capture: what changed until now was something else."""
        if self.changes != self._explained:
            self._explained = self.changes
            self._block(generation)

    def _block(self, generation: int) -> None:
        self._blocked = generation
        self.pending.clear()
        self._bytes = 0

    def wrote(self, generation: int, volume_id: int, ino: int, offset: int, length: int) -> None:
        """After a write: what has changed since ``look`` is this range, its times and its size."""
        self._explained = self.changes
        if self._blocked == generation:
            return
        pending = self.pending
        self._bytes += length
        if pending:
            last = pending[-1]
            if last[:3] == (generation, volume_id, ino):
                if (last.offset, last.length) == (offset, length):
                    self._bytes -= length
                    return
                if last.offset + last.length == offset:
                    offset, length = last.offset, last.length + length
                    pending.pop()
        pending.append(Written(generation, volume_id, ino, offset, length))
        if len(pending) > WRITES_MAX or self._bytes > BYTES_MAX:
            self._block(generation)

    def captured(self) -> None:
        """After a capture, which writes inodes back into their trees: no change to anybody."""
        self._explained = self.changes

    def durable(self, generation: int) -> None:
        """A commit is on disk."""
        self._durable = generation
        while self.pending and self.pending[0].generation <= generation:
            self._bytes -= self.pending.popleft().length

    def loggable(self, generation: int) -> bool:
        """Whether ``pending`` is all that a power cut now would lose."""
        self.look(generation)
        return self._blocked <= self._durable

    def logged(self) -> None:
        """A record has all of ``pending``."""
        self.pending.clear()
        self._bytes = 0

    def not_logged(self, generation: int) -> None:
        """That record could not be written."""
        self._block(generation)
