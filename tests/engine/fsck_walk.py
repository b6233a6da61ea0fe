"""Random damage to random records of a sound store, and what repair makes of it.

``python tests/engine/fsck_walk.py 1000 7``: so many rounds from this seed.  A round fails when an
exception escapes that is none of ours, when a second repair still finds something to do, or when
what is left is more than data that nobody can bring back.
"""

import contextlib
import random
import shutil
import sys
import tempfile
from pathlib import Path

import xxhash
from damage import Surgery
from test_fsck import LOST, build

from engine import ROOT_INO, Store, Volume, errors
from engine.fsck import check_path
from engine.repair import repair

TABLES = (
    "nodes",
    "nodes",
    "nodes",
    "nodes",
    "volumes",
    "slots",
    "orphans",
    "records",
    "reclaim",
    "super",
)
REFUSED = "refused"
BLOCK = 4096
# Past any repair as well: entries that name no slot, and what hangs on numbers that have run out.
LEFT = LOST | {"F1", "F4"}


def damage(surgery: Surgery, rng: random.Random) -> str:
    """One record changed, cut, exchanged, doubled or taken away; says what."""
    meta, table = surgery.meta, rng.choice(TABLES)
    records = meta.items(table)
    if not records:
        return "nothing"
    key, value = rng.choice(records)
    way = rng.choice(["flip", "word", "cut", "drop", "exchange", "copy"])
    if way == "drop":
        new = None
    elif way == "cut":
        new = value[: rng.randrange(len(value) + 1)]
    elif way == "exchange":
        new = rng.choice(records)[1]
    else:
        new = bytearray(value)
        at = rng.randrange(max(len(new), 1))
        if way == "flip" and new:
            new[at] ^= 1 << rng.randrange(8)
        elif way == "word":
            word = rng.choice([0, 1, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64)])
            new[at : at + 8] = word.to_bytes(8, "little")
        new = bytes(new)
    if way == "copy":
        spare = bytearray(key)
        spare[rng.randrange(len(spare))] ^= 1 << rng.randrange(8)
        key = bytes(spare)
    if table == "nodes" and new is not None and len(new) >= 48 and rng.random() < 0.8:
        sealed = bytearray(new)
        sealed[24:32] = bytes(8)
        sealed[24:32] = xxhash.xxh3_64_intdigest(sealed, surgery.seed).to_bytes(8, "little")
        new = bytes(sealed)
    if table == "nodes":
        node_id = int.from_bytes(key, sys.byteorder)
        surgery.drop_node(node_id) if new is None else surgery.put_node(node_id, new)
    elif new is None:
        surgery.delete(table, key)
    else:
        surgery.put(table, key, new)
    return f"{way} of {table} {key.hex()}"


def use(path: Path) -> None:
    """Open, read everything, write something: our own errors only."""
    with contextlib.suppress(errors.RametError), Store.open(path) as store:
        for volume in store.volumes():
            for each in (volume, *store.snapshots(volume)):
                with contextlib.suppress(errors.RametError):
                    read_all(each)
            with contextlib.suppress(errors.RametError):
                inode = volume.create(ROOT_INO, b"written", 0o644, 0, 0)
                volume.write(inode.ino, 0, b"x" * 3 * BLOCK)


def read_all(volume: Volume) -> None:
    pending, seen = [ROOT_INO], set()
    while pending:
        ino = pending.pop()
        for entry in volume.readdir(ino, limit=1000):
            with contextlib.suppress(errors.RametError):
                inode = volume.inode(entry.ino)
                if inode.is_dir and inode.ino not in seen:
                    seen.add(inode.ino)
                    pending.append(inode.ino)
                elif inode.is_file:
                    for at in range(0, min(inode.size, 64 * BLOCK), BLOCK):
                        with contextlib.suppress(errors.Corrupt):
                            volume.read(inode.ino, at, BLOCK)


def round_of(sound: Path, seed: int) -> str:
    """Damage, check, use, repair twice, use again; returns how it ended."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ramet-fsck-") as scratch:
        path = Path(scratch) / "store"
        shutil.copytree(sound, path)
        with Surgery(path) as surgery:
            told = [damage(surgery, rng) for _ in range(rng.randrange(1, 5))]
        try:
            found = {f.check for f in check_path(path).findings}
            first = repair(path)
            second = repair(path)
        except errors.RametError as error:
            return f"{REFUSED}: {error}"
        left = {f.check for f in second.left.findings}
        context = (seed, told, sorted(found), first, second)
        assert second.repaired == [], context
        assert {f.check for f in first.left.findings} == left, context
        assert left <= LEFT, context
        use(path)
        after = {f.check for f in check_path(path).findings}
        assert after <= left, (context, after)
        return "left " + ",".join(sorted(left)) if left else "clean"


def run(rounds: int, seed: int) -> dict[str, int]:
    ends: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="ramet-fsck-") as scratch:
        sound = Path(scratch) / "sound"
        build(sound)
        for n in range(rounds):
            end = round_of(sound, seed + n)
            ends[end] = ends.get(end, 0) + 1
    return ends


if __name__ == "__main__":
    for end, count in sorted(run(int(sys.argv[1]), int(sys.argv[2])).items()):
        print(f"{count:6} {end}")
