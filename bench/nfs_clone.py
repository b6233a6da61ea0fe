"""CLONE over the wire: what it costs beyond a round trip, of a large file that is badly fragmented.

A client of NFSv4.2 with nothing but a socket clones a file of 64 GiB, aged by random overwrites,
into new files; each time a compound that changes nothing makes the same way and is taken off.
A CLONE is answered when it is durable, so beside it stands what a durable write costs here at that
moment: fdatasync of 4 KiB overwritten in a flat file, and the smallest transaction of LMDB, which
syncs twice.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb

from bench.clones import BLOCK, GIB, aged_file
from bench.mounts import served
from bench.nfs import export, in_namespaces
from engine import Store

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

import nfs4_calls as calls  # noqa: E402
from nfs4_calls import Call4  # noqa: E402
from nfs4_client import Nfs4Client, Session, over  # noqa: E402
from rpc_client import RpcClient  # noqa: E402

from nfsgw.v4.protocol import Op  # noqa: E402
from nfsgw.v4.stateids import Stateid  # noqa: E402
from nfsgw.xdr import Unpacker  # noqa: E402

PORT = 12_049
SIZE = 64 * GIB
OVERWRITES = 20_000
ROUNDS = 50
WARM_UP = 8  # transactions until LMDB's file grows no more
BEYOND_MS = 1.0


def size_of() -> Call4:
    def read(body: Unpacker) -> int:
        calls.bitmap(body)
        return int.from_bytes(body.opaque(8), "big")

    return Call4(Op.GETATTR, calls.words(1, 1 << calls.SIZE_BIT), read)


def clone(source: Stateid, target: Stateid) -> Call4:
    """All of the saved file into the current one."""
    ends = calls.stateid(source) + calls.stateid(target)
    return Call4(Op.CLONE, ends + calls.long(0) * 3)


def opened(session: Session, call: Call4) -> tuple[Stateid, bytes]:
    """Open by name in the export; its stateid and handle."""
    answer = session.attempt(
        calls.putrootfh(), calls.lookup(b"lab"), call, calls.getfh()
    ).ok()  # fmt: skip
    return answer.of(Op.OPEN).stateid, answer.value


@contextlib.contextmanager
def durable_writes(folder: Path) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """fdatasync of 4 KiB overwritten; a transaction of one small record."""
    with (folder / "flat").open("wb+") as flat:
        flat.write(os.urandom(BLOCK))
        flat.flush()
        os.fsync(flat.fileno())
        environment = lmdb.open(str(folder / "lmdb"), map_size=1 << 24)

        def overwrite() -> None:
            os.pwrite(flat.fileno(), os.urandom(BLOCK), 0)
            os.fdatasync(flat.fileno())

        def transaction() -> None:
            with environment.begin(write=True) as writing:
                writing.put(b"key", os.urandom(100))

        try:
            for _ in range(WARM_UP):
                transaction()
            yield overwrite, transaction
        finally:
            environment.close()


def timed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def measure(session: Session, folder: Path) -> dict[str, float]:
    """Median milliseconds of each, all taken in turns."""
    state, golden = opened(session, calls.open_name(b"golden", calls.READ))
    times: dict[str, list[float]] = {
        each: [] for each in ("round trip", "CLONE", "beyond", "fdatasync", "lmdb")
    }
    with durable_writes(folder) as (overwrite, transaction):
        for number in range(ROUNDS):
            made, handle = opened(session, calls.open_new(b"clone-%d" % number))
            trip = timed_ms(lambda: session.run(calls.putfh(golden), size_of()))
            took = timed_ms(
                lambda made=made, handle=handle: session.run(  # type: ignore[misc]
                    calls.putfh(golden), calls.savefh(), calls.putfh(handle), clone(state, made)
                )
            )
            checked(session, golden, state, handle, made)
            session.run(calls.putfh(handle), calls.close(made))
            syncs = timed_ms(overwrite), timed_ms(transaction)
            for each, value in zip(times.values(), (trip, took, took - trip, *syncs), strict=True):
                each.append(value)
    return {name: statistics.median(each) for name, each in times.items()}


def checked(session: Session, golden: bytes, state: Stateid, handle: bytes, made: Stateid) -> None:
    """A clone is as long as its source and has its data at the end."""
    if session.run(calls.putfh(handle), size_of()) != SIZE:
        raise RuntimeError("a clone is not as long as its source")
    last = calls.read(state, SIZE - BLOCK), calls.read(made, SIZE - BLOCK)
    source, clone = (
        session.run(calls.putfh(each), call)[1]
        for each, call in zip((golden, handle), last, strict=True)
    )
    if source != clone or not any(source):
        raise RuntimeError("a clone has not its source's data")


def store_with_aged_file(path: Path) -> None:
    Store.create(path)
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        ino = aged_file(lab, b"golden", SIZE, OVERWRITES)
        lab.write(ino, SIZE - BLOCK, os.urandom(BLOCK))


def inside() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name:
        folder = Path(name)
        store_with_aged_file(folder / "clones")
        command = ["-P", "-m", "cli", "--store", str(folder / "clones"), "serve"]
        with served(command, folder / "nowhere"):
            export(folder, "clones", f"127.0.0.1:{PORT}")
            with RpcClient(("127.0.0.1", PORT)) as connection:
                found = measure(Nfs4Client(over(connection)).session(), folder)
    beyond = found["beyond"]
    print(f"CLONE of a 64 GiB file, {OVERWRITES} random blocks, durable: {found['CLONE']:.2f} ms,"
          f" {beyond:.2f} ms beyond the round trip of {found['round trip']:.2f} ms"
          f" (budget {BEYOND_MS:.0f} ms) {'ok' if beyond <= BEYOND_MS else 'above'}")  # fmt: skip
    print(f"beside it: fdatasync of 4 KiB in a flat file {found['fdatasync']:.2f} ms,"
          f" the smallest LMDB transaction {found['lmdb']:.2f} ms")  # fmt: skip


def main() -> None:
    in_namespaces("bench.nfs_clone")


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["in"] else main()
