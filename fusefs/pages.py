"""Where the kernel may have pages of files, for direct writes beside them.

The kernel drops its pages of a range before it sends a direct write, and again after the answer;
but not the second time when the write is asynchronous (io_submit, io_uring; mm/filemap.c,
generic_file_direct_write).  A page that is read in between stays old, until the kernel hears of the
new mtime or, mapped, for good.  So whoever wrote past the pages gets his answer when the kernel has
dropped what it has there (invalidate.py).  Of a stretch that nobody uses by pages, as of most disks
of VMs, there is nothing to drop, and nothing to wait for.

A stretch is noted before the request is carried out.  The kernel keeps a page locked while it reads
it, so a drop waits for the reads that are under way; what is used after the drop began stays noted.
"""

STRETCH_BITS = 24  # 16 MiB


class Pages:
    """One mount's; all calls on the loop's thread."""

    def __init__(self) -> None:
        # Of each inode, by stretch: how often it was used since it was dropped.
        self._uses: dict[int, dict[int, int]] = {}

    def used(self, number: int, offset: int, length: int) -> None:
        """A read or write whose bytes the kernel keeps."""
        uses = self._uses.get(number)
        if uses is None:
            uses = self._uses[number] = {}
        for stretch in range(offset >> STRETCH_BITS, (offset + length - 1 >> STRETCH_BITS) + 1):
            uses[stretch] = uses.get(stretch, 0) + 1

    def of(self, number: int, offset: int, length: int) -> dict[int, int]:
        """The stretches of a range that the kernel may have pages of; empty: none."""
        uses = self._uses.get(number)
        if not uses:
            return {}
        stretches = range(offset >> STRETCH_BITS, (offset + length - 1 >> STRETCH_BITS) + 1)
        return {stretch: uses[stretch] for stretch in stretches if stretch in uses}

    def dropped(self, number: int, stretches: dict[int, int]) -> None:
        """The kernel has dropped all pages of stretches that ``of`` told."""
        uses = self._uses.get(number, {})
        for stretch, count in stretches.items():
            if uses.get(stretch) == count:
                del uses[stretch]

    def forget(self, number: int) -> None:
        self._uses.pop(number, None)
