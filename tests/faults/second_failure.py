"""A child of test_second_failure.py: LMDB's root page cannot be written, after the log could not.

Says what a read of a node that is not in memory gives then.
"""

import errno
import shutil
import sys
import tempfile
from pathlib import Path

from injection import WRITE, Faults

from engine import ROOT_INO, Store
from engine.commit import write_or_fail


def main(folder: Path, *, log_first: bool) -> None:
    Store.create(folder / "store", slab_slots=256)
    store = Store.open(folder / "store")
    volume = store.create_volume("lab")
    ino = volume.create(ROOT_INO, b"f", 0o644, 0, 0).ino
    volume.write(ino, 0, b"x" * 409_600)
    store.commit()
    faults = Faults()
    volume.write(ino, 0, b"y" * 4096)
    faults.count(WRITE, folder / "store" / "meta")
    store.commit()
    last = faults.calls
    volume.write(ino, 0, b"z" * 4096)
    commit = store.capture()
    assert commit is not None
    if log_first:
        store.fail("the intent log could not be written")
    faults.arm(WRITE, folder / "store" / "meta", last, errno.EIO, sticky=True)
    try:
        write_or_fail(commit, store.pool)
        print("the commit did not fail")
    except Exception:
        assert faults.fired
    finally:
        store.finish(commit)
    faults.disarm()
    store.pool.core.forget()
    volume.drop_caches()
    store.pool.nodes._nodes.clear()
    print(volume.read(ino, 40_960, 4).decode())
    store.abandon()


if __name__ == "__main__":
    made = Path(tempfile.mkdtemp())
    try:
        main(made, log_first=sys.argv[1] == "log")
    finally:
        shutil.rmtree(made)
