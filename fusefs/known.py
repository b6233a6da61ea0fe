"""What a mount's kernel may know: which inodes, and of which of them it keeps what it was told.

A change by another door must be told to the kernel (invalidate.py), which takes a thread and a
wait; of most files that NFS clients use the mount's kernel has never heard.  So this counts what
libfuse calls lookups: each answer that names an inode to the kernel adds one, a ``forget`` takes
back as many as it says, and at none the kernel has dropped it (fuse_lowlevel.h, ``forget``).  An
answer that the kernel did not want any more is counted all the same: then it is told once too
often, never too seldom.

What the kernel keeps of an inode - attributes, pages - it has from answers since the last notice:
after one, there is nothing to tell until it has asked again.  A name is kept as long as its inode.
Names right below the root are noted as well: there is no name above them to be invalidated.

The kernel has an inode after its last name as well, and without a file handle: a working directory,
what was opened with O_PATH.  What the inode was is kept here, to be told until it is forgotten.
"""

from collections.abc import Iterable

from engine import Inode, numbers
from fusefs.pages import Pages

_ONCE, _TOLD = 2, 1  # a lookup; the bit below: answered since the last notice


class Known:
    """One mount's; all calls on the loop's thread, in the step that answers."""

    def __init__(self) -> None:
        self._inodes = {numbers.ROOT: _ONCE | _TOLD}  # the root is never forgotten
        self.names_at_root: set[bytes] = set()  # told since somebody emptied it
        self.departed: dict[int, Inode] = {}
        self.pages = Pages()

    def __contains__(self, number: int) -> bool:
        """Whether the kernel may have a name, or anything else, of an inode."""
        return number in self._inodes

    def named(self, number: int) -> None:
        """An answer gives the kernel an inode: lookup, creation, an entry of a directory."""
        self._inodes[number] = (self._inodes.get(number, 0) + _ONCE) | _TOLD

    def told(self, number: int) -> None:
        """An answer says something of an inode that the kernel has."""
        inodes = self._inodes
        count = inodes.get(number)
        if count is not None and not count & _TOLD:
            inodes[number] = count | _TOLD

    def is_told(self, number: int) -> bool:
        """Whether the kernel may keep anything of an inode."""
        return bool(self._inodes.get(number, 0) & _TOLD)

    def outdated(self, number: int) -> bool:
        """Whether a change must be told.  It is from then on: the kernel has to drop all it keeps
        of the inode now, its pages too."""
        count = self._inodes.get(number, 0)
        if count & _TOLD:
            self._inodes[number] = count & ~_TOLD
        return bool(count & _TOLD)

    def departs(self, number: int, inode: Inode) -> None:
        """An inode that may have lost its last name."""
        if not inode.nlink and number in self._inodes:
            self.departed[number] = inode

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """(inode, lookups) that the kernel takes back."""
        for number, lookups in forgotten:
            count = self._inodes.get(number, 0) - _ONCE * lookups
            if count >= _ONCE:
                self._inodes[number] = count
            elif number != numbers.ROOT:
                self._inodes.pop(number, None)
                self.departed.pop(number, None)
                self.pages.forget(number)
