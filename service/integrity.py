"""scrub, fsck and repair: what is damaged, whose it is, and what can be healed.

The engine finds slots, nodes, files; here they get the VMs they belong to.  Everything that reads
runs on a thread, in pieces, with pauses: beside a mounted store its guests come first.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from engine import Volume, errors, findings, fsck, keys, repair
from engine.owners import Owner
from engine.scrub import Scrub, ScrubResult
from engine.trace import roots_of_domain
from hypervisor.machines import MARK, read_mark
from native import audit
from service.addresses import Context
from service.healing import scrub_repair
from service.operations import Operation
from service.scrub_progress import progress
from service.steps import Steps, durable

Result = dict[str, Any]
LAST_SCRUB = "scrub:last"
RANGES_MAX = 16  # of a file's bad blocks, told one by one; the rest are counted
NAMES_STEP = 64
NAP_S = 0.25
BLOCK_BYTES = 4096
INDEX_STEP = 1 << 14  # slots entered into the index in one turn


def status(context: Context) -> Result:
    """What ``status`` says of the store's health."""
    pool = context.store.pool
    last = context.store.records.get(LAST_SCRUB)
    return {
        "corrupt_reads": pool.corrupt_reads.count,
        "corrupt_files": sorted({read.where for read in pool.corrupt_reads.latest}),
        "scrub": progress(context),
        "last_scrub": None if last is None else json.loads(last),
    }


class Pace:
    """Pauses between reads: as long as the read took (``beside`` a load), or what a rate asks."""

    def __init__(self, rate_mib_s: float, *, beside: bool) -> None:
        self._rate = rate_mib_s * (1 << 20)
        self._beside = beside

    def run(self, read: Callable[[], int]) -> float:
        """Read; returns the seconds to wait before the next one."""
        begun = time.monotonic()
        blocks = read()
        taken = time.monotonic() - begun
        pause = taken if self._beside and blocks else 0.0
        if self._rate:
            pause = max(pause, blocks * BLOCK_BYTES / self._rate - taken)
        return pause


def scrub(context: Context, rate_mib_s: float) -> Steps[Result]:
    """Read and check every live block and node; name what is bad.  Changes no block."""
    store, pool = context.store, context.store.pool
    if "scrub" in context.running:
        raise errors.Busy("a scrub runs already; see `ramet status`")
    run, begun = Scrub(pool), time.monotonic()
    context.running["scrub"] = run.result
    pace = Pace(rate_mib_s, beside=context.own_mount is not None)
    try:
        yield durable
        while run.open():
            yield run.mark
            for read in run.reads():
                pause = yield partial(pace.run, read)
                while pause > 0:  # in naps: the daemon may be told to stop
                    yield partial(time.sleep, min(pause, NAP_S))
                    pause -= NAP_S
            if run.crowded:
                yield from _name(context, run, final=False)
        yield from _name(context, run, final=True)
        yield run.close
        answer = yield from _told(context, run.result, time.monotonic() - begun)
    finally:
        run.close()
        del context.running["scrub"]
    if not pool.read_only and pool.failed is None:
        summary = {key: value for key, value in answer.items() if key != "files"}
        store.records.put(LAST_SCRUB, json.dumps(summary).encode())
    return answer


def _name(context: Context, run: Scrub, *, final: bool) -> Steps[None]:
    pool = context.store.pool
    pin = pool.pin()  # before the commit that will be read: see engine/scrub.py
    try:
        yield durable
        run.open_names()
        yield partial(run.name, final=final)
    finally:
        pool.unpin(pin)
        context.store.release_freed()


def _told(context: Context, result: ScrubResult, elapsed_s: float) -> Steps[Result]:
    files = []
    for n, owner in enumerate(result.owners):
        files.append(file_row(context, owner))
        if n % NAMES_STEP == NAMES_STEP - 1:
            yield None
    checked = result.blocks_checked * BLOCK_BYTES
    return {
        "clean": result.clean,
        "checked_bytes": checked,
        "checked_nodes": result.nodes_checked,
        "bad_blocks": result.bad_blocks,
        "bad_nodes": result.bad_nodes,
        "bad_files": len(result.owners) + result.owners_more,
        "read_mib_s": round(checked / (1 << 20) / result.read_s, 1) if result.read_s else 0.0,
        "elapsed_ms": round(1000 * elapsed_s),
        "finished": datetime.now(UTC).isoformat(),
        "files": files,
    }


def file_row(context: Context, owner: Owner) -> Result:
    """One damaged file, snapshot's file or orphan, and the VM it belongs to."""
    blocks = sorted({hit.block for hit in owner.hits if not hit.lost})
    row: Result = {
        "file": str(owner),
        "vm": machine_of(context, owner),
        "bad_blocks": len(blocks),
        "blocks": ranges(blocks),
    }
    if any(hit.lost for hit in owner.hits):
        row["damaged_maps"] = len({hit.lost for hit in owner.hits if hit.lost})
    return row


def ranges(blocks: list[int]) -> str:
    """Block numbers as people read them: 3, 7-9."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][1] + 1 == block:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    told = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:RANGES_MAX]]
    return ", ".join([*told, "..."] if len(runs) > RANGES_MAX else told)


def machine_of(context: Context, owner: Owner) -> str | None:
    """The VM whose directory the file is in, as its mark names it."""
    try:
        volume = context.store.volume_by_id(owner.volume_id)
        return _machine_above(volume, owner.ino) if owner.ino else None
    except errors.RametError:
        return None  # gone since, or damaged itself


def _machine_above(volume: Volume, ino: int) -> str | None:
    while ino != keys.ROOT_INO:
        payload = volume.get_mark(ino, MARK)
        if payload is not None:
            return read_mark(payload).name
        ino = volume.inode(ino).parent
    return None


def check(context: Context, data: bool) -> Steps[Result]:
    """fsck of an open store's last commit, read-only."""
    pool = context.store.pool
    pin = pool.pin()  # before the commit that will be read, so that none of its slots is reused
    try:
        yield durable
        report = yield partial(fsck.check, context.store, data=data)
    finally:
        pool.unpin(pin)
        context.store.release_freed()
    return check_figures(report)


def check_closed(path: str, data: bool) -> Result:
    """fsck of a store that nobody has open, which need not open; changes no byte of it."""
    return check_figures(fsck.check_path(path, data=data))


def repair_closed(path: str, data: bool) -> Result:
    """``fsck --repair`` of a store that nobody has open."""
    result = repair.repair(path, data=data)
    repaired = [{"check": r.check, "where": r.where, "done": r.done} for r in result.repaired]
    return check_figures(result.left) | {"repaired": repaired}


def check_figures(report: findings.Report) -> Result:
    return {
        "clean": report.clean,
        "findings": [
            {"check": f.check, "where": f.where, "problem": f.problem} for f in report.findings
        ],
        "more_findings": sum(report.more.values()),
        "nodes": report.nodes,
        "mapped_bytes": report.blocks * BLOCK_BYTES,
        "garbage_bytes": report.garbage_slots * BLOCK_BYTES,
    }


def rebuild_index(context: Context) -> Steps[Result]:
    """The fingerprint index anew, from what all maps say; known content dedups again.

    Each dedup domain by itself: a block must not be found from a domain that does not have it.
    """
    store = context.store
    yield durable
    store.pool.check_writable()
    store.fingerprints.clear()
    every = [v for volume in store.volumes() for v in (volume, *store.snapshots(volume))]
    for domain in sorted({volume.record.domain for volume in every}):
        run = Scrub(store.pool, roots=partial(roots_of_domain, domain=domain))
        try:
            while run.open():
                yield run.mark
                for at in range(0, run.window.count, INDEX_STEP):
                    count = min(INDEX_STEP, run.window.count - at)
                    audit.index_window(store.pool.core, domain, run.window, at, count)
                    store.fingerprints.turn(count)
                    yield None
                    while store.fingerprints.crowded:  # its task writes them
                        yield partial(time.sleep, NAP_S)
                run.skip_window()
            yield run.close
        finally:
            run.close()
    return {"entries": store.pool.core.index_len}


READS: tuple[Operation, ...] = (check,)
CHANGES: tuple[Operation, ...] = (scrub, scrub_repair, rebuild_index)
