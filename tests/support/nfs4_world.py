"""A server of NFSv4 for tests of sessions and state: a clock that tests turn, connections without a
network, calls that can be left in progress, a restart.
"""

import contextlib
import math
from collections.abc import Generator, Iterator
from pathlib import Path

import nfs4_calls as calls
from nfs4_client import Nfs4Client, Session
from nfs4_direct import Gateway, Peer

from engine import ROOT_INO, Store, Volume
from nfsgw.gate import Wait
from nfsgw.rpc import Call, Credential
from nfsgw.v4.limits import Limits
from nfsgw.v4.program import COMPOUND, Nfs4
from nfsgw.v4.protocol import PROGRAM
from nfsgw.v4.state import State
from nfsgw.xdr import Packer, Unpacker


class World:
    """A store with a volume ``lab``, exported and served.  ``now``: the server's seconds."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.now = 1000.0
        Store.create(path)
        self.start()
        self.gateway.store.create_volume("lab")
        self.gateway.export("lab")
        self.gateway.store.commit()

    def start(self) -> None:
        self.gateway = Gateway(Store.open(self.path))
        self.gateway.state = self.state = State(self.gateway.store, self.limits, lambda: self.now)
        self.gateway.program = Nfs4(self.gateway.files, self.state)

    def restart(self, *, crash: bool = True) -> None:
        """Another start of the server; ``crash``: what is not durable is lost."""
        if crash:
            self.gateway.store.abandon()
        else:
            self.gateway.store.close()
        self.start()
        self.gateway.export("lab")

    @property
    def store(self) -> Store:
        return self.gateway.store

    @property
    def lab(self) -> Volume:
        return self.store.volume("lab")

    def file(self, name: bytes, data: bytes = b"", mode: int = 0o666, uid: int = 0) -> None:
        """Made by another door."""
        inode = self.lab.create(ROOT_INO, name, mode, uid, uid)
        if data:
            self.lab.write(inode.ino, 0, data)

    def client(
        self, uid: int | None = 0, *, minor: int = 2, address: str = "127.0.0.1"
    ) -> Nfs4Client:
        """A connection by which a user speaks."""
        peer = Peer(address)
        return Nfs4Client(lambda arguments: self.gateway.call(_call(peer, uid), arguments), minor)

    def session(self, uid: int = 0, *, address: str = "127.0.0.1", **how: object) -> Session:
        """A new client's session."""
        return self.client(uid, address=address).session(**how)  # type: ignore[arg-type]

    def begin(self, arguments: bytes, uid: int = 0) -> "Began":
        """A compound that is carried out as far as it goes without waiting."""
        out = Packer()
        outcome = self.gateway.program.call(
            _call(Peer(), uid), Unpacker(memoryview(arguments)), out
        )
        assert outcome is not None
        return Began(out, outcome)

    def check_empty(self) -> None:
        """That nothing is left of anybody."""
        assert not self.state.sessions
        quotas = self.state.quotas
        assert (quotas.slots.count, quotas.clients.count, quotas.unconfirmed.count) == (0, 0, 0)
        assert len(self.state.clients) == 0
        self.check_nothing_open()

    def check_nothing_open(self) -> None:
        quotas = self.state.quotas
        assert (quotas.opens.count, quotas.locks.count) == (0, 0)
        assert not list(self.state.open_files)
        assert not self.lab.held


class Began:
    """A call in progress; ``waits`` until ``finish``."""

    def __init__(self, out: Packer, outcome: Generator[Wait, None, None]) -> None:
        self._out, self._outcome = out, outcome
        self.waits = next(outcome, None)

    def finish(self) -> bytes:
        """To its end, what it waits for having come; its answer."""
        for _ in self._outcome:
            pass
        return b"".join(self._out.parts)


def _call(peer: Peer, uid: int | None) -> Call:
    credential = None if uid is None else Credential(uid, uid, ())
    return Call(1, PROGRAM, 4, COMPOUND, credential, peer)


@contextlib.contextmanager
def world(path: Path, limits: Limits | None = None) -> Iterator[World]:
    made = World(path / "store", limits or Limits(turn_s=math.inf))
    try:
        yield made
    finally:
        made.store.abandon()


def lab() -> tuple[calls.Call4, ...]:
    """To the root of the volume."""
    return calls.putrootfh(), calls.lookup(b"lab")


def at(name: bytes) -> tuple[calls.Call4, ...]:
    """To a file in it."""
    return *lab(), calls.lookup(name)
