"""Inject bad blocks of every kind into a store, and see that scrub and reads miss none.

``python tests/engine/scrub_proof.py 10000 1``: so many blocks, from this seed.  The kinds: a
flipped bit; a block of zeroes; a misdirected write (another live block's content); a stale block
(what the same slot held in an earlier life).  Then, against a model that is plain bytes:
scrub names every file, snapshot and VM that has one of them, with exactly the right blocks, and
no other; a read of a bad block is Corrupt, of any other block right; a repair from good copies
brings all of it back.
"""

import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from damage import FLIP, MISDIRECT, STALE, ZERO, content, flip, overwrite, slots_of

from engine import ROOT_INO, Store, Volume, errors, fsck
from hypervisor.machines import MARK, Machine
from service.addresses import Context
from service.healing import scrub_repair
from service.integrity import ranges, scrub
from service.steps import run_here

BLOCK = 4096
KINDS = (FLIP, ZERO, MISDIRECT, STALE)
LIVE_PER_BAD = 6
MACHINES = 8


@dataclass
class Proof:
    """One run: the store, what each of its files should hold, what was injected."""

    root: Path
    rng: random.Random
    files: dict[str, bytes] = field(default_factory=dict)  # address of the contract -> content
    masters: list[str] = field(default_factory=list)
    injected: dict[int, str] = field(default_factory=dict)  # slot -> kind

    @property
    def path(self) -> Path:
        return self.root / "store"

    # --- the store

    def first_life(self, blocks: int) -> None:
        """Fill the slots with what will be stale, and take it away again."""
        Store.create(self.path, slab_slots=8192)
        with Store.open(self.path) as store:
            volume = store.create_volume("past")
            inode = volume.create(ROOT_INO, b"old", 0o644, 0, 0)
            for at in range(0, blocks + blocks // 2, 256):
                volume.write(inode.ino, at * BLOCK, self.rng.randbytes(256 * BLOCK))
            store.commit()
            shutil.copytree(self.path / "slabs", self.root / "past")
            store.remove_volume("past")
            store.gc()

    def second_life(self, blocks: int) -> None:
        """Golden images, VMs cloned from them and written to, snapshots, clones of volumes."""
        with Store.open(self.path) as store:
            lab = store.create_volume("lab")
            each = blocks // (2 * MACHINES)
            for n in range(MACHINES):
                self._machine(store, lab, n, each)
            store.create_snapshot(lab, "monday")
            store.clone_volume(lab, "test")
            for label in ("lab@monday", "test"):
                for key in [k for k in self.files if k.startswith("lab:")]:
                    self.files[label + key[3:]] = self.files[key]
            for n in range(MACHINES):
                self._write(lab, f"/vm-{n}/disk.raw", each // 2)

    def _machine(self, store: Store, lab: Volume, n: int, blocks: int) -> None:
        inode = lab.create(ROOT_INO, b"golden-%d.raw" % n, 0o644, 0, 0)
        data = self.rng.randbytes(blocks * BLOCK - self.rng.randrange(BLOCK))
        lab.write(inode.ino, 0, data)
        self.files[f"lab:/golden-{n}.raw"] = data
        vm = lab.mkdir(ROOT_INO, b"vm-%d" % n, 0o755, 0, 0)
        lab.set_mark(vm.ino, MARK, msgspec.msgpack.encode(Machine(f"web-{n}", f"uuid-{n}")))
        store.clone_file(lab, inode.ino, lab, vm.ino, b"disk.raw")
        self.files[f"lab:/vm-{n}/disk.raw"] = data
        self._write(lab, f"/vm-{n}/disk.raw", blocks // 4)
        part = lab.create(vm.ino, b"part.raw", 0o644, 0, 0)
        count = blocks // 3 * BLOCK
        store.clone_range(lab, inode.ino, 0, lab, part.ino, 0, count)
        self.files[f"lab:/vm-{n}/part.raw"] = data[:count]
        store.commit()

    def _write(self, volume: Volume, path: str, count: int) -> None:
        key = f"{volume}:{path}"
        held = bytearray(self.files[key])
        ino = volume.resolve(path).ino
        for _ in range(count):
            at = self.rng.randrange(len(held) // BLOCK) * BLOCK
            held[at : at + BLOCK] = self.rng.randbytes(BLOCK)
            volume.write(ino, at, held[at : at + BLOCK])
        self.files[key] = bytes(held)

    # --- injection

    def inject(self, store: Store, count: int) -> None:
        live = sorted({slot for key in self.files for slot in self._slots(store, key)})
        assert len(live) > 2 * count, "too few live blocks for so many bad ones"
        for n, slot in enumerate(self.rng.sample(live, count)):
            kind = KINDS[n % len(KINDS)]
            good = content(store, slot)
            if kind == FLIP:
                flip(store, slot, self.rng)
            elif kind == ZERO:
                overwrite(store, slot, bytes(BLOCK))
            elif kind == MISDIRECT:
                overwrite(store, slot, content(store, self.rng.choice(live)))
            else:
                overwrite(store, slot, self._past(store, slot))
            if content(store, slot) != good:
                self.injected[slot] = kind

    def _past(self, store: Store, slot: int) -> bytes:
        slab, at = divmod(slot, store.pool.superblock.slab_slots)
        with (self.root / "past" / f"{slab:08d}.slab").open("rb") as file:
            file.seek(at * BLOCK)
            return file.read(BLOCK)

    def _slots(self, store: Store, key: str) -> list[int]:
        volume, path = locate(store, key)
        return slots_of(volume, volume.resolve(path))

    def expected(self, store: Store) -> dict[str, list[int]]:
        """Which blocks of which file are bad."""
        found = {
            key: [n for n, slot in enumerate(self._slots(store, key)) if slot in self.injected]
            for key in self.files
        }
        return {key: blocks for key, blocks in found.items() if blocks}

    # --- what must be so

    def check_scrub(self, told: dict[str, Any], expected: dict[str, list[int]]) -> None:
        assert told["bad_blocks"] == len(self.injected), told["bad_blocks"]
        rows = {row["file"]: row for row in told["files"]}
        assert rows.keys() == expected.keys()
        for key, blocks in expected.items():
            row = rows[key]
            machine = key.split("vm-")[1].split("/")[0] if "/vm-" in key else None
            assert row["bad_blocks"] == len(blocks), key
            assert row["blocks"] == ranges(blocks), key
            assert row["vm"] == (f"web-{machine}" if machine else None), key

    def check_reads(self, store: Store, expected: dict[str, list[int]]) -> tuple[int, int]:
        """Every block of every file: right, or Corrupt iff it is bad.  (good, bad) blocks."""
        good = bad = 0
        for key, data in self.files.items():
            volume, path = locate(store, key)
            ino, corrupt = volume.resolve(path).ino, set(expected.get(key, ()))
            for block in range(-(-len(data) // BLOCK)):
                want = data[block * BLOCK : (block + 1) * BLOCK]
                try:
                    got = volume.read(ino, block * BLOCK, BLOCK)
                except errors.Corrupt:
                    assert block in corrupt, (key, block)
                    bad += 1
                else:
                    assert block not in corrupt, (key, block)
                    assert got == want, (key, block)
                    good += 1
        return good, bad


def locate(store: Store, key: str) -> tuple[Volume, str]:
    label, path = key.split(":", 1)
    name, at, snapshot = label.partition("@")
    volume = store.volume(name)
    return (store.snapshot(volume, snapshot) if at else volume), path


def run(count: int, seed: int) -> dict[str, Any]:
    """The whole proof; its figures, or an AssertionError."""
    with tempfile.TemporaryDirectory(prefix="ramet-scrub-") as scratch:
        proof = Proof(Path(scratch), random.Random(seed))
        proof.first_life(count * LIVE_PER_BAD)
        proof.second_life(count * LIVE_PER_BAD)
        with Store.open(proof.path) as store:
            return _prove(proof, store, count)


def _prove(proof: Proof, store: Store, count: int) -> dict[str, Any]:
    context = Context(store)

    def here(steps: Any) -> dict[str, Any]:
        answer: dict[str, Any] = run_here(steps, store.commit, lambda: None)
        return answer

    clean = here(scrub(context, 0.0))
    assert clean["clean"], clean
    proof.inject(store, count)
    expected = proof.expected(store)
    begun = time.monotonic()
    told = here(scrub(context, 0.0))
    elapsed = time.monotonic() - begun
    proof.check_scrub(told, expected)
    good, bad = proof.check_reads(store, expected)
    assert store.pool.corrupt_reads.count == bad
    healed = _heal(proof, context, here, expected)
    assert here(scrub(context, 0.0))["clean"]
    assert proof.check_reads(store, {}) == (good + bad, 0)
    store.gc()
    assert fsck.check(store, data=True).findings == []
    kinds = [list(proof.injected.values()).count(kind) for kind in KINDS]
    return {
        "injected": dict(zip(KINDS, kinds, strict=True)), "found": told["bad_blocks"],
        "files_named": len(told["files"]), "reads_right": good, "reads_eio": bad,
        "healed": healed, "checked_mib": told["checked_bytes"] >> 20,
        "read_mib_s": told["read_mib_s"], "scrub_s": round(elapsed, 2),
    }  # fmt: skip


def _heal(proof: Proof, context: Context, here: Any, expected: dict[str, list[int]]) -> int:
    """Every file from its good copy, everywhere; returns how many blocks that took."""
    healed = 0
    for key in expected:
        copy = proof.root / "copy"
        copy.write_bytes(proof.files[key])
        told = here(scrub_repair(context, key, str(copy), True))
        assert told["not_healed"] == [], told
        healed += told["healed"]
    return healed


if __name__ == "__main__":
    figures = run(int(sys.argv[1]), int(sys.argv[2]))
    for name, value in figures.items():
        print(f"{name:12} {value}")
