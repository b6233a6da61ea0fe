"""fsck of what is not LMDB's: blocks' content (``--data``) and the index's files."""

from pathlib import Path

from engine.findings import Report
from engine.fingerprints import RECENT_FILE, run_files
from engine.fsck_maps import MapsCheck
from engine.inode import Inode
from engine.scrub import Scrub
from engine.superblock import BLOCK_BYTES
from native.fingerprints import check_run

READ_BYTES = 1 << 20


def check_data(
    run: Scrub, maps: MapsCheck, tails: list[tuple[str, Inode]], report: Report
) -> None:  # fmt: skip
    """Read every block; and again the last one of each file that does not fill it (``tails``)."""
    try:
        run.run()
        _tails(run, maps, tails, report)
    finally:
        run.close()
    for owner in run.result.owners:
        for hit in owner.hits:
            if not hit.lost:
                problem = f"slot {hit.address}: content fails its checksum"
                report.find("F10", f"{owner} block {hit.block}", problem)


def _tails(
    run: Scrub, maps: MapsCheck, tails: list[tuple[str, Inode]], report: Report
) -> None:  # fmt: skip
    judged: dict[tuple[int, int], bool] = {}
    for where, inode in tails:
        block, end = divmod(inode.size, BLOCK_BYTES)
        found = maps.entry(inode, block)
        if found is None:
            continue
        key = (found[0], end)
        if key not in judged:
            judged[key] = not any(run.block(found[0])[end:])
        if not judged[key]:
            report.find("F18", where, f"block {block} has bytes past the file's end")


def check_index(index: Path, slots: int, hash_seed: int, report: Report) -> list[Path]:
    """The index's files, of a closed store with so many slots; returns those that are bad."""
    bad = []
    recent = index / RECENT_FILE
    if recent.is_file() and (problem := _recent(recent, slots)):
        report.find("F17", str(recent), problem)
        bad.append(recent)
    for _, _, file in run_files(index):
        found = check_run(hash_seed, file, slots)
        if found is None:
            report.find("F17", str(file), "no whole run")
        elif any(found):
            report.find("F17", str(file), f"{found[0]} entries of no slot, {found[1]} bad pages")
        else:
            continue
        bad.append(file)
    return bad


def _recent(file: Path, slots: int) -> str | None:
    past = 0
    with file.open("rb") as entries:
        while raw := entries.read(READ_BYTES):
            words = memoryview(raw[: len(raw) // 16 * 16]).cast("Q")
            past += sum(address >= slots for address in words[1::2].tolist())
    over = file.stat().st_size % 16
    return f"{past} entries of no slot, {over} bytes left over" if over or past else None
