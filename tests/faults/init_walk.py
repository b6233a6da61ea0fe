"""Every call of ``init`` that writes, syncs, allocates or makes a name fails once.

Run under the interposer.  Afterwards the directory is as it was before, and init works.
"""

import errno
import json
import shutil
import tempfile
from pathlib import Path

from injection import KINDS, Faults

from engine import ROOT_INO, Store, errors, fsck

SLAB_SLOTS = 64


def check_usable(path: Path) -> None:
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        lab.write(lab.create(ROOT_INO, b"file", 0o644, 0, 0).ino, 0, b"data" * 5000)
        store.commit()
        assert fsck.check(store, data=True).findings == []


def fails(path: Path) -> bool:
    """Whether init failed; with an error that says what to do, and nothing left behind."""
    made_before = path.exists()
    try:
        Store.create(path, slab_slots=SLAB_SLOTS)
    except (errors.NoSpace, errors.StoreFailed):
        assert path.exists() == made_before
        assert not made_before or not any(path.iterdir())
        return True
    return False


def walk(root: Path, kind: int) -> int:
    faults, points = Faults(), 0
    for error, made_before in ((errno.EIO, True), (errno.ENOSPC, False)):
        nth = 1
        while True:
            path = root / f"store-{nth % 2}"
            shutil.rmtree(path, ignore_errors=True)
            if made_before:
                path.mkdir()
            faults.arm(kind, path, nth, error)
            failed = fails(path)
            fired = faults.fired
            faults.disarm()
            if not fired:
                break
            if failed:
                Store.create(path, slab_slots=SLAB_SLOTS)
            check_usable(path)
            points += 1
            nth += 1
    return points


def interrupted(root: Path) -> None:
    """What a crash leaves: init goes over it; but never over a slab."""
    path = root / "interrupted"
    for name in ("slabs", "index", "run", "meta.new"):
        (path / name).mkdir(parents=True)
    (path / "meta.new" / "data.mdb").write_bytes(b"half")
    Store.create(path, slab_slots=SLAB_SLOTS)
    check_usable(path)
    shutil.rmtree(path / "meta")
    try:
        Store.create(path)
    except errors.NotEmpty:
        assert (path / "slabs" / "00000000.slab").exists()
        return
    raise AssertionError("init destroyed the slabs of a store without meta")


def main() -> None:
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=base, prefix="ramet-init-") as root:
        points = {name: walk(Path(root), kind) for name, kind in KINDS.items()}
        interrupted(Path(root))
    print(json.dumps(points))


if __name__ == "__main__":
    main()
