"""What the scenarios on single clones have in common: one clone, its call and its sync timed."""

import statistics
import time

from bench.harness.peer import Peer
from bench.harness.results import Chart

CALL, DURABLE = "call", "durable"
REPEAT_S, REPEAT_MAX = 0.02, 50
REASONS = {
    "ramet-engine": "It is Ramet, without a socket, a job's record and another process in between.",
    "ramet-cp": "It is Ramet by its mount: one request to the kernel in place of a job.",
    "xfs": "A reflink of few extents is a handful of B+tree records that the kernel changes in "
           "memory: no process to ask, and nothing durable before the sync.",
    "btrfs": "The same as XFS: a system call that changes B+trees in memory, durable at the sync.",
    "btrfs-snapshot": "One root is copied in the kernel, without a process to ask.",
    "qcow2": "Only an empty file that names its base is made; the price is paid by each read "
             "through the chain, and the base can never be deleted.",
    "copy": "A sparse image with little in it is quickly copied.",
    "juicefs": "A clone copies rows of its database, few for an image of few pieces.",
    "lvm-thin": "One root of the pool's map is copied in the kernel, without a process to ask.",
    "zfs": "A snapshot and a clone are two roots, in the kernel, without a process to ask.",
}  # fmt: skip


def clone_charts(x_label: str, x_unit: str, *, log_x: bool = True) -> list[Chart]:
    return [
        Chart(CALL, "until the call returns", "ms", "lower", x_label, x_unit, log_x=log_x),
        Chart(DURABLE, "until it is durable", "ms", "lower", x_label, x_unit, log_x=log_x),
    ]


def one_clone(peer: Peer, source: str, target: str, *, keep: bool = False) -> dict[str, float]:
    """Milliseconds by chart.

    The first clone is made durable.  Then, as fits into REPEAT_S, it is done again: a call of some
    microseconds, alone after a pause, would tell of cold caches.
    """
    start = time.perf_counter()
    peer.clone(source, target)
    calls = [time.perf_counter() - start]
    peer.sync([target])
    durable = time.perf_counter() - start
    more = []
    while sum(calls) < REPEAT_S and len(calls) < REPEAT_MAX:
        more.append(f"{target}-{len(calls)}")
        again = time.perf_counter()
        peer.clone(source, more[-1])
        calls.append(time.perf_counter() - again)
    peer.delete(more if keep else [target, *more])
    return {CALL: statistics.median(calls) * 1e3, DURABLE: durable * 1e3}
