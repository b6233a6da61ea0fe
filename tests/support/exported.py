"""A store whose volumes ``lab`` and ``other`` are exported by a server in a thread, with a real
committer behind the gate.

Who comes from ROOT_HOST is root when it says so; from WRITE_HOST it writes, root being nobody;
from READ_HOST it reads; from NO_HOST it may nothing.
"""

import contextlib
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio
from rpc_server import Hosted, hosting

from engine import Change, Store, Volume
from nfsgw.exports import Export, Exports, Right, Rule
from nfsgw.files import Files
from nfsgw.gate import Gate, Notice, Told
from nfsgw.handles import Handles
from nfsgw.mount3 import Mount3
from nfsgw.nfs3.program import Nfs3
from service.commits import Committer

ROOT_HOST, WRITE_HOST, READ_HOST, NO_HOST = (f"127.0.0.{each}" for each in (1, 2, 3, 4))
RULES = tuple(
    Rule(ipaddress.ip_network(host), right)
    for host, right in ((ROOT_HOST, Right.ROOT), (WRITE_HOST, Right.WRITE), (READ_HOST, Right.READ))
)


class Exported:
    """What is exported, where, and what the gate saw.  Touch the store by ``do`` only."""

    def __init__(self, store: Store, lab: Volume) -> None:
        self.store, self.lab = store, lab
        self.committer = Committer(store)
        self.exports = Exports()
        self.durable_waits = 0
        self.untold: list[Change] = []  # changes that the mount's kernel would not have heard of
        self._foreign = False
        self.files = Files(self._gate(), self.exports, Handles(bytes(range(32))))
        self.hosted: Hosted
        store.listeners.append(self._heard)

    def _gate(self) -> Gate:
        async def settled() -> None:
            raise AssertionError("nothing is unsettled")

        async def durable() -> None:
            self.durable_waits += 1
            await self.committer.durable()

        def tell(told: Told) -> None:
            self.durable_waits += 1
            self.committer.tell(told)

        return Gate(
            self.store, Notice(durable, tell), self.committer.admit, lambda: self.store.strained,
            self._enclosed, settled, lambda: False,
        )  # fmt: skip

    @contextlib.contextmanager
    def _enclosed(self) -> Iterator[None]:
        self._foreign = True
        try:
            yield
        finally:
            self._foreign = False

    def _heard(self, change: Change) -> None:
        if change.what != "volumes" and not self._foreign:
            self.untold.append(change)

    def export(self, *volumes: Volume) -> None:
        """These and no others; an export has its volume's number."""
        table = [Export(each.id, f"/{each}", each.id, RULES) for each in volumes]
        self.exports.replace(table, self.exports.changed_ns + 1)

    def do(self, call: Callable[[], Any]) -> Any:
        """On the server's thread, as the daemon's own operations are."""

        def enclosed() -> Any:
            with self._enclosed():
                return call()

        return self.hosted.do(enclosed)

    @property
    def address(self) -> tuple[str, int]:
        return self.hosted.address


@contextlib.contextmanager
def exported(path: Path) -> Iterator[Exported]:
    """Nothing that a test does is left when it ends but what is in its own directories."""
    Store.create(path / "store")
    store = Store.open(path / "store")
    made = Exported(store, store.create_volume("lab"))
    made.export(made.lab, store.create_volume("other"))
    with hosting([Nfs3(made.files), Mount3(made.files)]) as hosted:
        made.hosted = hosted
        hosted.do(lambda: trio.lowlevel.spawn_system_task(made.committer.run))
        yield made
        assert not hosted.failures, hosted.failures
    assert not made.untold, made.untold
    store.abandon()
