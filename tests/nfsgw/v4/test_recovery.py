"""A restart of the server: who may take back what, for how long, and who may not any more."""

from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
from nfs4_calls import BOTH, NONE, READ, WRITE
from nfs4_client import Session
from nfs4_world import World, at, lab, world

from engine import Store
from nfsgw.v4.protocol import LEASE_S, Status
from nfsgw.v4.recovery import ANYBODY, CLIENT_PREFIX, read_record
from nfsgw.v4.stateids import ANONYMOUS

DISK = calls.open_name(b"disk")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.file(b"disk", b"contents")
        made.store.commit()
        yield made


def back(served: World, session: Session, owner: bytes, *, complete: bool = False) -> Session:
    """The client comes back after a restart, as the same one."""
    session.connection = served.client()
    assert session.status() == Status.BADSESSION
    return served.session(owner=owner, complete=complete)


def recorded(store: Store) -> list[bytes]:
    found = (read_record(*each) for each in store.records.items(CLIENT_PREFIX))
    return [each[0] for each in found if each is not None]


def test_a_client_takes_back_what_it_had(served: World) -> None:
    session = served.session(owner=b"one")
    opened = session.run(*lab(), calls.open_name(b"disk", BOTH, WRITE)).stateid
    session.run(*at(b"disk"), calls.lock_new(opened, b"me", calls.WRITE_LOCK, 0, 10))
    served.restart()
    session = back(served, session, b"one")
    assert session.run(calls.test_stateids(opened)) == [Status.BAD_STATEID]
    again = session.run(*at(b"disk"), calls.reopen(BOTH, WRITE))
    assert again.delegation == (0,)
    lock = calls.lock_new(again.stateid, b"me", calls.WRITE_LOCK, 0, 10, reclaim=True)
    held = session.run(*at(b"disk"), lock)
    session.run(*at(b"disk"), calls.write(held, 0, b"C"))
    session.run(calls.reclaim_complete())
    other = served.session()
    assert other.status(*lab(), DISK) == Status.SHARE_DENIED
    tested = other.attempt(*at(b"disk"), calls.lock_test(b"you", calls.WRITE_LOCK, 5, 1))
    assert tested.status == Status.DENIED


def test_nobody_gets_anything_new_meanwhile(served: World) -> None:
    served.session(owner=b"one")
    served.restart()
    other = served.session(owner=b"two")
    assert other.status(*lab(), DISK) == Status.GRACE
    assert other.status(*at(b"disk"), calls.lock_test(b"you")) == Status.GRACE
    assert other.status(*at(b"disk"), calls.read(ANONYMOUS)) == Status.GRACE
    assert other.status(*at(b"disk"), calls.set_size(ANONYMOUS, 0)) == Status.GRACE
    assert other.run(*at(b"disk"), calls.getfh())
    served.now += LEASE_S + 1
    assert other.run(*at(b"disk"), calls.read(ANONYMOUS))[1] == b"contents"
    opened = other.run(*lab(), DISK).stateid
    assert other.run(*at(b"disk"), calls.read(opened))[1] == b"contents"


def test_it_ends_when_all_have_come_back(served: World) -> None:
    one, two = served.session(owner=b"one"), served.session(owner=b"two")
    served.restart()
    one = back(served, one, b"one", complete=True)
    assert one.status(*lab(), DISK) == Status.GRACE
    two = back(served, two, b"two")
    two.run(*at(b"disk"), calls.reopen(READ))
    two.run(calls.reclaim_complete())
    one.run(*lab(), DISK)


def test_a_server_nobody_has_used_has_no_grace(served: World) -> None:
    served.restart()
    served.session().run(*lab(), DISK)


def test_only_who_was_there_may_take_back(served: World) -> None:
    served.session(owner=b"one")
    served.client().session(b"unfinished", complete=False)
    served.restart()
    for owner in (b"two", b"unfinished"):
        other = served.session(owner=owner, complete=False)
        assert other.status(*at(b"disk"), calls.reopen()) == Status.RECLAIM_BAD
        other.run(calls.reclaim_complete())
        assert other.status(*at(b"disk"), calls.reopen()) == Status.NO_GRACE


def test_nothing_is_taken_back_later(served: World) -> None:
    one = served.session(owner=b"one")
    assert one.status(*at(b"disk"), calls.reopen()) == Status.NO_GRACE
    served.session(owner=b"two")
    served.restart()
    one = back(served, one, b"one", complete=True)
    assert one.status(*at(b"disk"), calls.reopen()) == Status.NO_GRACE
    served.now += LEASE_S + 1
    late = served.session(owner=b"two", complete=False)
    assert late.status(*at(b"disk"), calls.reopen()) == Status.NO_GRACE


def test_nothing_new_before_a_client_has_said_that_it_is_complete(served: World) -> None:
    session = served.session(complete=False)
    assert session.status(*lab(), DISK) == Status.GRACE
    assert session.status(*at(b"disk"), calls.lock_test(b"me")) == Status.GRACE
    session.run(*lab(), calls.reclaim_complete(one_fs=True))
    assert session.status(*lab(), DISK) == Status.GRACE
    assert session.status(calls.reclaim_complete(one_fs=True)) == Status.NOFILEHANDLE
    session.run(calls.reclaim_complete())
    assert session.status(calls.reclaim_complete()) == Status.COMPLETE_ALREADY
    session.run(*lab(), DISK)


def test_two_do_not_take_back_what_excludes_the_other(served: World) -> None:
    one, two = served.session(owner=b"one"), served.session(owner=b"two")
    served.restart()
    one, two = back(served, one, b"one"), back(served, two, b"two")
    state = one.run(*at(b"disk"), calls.reopen(BOTH, NONE)).stateid
    one.run(*at(b"disk"), calls.lock_new(state, b"me", reclaim=True))
    assert two.status(*at(b"disk"), calls.reopen(BOTH, WRITE)) == Status.RECLAIM_CONFLICT
    state = two.run(*at(b"disk"), calls.reopen(BOTH, NONE)).stateid
    lock = calls.lock_new(state, b"you", reclaim=True)
    assert two.status(*at(b"disk"), lock) == Status.RECLAIM_CONFLICT


def test_who_slept_through_a_grace_period_has_lost(served: World) -> None:
    """RFC 8881, 8.4.2.1: another may have had the file and be gone again by the next restart."""
    served.session(owner=b"sleeper")
    served.restart()
    other = served.session(owner=b"other")
    served.now += LEASE_S + 1
    served.gateway.waited.clear()
    other.run(*lab(), DISK)
    assert "durable" in served.gateway.waited
    served.restart()
    assert recorded(served.store) == [b"other"]
    sleeper = served.session(owner=b"sleeper", complete=False)
    assert sleeper.status(*at(b"disk"), calls.reopen()) == Status.RECLAIM_BAD


def test_whose_lock_was_given_to_another_has_lost(served: World) -> None:
    one, other = served.session(owner=b"one"), served.session(owner=b"other")
    one.run(*lab(), calls.open_name(b"disk", BOTH, BOTH))
    served.now += LEASE_S + 1
    other.run(*lab(), DISK)
    served.restart()
    assert recorded(served.store) == [b"other"]
    one = served.session(owner=b"one", complete=False)
    assert one.status(*at(b"disk"), calls.reopen()) == Status.RECLAIM_BAD


def test_a_second_restart_in_the_grace_period(served: World) -> None:
    one, two = served.session(owner=b"one"), served.session(owner=b"two")
    served.restart()
    one = back(served, one, b"one")
    one.run(*at(b"disk"), calls.reopen(READ))
    one.run(calls.reclaim_complete())
    served.restart()
    one, two = back(served, one, b"one"), back(served, two, b"two")
    one.run(*at(b"disk"), calls.reopen(READ))
    two.run(*at(b"disk"), calls.reopen(READ))


def test_a_record_goes_with_its_client(served: World) -> None:
    session = served.session(owner=b"one")
    assert recorded(served.store) == [b"one"]
    session.run(calls.destroy_session(session.id))
    session.connection.compound(calls.destroy_clientid(session.client_id)).ok()
    assert recorded(served.store) == []
    served.restart(crash=False)
    served.session().run(*lab(), DISK)


def test_who_takes_back_gets_the_time_for_it_but_no_more_than_twice(served: World) -> None:
    session = served.session(owner=b"one")
    served.restart()
    session = back(served, session, b"one")
    other = served.session(owner=b"other")
    served.now += LEASE_S - 1
    session.run(*at(b"disk"), calls.reopen(READ, owner=b"first"))
    served.now += LEASE_S / 2 - 1
    other.run()
    assert other.status(*lab(), DISK) == Status.GRACE
    session.run(*at(b"disk"), calls.reopen(READ, owner=b"second"))
    served.now += LEASE_S / 2 - 8
    session.run(*at(b"disk"), calls.reopen(READ, owner=b"third"))
    served.now += 11
    assert session.status(*at(b"disk"), calls.reopen(READ, owner=b"fourth")) == Status.NO_GRACE
    other.run(*lab(), calls.open_name(b"disk", READ))
    session.run(calls.reclaim_complete())
    session.run(*lab(), calls.open_name(b"disk", READ, owner=b"first"))


def test_a_file_that_was_made_and_not_answered_is_found_by_its_verifier(served: World) -> None:
    """EXCLUSIVE4_1 over a crash of the server: the client asks again, and it is the same file."""
    session = served.session(owner=b"one")
    exclusive = calls.open_new(b"new", how=calls.EXCLUSIVE_WITH_ATTRIBUTES)
    handle = session.run(*lab(), exclusive, calls.getfh())
    served.restart()
    session = back(served, session, b"one", complete=True)
    assert session.run(*lab(), exclusive, calls.getfh()) == handle


@pytest.mark.parametrize("uid", [1000, None])
def test_nobody_else_takes_a_name_while_its_client_is_expected(
    served: World, uid: int | None
) -> None:
    """RFC 8881, 18.35.4: whose client has something keeps its owner string."""
    served.session(1000, owner=b"one")
    served.client(None).session(b"two").run()
    served.restart()
    owner, other = (b"one", b"two") if uid == 1000 else (b"two", b"one")
    thief = served.client(uid).compound(calls.exchange_id(other, b"verifier"))
    assert thief.status == Status.CLID_INUSE
    assert (
        served.client(0).compound(calls.exchange_id(owner, b"verifier")).status == Status.CLID_INUSE
    )
    session = served.client(uid).session(owner, complete=False)
    session.run(*at(b"disk"), calls.reopen(READ))
    served.now += LEASE_S + 1
    served.session(7).run(*lab(), calls.open_name(b"disk", READ))
    served.client(7).session(other).run()  # it has not come: the name is free


def test_a_record_of_the_first_form_is_anybodys_who_has_the_name(served: World) -> None:
    served.session(1000, owner=b"one")
    ((key, _),) = served.store.records.items(CLIENT_PREFIX)
    served.store.records.put(key, b"one")
    served.store.commit()
    served.restart()
    session = served.session(7, owner=b"one", complete=False)
    session.run(*at(b"disk"), calls.reopen(READ))
    session.run(calls.reclaim_complete())
    served.restart()
    assert (
        served.client(8).compound(calls.exchange_id(b"one", b"verifier")).status
        == Status.CLID_INUSE
    )


def test_what_is_no_record_is_nobodys(served: World) -> None:
    served.session(1000, owner=b"one")
    ((key, value),) = served.store.records.items(CLIENT_PREFIX)
    assert read_record(key, value) == (b"one", 1000)
    assert read_record(key, b"one") == (b"one", ANYBODY)
    for damaged in (b"", b"two", value[1:], value + b"x", b"\2" + value[1:]):
        assert read_record(key, damaged) is None
    served.store.records.put(key, value + b"x")
    served.store.commit()
    served.restart()
    served.session(7, owner=b"two").run(*lab(), DISK)  # there is no grace


def test_what_a_sweep_has_taken_is_gone_for_good_before_others_have_it(served: World) -> None:
    served.session(owner=b"one").run(*lab(), calls.open_name(b"disk", BOTH, BOTH))
    other = served.session(owner=b"other")
    served.now += 3000
    other.run()
    served.now += 700
    assert served.state.sweep() == 1
    served.gateway.waited.clear()
    other.run(*lab(), DISK)
    assert served.gateway.waited == ["durable"]
    served.restart()
    assert recorded(served.store) == [b"other"]
