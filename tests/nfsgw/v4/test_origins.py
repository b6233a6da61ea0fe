"""One host takes what it can get of clients, sessions, opens and locks: the others are served."""

import itertools
from collections.abc import Callable
from pathlib import Path

import nfs4_calls as calls
import pytest
from nfs4_client import Nfs4Error, Session, new_owner
from nfs4_world import World, at, lab, world

from nfsgw.v4.limits import Limits
from nfsgw.v4.protocol import LEASE_S, Status

HOSTILE, OTHER = "127.0.0.66", "127.0.0.9"


def until_delayed(act: Callable[[], object]) -> int:
    """Act until the server says DELAY; how often it was done."""
    for count in itertools.count():
        try:
            act()
        except Nfs4Error as error:
            assert error.answer.status == Status.DELAY
            return count
    raise AssertionError


def opening(session: Session) -> Callable[[], object]:
    """Each time by another open-owner."""
    return lambda: session.run(*lab(), calls.open_name(b"disk", owner=new_owner()))


def keeper(served: World, address: str) -> Session:
    """A client with something open."""
    session = served.session(address=address, slots=1)
    opening(session)()
    return session


def test_unconfirmed_clients_of_one_host_do_not_push_out_anothers(tmp_path: Path) -> None:
    with world(tmp_path, Limits(clients=8)) as served:
        other = served.client(address=OTHER)
        known = other.introduce()
        for _ in range(50):
            served.client(address=HOSTILE).introduce()
        assert served.state.quotas.unconfirmed.count == 5
        other.compound(calls.create_session(known.id, known.sequence)).ok()
        served.now += LEASE_S + 3601
        served.state.sweep()
        served.check_empty()


def test_clients_of_one_host_leave_room_for_others(tmp_path: Path) -> None:
    with world(tmp_path, Limits(clients=8)) as served:
        served.file(b"disk")
        assert until_delayed(lambda: keeper(served, HOSTILE)) == 5
        assert until_delayed(lambda: keeper(served, OTHER)) == 2
        assert until_delayed(lambda: keeper(served, "127.0.0.10")) == 1
        served.now += LEASE_S + 1  # it does not answer for them any more
        keeper(served, HOSTILE)
        assert served.state.quotas.clients.count == 1
        served.now += LEASE_S + 3601
        served.state.sweep()
        served.check_empty()


def test_sessions_of_one_host_leave_room_for_others(tmp_path: Path) -> None:
    with world(tmp_path, Limits(slots=16, slots_of_session=4)) as served:
        served.file(b"disk")

        def more() -> None:
            opening(served.session(address=HOSTILE, slots=4))()

        until_delayed(more)
        assert served.state.quotas.slots.count == 9
        assert served.session(address=OTHER, slots=4).created.slots == 4


def test_who_comes_again_and_again_takes_the_place_of_his_own(tmp_path: Path) -> None:
    """Nothing is open, so each time somebody has to go."""
    with world(tmp_path, Limits(clients=6, slots=8, slots_of_session=2)) as served:
        others = [served.session(address=OTHER, slots=2)]
        others.append(served.session(address="127.0.0.10", slots=1))
        hostile = []
        for _ in range(30):
            served.now += 1
            hostile.append(served.session(address=HOSTILE, slots=2))
        assert [each.status() for each in others] == [Status.OK] * 2
        assert [each.status() for each in hostile[-2:]] == [Status.OK] * 2
        assert hostile[0].status() == Status.BADSESSION
        served.now += LEASE_S + 3601
        served.state.sweep()
        served.check_empty()


def test_the_address_that_has_most_makes_room_for_a_session(tmp_path: Path) -> None:
    with world(tmp_path, Limits(slots=3, slots_of_session=2)) as served:
        first = served.session(address=HOSTILE, slots=2)
        served.now += 1
        second = served.session(address="127.0.0.10", slots=1)
        third = served.session(address=OTHER, slots=4)
        assert third.created.slots == 2
        assert (first.status(), second.status()) == (Status.BADSESSION, Status.OK)
        create = calls.create_session(second.client_id, 2, slots=1)
        assert served.client(address=HOSTILE).compound(create).status == Status.DELAY


def test_opens_of_one_host_leave_room_for_others(tmp_path: Path) -> None:
    with world(tmp_path, Limits(opens=20, opens_of_client=6)) as served:
        served.file(b"disk")
        hostile = [served.session(address=HOSTILE) for _ in range(4)]
        assert [until_delayed(opening(each)) for each in hostile] == [6, 5, 0, 0]
        assert until_delayed(opening(served.session(address=OTHER))) == 5
        served.file(b"other")
        opened = hostile[2].attempt(*lab(), calls.open_name(b"other"))
        assert opened.status == Status.DELAY
        served.now += LEASE_S + 3601
        served.state.sweep()
        served.check_empty()


@pytest.mark.parametrize("owners", [1, 20])
def test_locks_of_one_host_leave_room_for_others(tmp_path: Path, owners: int) -> None:
    with world(tmp_path, Limits(locks=40)) as served:
        served.file(b"disk")

        def locking(session: Session) -> Callable[[], object]:
            opened = session.run(*lab(), calls.open_name(b"disk")).stateid
            count = itertools.count()

            def act() -> None:
                number = next(count)
                owner = b"%d of %d" % (number % owners, session.client_id)
                lock = calls.lock_new(opened, owner, calls.READ_LOCK, 10 * number, 2)
                session.run(*at(b"disk"), lock)

            return act

        until_delayed(locking(served.session(address=HOSTILE)))
        assert 18 <= served.state.quotas.locks.count <= 21
        assert until_delayed(locking(served.session(address=OTHER))) > 3
        served.now += LEASE_S + 3601
        served.state.sweep()
        served.check_empty()


def test_a_client_that_comes_back_from_elsewhere_is_counted_there(tmp_path: Path) -> None:
    with world(tmp_path) as served:
        served.file(b"disk")
        owner, quotas = new_owner(), served.state.quotas

        def counts(address: str) -> tuple[int, ...]:
            origin = quotas.origin(ipaddress_of(address))
            return origin.unconfirmed.count, origin.clients.count, origin.opens.count

        session = served.session(address=HOSTILE, owner=owner)
        opening(session)()
        assert counts(HOSTILE) == (0, 1, 1)
        known = served.client(address=OTHER).introduce(owner, b"rebooted")
        assert (counts(HOSTILE), counts(OTHER)) == ((0, 1, 1), (1, 0, 0))
        create = calls.create_session(known.id, known.sequence)
        served.client(address=HOSTILE).compound(create).ok()
        assert (counts(HOSTILE), counts(OTHER)) == ((0, 0, 0), (0, 1, 0))
        served.now += LEASE_S + 3601
        served.state.sweep()
        served.check_empty()


def ipaddress_of(address: str) -> bytes:
    return bytes(map(int, address.split(".")))
