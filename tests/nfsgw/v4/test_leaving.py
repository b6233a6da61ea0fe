"""Clients that have very much, and are gone: it is closed in short steps, and used by nobody."""

from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
import trio.testing
from nfs4_client import Session
from nfs4_world import World, at, lab, world

from nfsgw.v4 import state as states
from nfsgw.v4.clients import EXPIRED_MAX, Clients
from nfsgw.v4.limits import Limits
from nfsgw.v4.open_files import OpenFiles
from nfsgw.v4.opens import OpenFile
from nfsgw.v4.protocol import LEASE_S, Status
from nfsgw.v4.stateids import Stateid
from service import gateway

STEP, FEW = 3, 2  # of drain; of a client that goes, and of who meets it
OPENS, RANGES = 20, 17
READ, WRITE, BOTH, NONE = 1, 2, 3, 0


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(states, "DRAINED_MAX", STEP)
    monkeypatch.setattr(states, "DROPPED_MAX", FEW)
    with world(tmp_path) as made:
        made.file(b"disk")
        made.file(b"other")
        yield made


def rich(served: World, name: bytes = b"disk", deny: int = NONE) -> tuple[Session, Stateid]:
    """A client that has a file open by many owners, one of which has many ranges locked."""
    session, states = served.session(), []
    access, kind = (BOTH, calls.WRITE_LOCK) if deny == NONE else (READ, calls.READ_LOCK)
    for number in range(OPENS):
        opening = calls.open_name(name, access, deny, b"%d" % number)
        states.append(session.run(*lab(), opening).stateid)
    lock = session.run(*at(name), calls.lock_new(states[0], b"me", kind, 0, 1))
    for number in range(1, RANGES):
        lock = session.run(*at(name), calls.lock_more(lock, kind, 3 * number, 1))
    return session, states[0]


def open_(session: Session, name: bytes = b"disk", deny: int = NONE) -> Status:
    return session.status(*lab(), calls.open_name(name, BOTH, deny))


def held(served: World) -> int:
    return served.state.quotas.opens.count + served.state.quotas.locks.count


def until_had(served: World, act: object) -> int:
    """Ask again while the answer is DELAY, each time of which a step is done; how often it was."""
    for count in range(100):
        before = held(served)
        status = act()  # type: ignore[operator]
        assert before - held(served) <= FEW + 2  # a lock-owner, and what is had instead
        if status == Status.OK:
            return count
        assert status == Status.DELAY
    raise AssertionError


def test_what_an_expired_client_denies_is_had_after_some_steps(served: World) -> None:
    rich(served, deny=WRITE)
    other = served.session()
    assert open_(other) == Status.SHARE_DENIED
    served.now += LEASE_S + 1
    other.run()
    waited = len(served.gateway.waited)
    assert until_had(served, lambda: open_(other)) > (OPENS + RANGES) // (FEW + 2)
    assert served.gateway.waited[waited:]  # that its record is gone is durable
    assert held(served) == 1


def test_what_an_expired_client_has_locked_is_had_after_some_steps(served: World) -> None:
    rich(served)
    other = served.session()
    state = other.run(*lab(), calls.open_name(b"disk", BOTH)).stateid
    lock = calls.lock_new(state, b"you", calls.WRITE_LOCK, 0, 1)
    assert other.status(*at(b"disk"), lock) == Status.DENIED
    test = calls.lock_test(b"you", calls.WRITE_LOCK, 0, 1)
    served.now += LEASE_S + 1
    other.run()
    assert until_had(served, lambda: other.status(*at(b"disk"), test)) > 3
    assert other.status(*at(b"disk"), lock) == Status.OK


def test_a_client_that_comes_back_has_nothing_of_what_it_had(served: World) -> None:
    """What is left of that is in its way for a few steps."""
    old, state = rich(served, deny=WRITE)
    owner = next(iter(served.state.clients._confirmed))
    known = served.client().introduce(owner, b"rebooted")
    began = served.begin(
        old.connection.arguments(
            old.sequence(), *at(b"disk"), calls.read(state), calls.close(state)
        )
    )
    created = served.client().compound(calls.create_session(known.id, known.sequence)).ok().value
    began.finish()
    session = Session(served.client(), known.id, created)
    session.run(calls.reclaim_complete())
    assert old.status() == Status.BADSESSION
    assert session.run(calls.test_stateids(state)) == [Status.BAD_STATEID]
    assert until_had(served, lambda: open_(session)) > 3
    assert held(served) == 1


def test_what_is_left_is_drained(served: World) -> None:
    for name in (b"disk", b"other"):
        rich(served, name)
    served.now += LEASE_S + 3601
    assert not served.state.left.is_set()
    assert served.state.sweep() == 2
    assert served.state.left.is_set()
    assert (len(served.state.clients), served.state.quotas.clients.count) == (0, 0)
    steps, before = 0, held(served)
    while served.state.drain():
        assert 0 < before - held(served) <= STEP + 1  # a lock-owner, and its ranges
        before, steps = held(served), steps + 1
    assert steps > 2 * (OPENS + RANGES) // STEP - 3
    assert not served.state.left.is_set()
    served.check_empty()


def test_room_is_made_by_clients_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "DRAINED_MAX", STEP)
    monkeypatch.setattr(states, "DROPPED_MAX", FEW)
    with world(tmp_path, Limits(opens=OPENS)) as served:
        served.file(b"disk")
        session = served.session()
        for number in range(OPENS // 2):
            session.run(*lab(), calls.open_name(b"disk", owner=b"%d" % number))
        other = served.session()
        served.now += LEASE_S + 1
        other.run()
        for number in range(OPENS // 2):
            opening = calls.open_name(b"disk", owner=b"%d" % number)
            until_had(served, lambda opening=opening: other.status(*lab(), opening))


def test_what_is_exported_no_more_and_what_is_stale_goes_in_steps(served: World) -> None:
    session, first = rich(served)
    served.state.export({99})
    assert session.run(calls.test_stateids(first)) == [Status.OK]  # its turn has not come
    assert served.state.left.is_set()
    while served.state.drain():
        pass
    assert session.run(calls.test_stateids(first)) == [Status.BAD_STATEID]
    served.check_nothing_open()
    served.state.export({each.id for each in served.gateway.exports.all()})
    served.store.create_snapshot(served.lab, "monday")
    rich(served)
    served.store.restore(served.lab, "monday", force=True)
    before = held(served)
    while served.state.drain():
        assert before - held(served) <= STEP + 1
        before = held(served)
    served.check_nothing_open()


def test_the_gateway_does_the_steps_when_there_are_any(served: World) -> None:
    rich(served)
    server = gateway.Gateway(served.store, served.gateway.gate)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server._sweep, served.state)
            await trio.testing.wait_all_tasks_blocked()
            assert held(served)
            served.now += LEASE_S + 3601
            served.state.clients.expire(0)
            with trio.fail_after(30):
                while held(served) or served.state.swept:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    served.check_empty()


class Unseen(dict[object, None]):
    """Nobody looks at each."""

    def __iter__(self) -> Iterator[object]:
        raise AssertionError


def test_whether_an_open_is_denied_is_seen_without_a_look_at_each(served: World) -> None:
    session, _ = rich(served)
    (file,) = served.state.open_files
    assert isinstance(file, OpenFile)
    file.opens = Unseen(file.opens)  # type: ignore[assignment]
    assert open_(served.session()) == Status.OK
    assert session.status(*lab(), calls.open_name(b"disk", BOTH, NONE, b"0")) == Status.OK
    with pytest.raises(AssertionError):
        open_(served.session(), deny=BOTH)


def test_clients_are_not_looked_at_before_one_can_have_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, Limits(opens_of_client=1)) as served:
        served.file(b"disk")
        one, other = served.session(), served.session()
        one.run(*lab(), calls.open_name(b"disk"))
        served.now += LEASE_S - 1
        other.run()
        looks: list[object] = []
        real = Clients.expired
        monkeypatch.setattr(
            Clients, "expired", lambda *args: (looks.append(args), real(*args))[1]
        )  # fmt: skip
        more = calls.open_name(b"disk", owner=b"more")
        assert one.status(*lab(), more) == Status.DELAY
        assert not looks
        served.now += 2
        assert one.status(*lab(), more) == Status.DELAY
        assert looks
        del looks[:]
        assert one.status(*lab(), more) == Status.DELAY
        assert not looks
        served.now += LEASE_S
        one.run()
        one.status(*lab(), more)
        assert other.status() == Status.BADSESSION


def test_steps_are_of_locks_too(served: World) -> None:
    """An open of very many lock-owners."""
    session = served.session()
    opened = session.run(*lab(), calls.open_name(b"disk", BOTH)).stateid
    for number in range(RANGES):
        lock = calls.lock_new(opened, b"%d" % number, calls.WRITE_LOCK, 2 * number, 1)
        session.run(*at(b"disk"), lock)
    files: OpenFiles = served.state.open_files
    client = served.state.clients.find(session.client_id)
    for _ in range(100):
        before = held(served)
        left = files.close_some(list(client.opens.values()), STEP)
        assert before - held(served) <= STEP + 1
        if left:
            break
    served.check_nothing_open()


def test_many_expired_clients_in_the_way_are_taken_away_in_steps(tmp_path: Path) -> None:
    """Each has a lock, or denies others something."""
    many = 2 * EXPIRED_MAX + 5
    for locks in (False, True):
        with world(tmp_path / str(locks)) as served:
            served.file(b"disk")
            for _ in range(many):
                session = served.session(slots=1)
                opened = session.run(*lab(), calls.open_name(b"disk", READ, 0 if locks else WRITE))
                lock = calls.lock_new(opened.stateid, b"me", calls.READ_LOCK, 0, 1)
                session.run(*at(b"disk"), lock)
            other = served.session()
            served.now += LEASE_S + 1
            other.run()
            before = len(served.state.clients)
            statuses = [open_(other) for _ in range(1 if locks else 3)]
            if locks:
                assert statuses == [Status.OK]
                state = other.run(*lab(), calls.open_name(b"disk", BOTH)).stateid
                lock = calls.lock_new(state, b"you", calls.WRITE_LOCK, 0, 1)
                statuses = [other.status(*at(b"disk"), lock) for _ in range(3)]
            assert statuses == [Status.DELAY, Status.DELAY, Status.OK]
            assert (before, len(served.state.clients)) == (many + 1, 1)
