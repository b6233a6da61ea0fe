"""Clients that say anything, in any order, damaged too: the server answers or calls it garbage, and
when they are gone nothing of them is left.
"""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import nfs4_calls as calls
from chance import SEED
from nfs4_calls import Call4
from nfs4_client import Nfs4Client, Session, new_owner
from nfs4_world import World, lab, world

from engine import ROOT_INO
from nfsgw.v4.limits import Limits
from nfsgw.v4.protocol import LEASE_S, Op, Status
from nfsgw.v4.recovery import CLIENT_PREFIX
from nfsgw.v4.stateids import ANONYMOUS, BYPASS, CURRENT, INVALID, Stateid
from nfsgw.xdr import Garbage, Unpacker

STEPS = 1500
NAMES = [b"a", b"b", b"c", b".snapshots", b"dir"]
OWNERS = [b"x", b"y", b"z"]
LIMITS = Limits(
    clients=5, sessions_of_client=3, slots=40, slots_of_session=8, opens=24, opens_of_client=8,
    locks=40, locks_of_client=16,
)  # fmt: skip


class Hostile:
    """Random clients of a server."""

    def __init__(self, served: World, seed: int) -> None:
        self.served, self.random = served, random.Random(seed)
        hosts = {0: "127.0.0.1", 1000: "127.0.0.1", 1001: "127.0.0.2"}
        self.clients = [served.client(uid, address=hosts[uid]) for uid in hosts]
        self.known = [b"somebody", b"somebody else", new_owner()]
        self.ids = [(0, 0)]
        self.sessions: list[Session] = []
        self.stateids = [ANONYMOUS, BYPASS, CURRENT, INVALID, Stateid(1, b"x" * 12)]
        self.handles = [b"", bytes(48)]
        self.answered: dict[Status, int] = {}
        self.peak = 0  # of opens

    def step(self) -> None:
        self.peak = max(self.peak, self.served.state.quotas.opens.count)
        pick = self.random.random()
        if pick < 0.08:
            self.introduce()
        elif pick < 0.1:
            self.served.now += self.random.choice([1, LEASE_S / 2, LEASE_S + 1, 5000])
            self.served.state.sweep()
        elif pick < 0.2 or not self.sessions:
            client = self.random.choice(self.clients)
            self.send(client, self.some(self.random.randint(1, 2), self.without_session))
        else:
            alive = [each for each in self.sessions if each.id in self.served.state.sessions]
            session = self.random.choice(alive or self.sessions)
            slot = self.random.randrange(session.created.slots)
            step = self.random.choice([1] * 20 + [0, 2])
            first = session.sequence(slot, cache=self.random.random() < 0.5, step=step)
            where = self.random.choice([(), lab(), self.at_open_file(), self.at_open_file()])
            rest = self.some(self.random.choice([1, 1, 1, 4]), self.in_session)
            if not self.send(session.connection, [first, *where, *rest]):
                session.sequences[slot] -= step

    def some(self, count: int, make: Callable[[], Call4]) -> list[Call4]:
        return [make() for _ in range(count)]

    def at_open_file(self) -> tuple[Call4, ...]:
        """To a file, opened on the way, or open already it may be."""
        name, owner = self.random.choice(NAMES[:2]), self.random.choice(OWNERS)
        there = calls.lookup(name)
        if self.random.random() < 0.5:
            there = calls.open_new(name, self.random.choice([1, 3]), 0, owner)
        return *lab(), there

    def introduce(self) -> None:
        client, owner = self.random.choice(self.clients), self.random.choice(self.known)
        verifier = self.random.choice([b"verifier", b"rebooted"])
        found = client.compound(calls.exchange_id(owner, verifier))
        if found.status != Status.OK:
            return
        self.ids.append((found.value.id, found.value.sequence))
        made = client.compound(calls.create_session(found.value.id, found.value.sequence, slots=4))
        if made.status == Status.OK:
            session = Session(client, found.value.id, made.value)
            self.sessions = [*self.sessions[-8:], session]
            if self.random.random() < 0.9:
                session.attempt(calls.reclaim_complete())

    def send(self, client: Nfs4Client, sent: list[Call4]) -> bool:
        """Whether the first of them was done."""
        arguments = bytearray(client.arguments(*sent))
        if self.random.random() < 0.08:
            self.damage(arguments)
        with contextlib.suppress(Garbage):
            raw = client.transport(bytes(arguments))
            status = Status(int.from_bytes(raw[:4], "big"))
            self.answered[status] = self.answered.get(status, 0) + 1
            self.learn(raw)
            return raw[16:20] == bytes(4)
        return False

    def damage(self, arguments: bytearray) -> None:
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randrange(len(arguments))
            match self.random.randrange(3):
                case 0:
                    arguments[at] ^= 1 << self.random.randrange(8)
                case 1:
                    word = self.random.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 64, 71])
                    arguments[at & ~3 : (at & ~3) + 4] = word.to_bytes(4, "big")
                case 2:
                    del arguments[max(at, 4) :]

    def learn(self, raw: bytes) -> None:
        """Stateids and handles that stand somewhere in an answer."""
        boot = self.served.state.recovery.boot.to_bytes(4, "big")
        for at in range(4, len(raw) - 12, 4):
            if raw[at : at + 6] == boot + b"\0\0":
                seqid = int.from_bytes(raw[at - 4 : at], "big")
                self.stateids = [*self.stateids[-30:], Stateid(seqid, raw[at : at + 12])]
        body = Unpacker(memoryview(raw))
        with contextlib.suppress(Garbage):
            body.at = max(len(raw) - 52, 0)
            self.handles = [*self.handles[-5:], bytes(body.opaque(128))]

    def stateid(self) -> Stateid:
        if self.random.random() < 0.5:
            return CURRENT
        found = self.random.choice(self.stateids)
        return found._replace(seqid=0) if self.random.random() < 0.7 else found

    def span(self) -> tuple[int, int]:
        if self.random.random() < 0.8:
            return self.random.randrange(100), self.random.randint(1, 20)
        edges = [0, 1, 5, 10, 100, calls.TO_END - 1, calls.TO_END]
        return self.random.choice(edges), self.random.choice(edges)

    def without_session(self) -> Call4:
        client_id, sequence = self.random.choice(self.ids)
        session_id = self.random.choice(self.sessions).id if self.sessions else bytes(16)
        return self.random.choice([
            calls.exchange_id(self.random.choice(self.known), flags=1 << 30),
            calls.create_session(client_id, sequence + self.random.choice([0, 0, 1]), slots=6),
            calls.bind(session_id), calls.destroy_session(session_id),
            calls.destroy_clientid(client_id), calls.putrootfh(),
        ])  # fmt: skip

    def in_session(self) -> Call4:
        chance, state = self.random, self.stateid()
        name, owner, (offset, length) = chance.choice(NAMES), chance.choice(OWNERS), self.span()
        access, deny = chance.randint(0, 3), chance.choice([0, 0, 0, 1, 2, 3])
        kind, reclaim = chance.choice([0, 1, 1, 1, 2, 2, 5]), chance.random() < 0.1
        making = calls.open_new(name, access, deny, owner, how=chance.randint(0, 4))
        return chance.choice([
            making, calls.lock_new(CURRENT, owner, kind, offset, length),
            calls.open_name(name, access, deny, owner), calls.open_here(access),
            calls.reopen(access), calls.close(state), calls.close(CURRENT),
            calls.downgrade(state, access, deny),
            calls.lock_new(state, owner, kind, offset, length, reclaim=reclaim),
            calls.lock_more(state, kind, offset, length), calls.unlock(state, offset, length),
            calls.lock_test(owner, kind, offset, length), calls.free_stateid(state),
            calls.test_stateids(state, state), calls.read(state, offset), calls.getfh(),
            calls.write(state, offset % 1000, b"data"), calls.set_size(state, offset % 1000),
            calls.remove(name), calls.lookup(name), calls.savefh(), calls.restorefh(),
            calls.lookupp(), calls.putfh(chance.choice(self.handles)), calls.secinfo(name),
            calls.reclaim_complete(), Call4(Op(chance.choice(list(Op)))), self.without_session(),
        ])  # fmt: skip


def test_nothing_is_left_of_anybody(tmp_path: Path, seed: int = SEED) -> None:
    with world(tmp_path, LIMITS) as served:
        served.file(b"a", b"contents")
        served.lab.setattr(ROOT_INO, mode=0o777)
        hostile = Hostile(served, seed)
        for _ in range(STEPS):
            hostile.step()
        state, files = served.state, served.state.open_files
        quotas = state.quotas
        assert quotas.opens.count == sum(len(file.opens) for file in files) <= LIMITS.opens
        assert quotas.locks.count <= LIMITS.locks
        assert quotas.slots.count == sum(len(each.slots) for each in state.sessions.values())
        assert all(not slot.busy for each in state.sessions.values() for slot in each.slots)
        assert hostile.answered[Status.OK] > STEPS / 30
        assert len(hostile.answered) > 20
        assert hostile.peak > 3
        served.now += LEASE_S + 3601
        served.state.sweep()
        served.check_empty()
        assert not served.store.records.items(CLIENT_PREFIX)
