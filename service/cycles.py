"""Cyclic garbage in the daemon: looked for among what is new, never among all there is.

Python looks for it by visiting every object that could be in a cycle, and stops the world
meanwhile: with a large namespace in memory, or a pass over one, that was 100 to 500 ms, in which a
guest's read stood still.  Nearly all that is old here is no garbage and in no cycle, is freed when
the last reference goes, and is not worth a second look.

So what has survived a look at the oldest generation is *frozen*: no later look visits it.  A look
then visits what has come since, some thousand objects, about 2 ms.  The price: what becomes a
garbage cycle after it was frozen is not found.  Requests leave none behind (test_cycles.py).
"""

import contextlib
import gc
from collections.abc import Iterator

YOUNG = 500  # new objects between two looks at the youngest
MIDDLE = 4  # of these looks between two at the middle generation
OLD = 1  # of those before one at all that is not frozen


def _freeze(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


@contextlib.contextmanager
def short_looks() -> Iterator[None]:
    """Short looks for cyclic garbage while it lasts; process-wide."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.collect()  # Python waits for a quarter more than it saw at the last one
    gc.callbacks.append(_freeze)
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(_freeze)
        gc.unfreeze()
