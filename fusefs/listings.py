"""Open directories: each is listed up to where it ended when its listing began.

A new name gets a cookie past all others.  A program that makes a file for each entry that it reads
would never come to an end; so a listing does not go past the last cookie that there was when it was
opened or rewound.  What is made later may be left out, says readdir(3).
"""


class Listings:
    """One mount's, by file handle."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, int]] = {}  # the directory's number; end of the listing
        self._next = 1

    def opened(self, number: int) -> int:
        """A handle of a directory."""
        handle = self._next
        self._next = handle + 1
        self._open[handle] = (number, 0)
        return handle

    def number(self, handle: int) -> int:
        return self._open[handle][0]

    def end(self, handle: int, start: int, next_cookie: int) -> int:
        """The first cookie that is not listed; a ``start`` of 0 begins anew."""
        number, end = self._open[handle]
        if not start or not end:
            end = next_cookie
            self._open[handle] = (number, end)
        return end

    def closed(self, handle: int) -> None:
        del self._open[handle]
