"""EXCHANGE_ID by the cases of RFC 8881, 18.35.4; CREATE_SESSION; who is forgotten, and when."""

from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
from nfs4_client import Nfs4Error, new_owner
from nfs4_world import World, lab, world

from nfsgw.v4.limits import Limits
from nfsgw.v4.protocol import LEASE_S, Op, Status

UPDATE, CONFIRMED, NON_PNFS = 0x4000_0000, 0x8000_0000, 0x1_0000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def fails(served: World, *sent: calls.Call4, uid: int = 0, **how: int) -> Status:
    return served.client(uid).compound(*sent, **how).status


def test_a_new_client_has_no_confirmed_record(served: World) -> None:
    found = served.client().introduce()
    assert found.flags == NON_PNFS
    assert found.sequence == 1
    assert found.server == found.scope == served.store.uuid.bytes


def test_a_record_that_is_not_confirmed_is_replaced(served: World) -> None:
    owner = new_owner()
    first = served.client(1).introduce(owner)
    for uid, verifier in ((1, b"verifier"), (1, b"12345678"), (2, b"verifier"), (2, b"12345678")):
        again = served.client(uid).introduce(owner, verifier)
        assert again.id != first.id
        first = again
    assert len(served.state.clients) == 1


def test_a_client_that_asks_again_finds_its_record(served: World) -> None:
    owner = new_owner()
    session = served.session(owner=owner)
    again = served.client().introduce(owner)
    assert (again.id, again.flags) == (session.client_id, NON_PNFS | CONFIRMED)
    assert again.sequence == 2
    session.run()


def test_a_client_that_was_rebooted_loses_what_it_had_when_it_is_confirmed(served: World) -> None:
    served.file(b"disk")
    owner = new_owner()
    session = served.session(owner=owner)
    session.run(*lab(), calls.open_name(b"disk"))
    again = served.client().introduce(owner, b"rebooted")
    assert again.id != session.client_id
    assert again.flags == NON_PNFS
    session.run()
    assert served.lab.held
    served.client().compound(calls.create_session(again.id, again.sequence)).ok()
    assert session.status() == Status.BADSESSION
    assert not served.lab.held
    assert fails(served, calls.create_session(session.client_id, 2)) == Status.STALE_CLIENTID


def test_another_user_cannot_be_a_client_that_has_something(served: World) -> None:
    owner = new_owner()
    session = served.session(1, owner=owner)
    assert fails(served, calls.exchange_id(owner), uid=2) == Status.CLID_INUSE
    assert fails(served, calls.exchange_id(owner, b"rebooted"), uid=2) == Status.CLID_INUSE
    session.connection.compound(calls.destroy_session(session.id)).ok()
    assert served.client(2).introduce(owner).id != session.client_id


def test_another_user_may_be_a_client_whose_lease_ran_out(served: World) -> None:
    owner = new_owner()
    session = served.session(1, owner=owner)
    served.now += LEASE_S + 1
    served.client(2).introduce(owner)
    assert session.status() == Status.BADSESSION


@pytest.mark.parametrize(
    ("uid", "verifier", "status"),
    [
        (1, b"verifier", Status.OK), (1, b"rebooted", Status.NOT_SAME),
        (2, b"rebooted", Status.NOT_SAME), (2, b"verifier", Status.PERM),
    ],
)  # fmt: skip
def test_an_update_is_of_a_confirmed_record(
    served: World, uid: int, verifier: bytes, status: Status
) -> None:
    owner = new_owner()
    assert fails(served, calls.exchange_id(owner, flags=UPDATE), uid=1) == Status.NOENT
    served.client(1).introduce(owner)
    assert fails(served, calls.exchange_id(owner, flags=UPDATE), uid=1) == Status.NOENT
    session = served.session(1, owner=owner)
    answer = served.client(uid).compound(calls.exchange_id(owner, verifier, UPDATE))
    assert answer.status == status
    if status == Status.OK:
        assert (answer.value.id, answer.value.flags) == (session.client_id, NON_PNFS | CONFIRMED)
    session.run()


def test_flags_that_are_not_known_are_refused(served: World) -> None:
    for flags in (0x8, CONFIRMED, 0x100_0000):
        assert fails(served, calls.exchange_id(new_owner(), flags=flags)) == Status.INVAL
    fence_ops = calls.exchange_id(new_owner(), flags=4)
    assert fails(served, fence_ops, minor=1) == Status.INVAL
    assert fails(served, fence_ops, minor=2) == Status.OK
    assert fails(served, calls.exchange_id(new_owner(), flags=0x6_0103)) == Status.OK


def test_state_is_protected_by_nothing(served: World) -> None:
    assert fails(served, calls.exchange_id(new_owner(), protection=1)) == Status.INVAL
    assert fails(served, calls.exchange_id(new_owner(), protection=2)) == Status.ENCR_ALG_UNSUPP
    assert fails(served, calls.exchange_id(new_owner(), protection=3)) == Status.BADXDR


def test_a_client_may_say_what_it_is_once(served: World) -> None:
    assert fails(served, calls.exchange_id(new_owner(), implementations=1)) == Status.OK
    assert fails(served, calls.exchange_id(new_owner(), implementations=2)) == Status.BADXDR


def test_an_owner_has_a_kilobyte(served: World) -> None:
    assert fails(served, calls.exchange_id(bytes(1024))) == Status.OK
    assert fails(served, calls.exchange_id(bytes(1025))) == Status.BADXDR


def test_client_ids_are_of_one_start(served: World) -> None:
    before = served.client().introduce()
    served.restart()
    assert fails(served, calls.create_session(before.id, 1)) == Status.STALE_CLIENTID
    assert served.client().introduce().id != before.id


def test_a_client_id_says_nothing_of_another(served: World) -> None:
    served.session()
    mine = served.client(1000).introduce().id
    for guess in range(mine - 20, mine + 20):
        call = calls.create_session(guess & (1 << 64) - 1, 1)
        if guess != mine:
            assert fails(served, call) == Status.STALE_CLIENTID


def test_the_number_of_a_start_is_durable_before_there_is_a_client(served: World) -> None:
    served.restart()
    served.gateway.waited.clear()
    served.client().introduce()
    assert "durable" in served.gateway.waited


# --- CREATE_SESSION


def test_the_same_sequence_gets_the_same_session(served: World) -> None:
    client, known = served.client(), served.client().introduce()
    create = calls.create_session(known.id, known.sequence)
    first = client.compound(create).ok()
    assert client.compound(create).ok().raw == first.raw
    assert len(served.state.sessions) == 1
    second = client.compound(calls.create_session(known.id, known.sequence + 1)).ok()
    assert second.value.session_id != first.value.session_id
    assert second.value.sequence == known.sequence + 1
    for sequence in (known.sequence, known.sequence + 3):
        assert fails(served, calls.create_session(known.id, sequence)) == Status.SEQ_MISORDERED


def test_before_the_first_there_is_nothing_to_repeat(served: World) -> None:
    known = served.client().introduce()
    create = calls.create_session(known.id, known.sequence - 1)
    assert fails(served, create) == Status.SEQ_MISORDERED


def test_what_failed_is_tried_again_with_the_same_sequence(served: World) -> None:
    known = served.client().introduce()
    for wrong, status in (
        ({"request": 100}, Status.TOOSMALL), ({"response": 0}, Status.TOOSMALL),
        ({"back": calls.channel(request=10)}, Status.TOOSMALL), ({"slots": 0}, Status.INVAL),
        ({"operations": 0}, Status.INVAL), ({"flags": 8}, Status.INVAL),
        ({"rdma": (1, 2)}, Status.BADXDR), ({"security": calls.words(1, 7)}, Status.BADXDR),
    ):  # fmt: skip
        assert fails(served, calls.create_session(known.id, known.sequence, **wrong)) == status
    assert not served.state.sessions
    assert fails(served, calls.create_session(known.id, known.sequence)) == Status.OK


def test_another_user_does_not_confirm_a_client(served: World) -> None:
    known = served.client(1).introduce()
    create = calls.create_session(known.id, known.sequence)
    assert fails(served, create, uid=2) == Status.CLID_INUSE
    assert fails(served, create, uid=1) == Status.OK


def test_what_is_granted_is_bounded(served: World) -> None:
    created = served.session(
        request=1 << 30, response=1 << 30, cached=1 << 30, operations=10**6, slots=10**6
    ).created
    assert created.request_bytes == created.response_bytes == (1 << 20) + 8192
    assert (created.cached_bytes, created.operations, created.slots) == (4096, 128, 64)
    created = served.session(request=1000, response=2000, cached=300, operations=4, slots=2).created
    assert created[3:] == (1000, 2000, 300, 4, 2)


def test_callbacks_are_taken_in_any_flavor(served: World) -> None:
    sys = calls.words(1, 5) + calls.opaque(b"machine") + calls.words(7, 8, 2, 9, 10)
    gss = calls.words(6, 3) + calls.opaque(b"ours") + calls.opaque(b"theirs")
    security = calls.words(3, 0) + sys + gss
    known = served.client().introduce()
    create = calls.create_session(known.id, known.sequence, security=security, flags=2)
    created = served.client().compound(create).ok().value
    assert created.flags == 2


# --- the end


def test_destroy_clientid(served: World) -> None:
    session = served.session()
    destroy = calls.destroy_clientid(session.client_id)
    assert session.status(destroy) == Status.CLIENTID_BUSY
    assert fails(served, destroy) == Status.CLIENTID_BUSY
    session.run(calls.destroy_session(session.id))
    assert fails(served, destroy) == Status.OK
    assert fails(served, destroy) == Status.STALE_CLIENTID
    unconfirmed = served.client().introduce()
    assert fails(served, calls.destroy_clientid(unconfirmed.id)) == Status.OK
    served.check_empty()


def test_who_is_not_confirmed_within_a_lease_is_forgotten(served: World) -> None:
    known = served.client().introduce()
    served.now += LEASE_S + 1
    create = calls.create_session(known.id, known.sequence)
    assert fails(served, create) == Status.STALE_CLIENTID
    served.check_empty()


def test_clients_are_kept_beyond_their_lease_until_a_sweep_after_hours(served: World) -> None:
    session = served.session()
    served.now += 3600
    assert served.state.sweep() == 0
    session.run()
    served.now += LEASE_S + 3601
    assert served.state.sweep() == 1
    assert session.status() == Status.BADSESSION
    served.check_empty()


def test_limits(tmp_path: Path) -> None:
    limits = Limits(clients=3, sessions_of_client=2, slots=10, slots_of_session=4)
    with world(tmp_path, limits) as served:
        served.file(b"disk")
        first, second, third = (
            served.session(slots=4, address=f"127.0.0.{host}") for host in (1, 2, 3)
        )
        assert third.created.slots == 2  # what is left
        for each in (first, second, third):
            each.run(*lab(), calls.open_name(b"disk"))
        fourth = served.client().introduce()
        create = calls.create_session(fourth.id, fourth.sequence, slots=4)
        assert fails(served, create) == Status.DELAY
        served.now += LEASE_S + 1
        second.run()
        assert fails(served, create) == Status.STALE_CLIENTID
        served.session(slots=2)
        assert first.status() == Status.BADSESSION
        second.run()
        again = served.client().compound(calls.create_session(second.client_id, 2)).ok()
        assert again.value.slots == 1  # it has as much as is left
        with pytest.raises(Nfs4Error) as caught:
            served.client().compound(calls.create_session(second.client_id, 3)).ok()
        assert caught.value.status == Status.DELAY
        assert caught.value.answer.results[-1].op == Op.CREATE_SESSION


def test_who_has_nothing_open_keeps_nobody_out(tmp_path: Path) -> None:
    with world(tmp_path, Limits(clients=3, slots=8, slots_of_session=4)) as served:
        served.file(b"disk")
        busy = served.session(slots=4)
        busy.run(*lab(), calls.open_name(b"disk"))
        strangers = [served.session(slots=2, address=f"127.0.0.{host}") for host in (2, 3)]
        served.now += 1
        strangers[0].run()
        served.session(slots=4, address="127.0.0.4").run(*lab(), calls.open_name(b"disk"))
        assert strangers[1].status() == Status.BADSESSION  # silent for longest
        served.session(slots=4, address="127.0.0.5").run(*lab(), calls.open_name(b"disk"))
        assert strangers[0].status() == Status.BADSESSION
        busy.run()


def test_making_room_for_a_client_does_not_take_that_client_away(tmp_path: Path) -> None:
    with world(tmp_path, Limits(slots=4, slots_of_session=4)) as served:
        session = served.session(slots=4)
        served.now += LEASE_S + 1
        create = calls.create_session(session.client_id, 2, slots=4)
        assert fails(served, create) == Status.DELAY
        session.run()


def test_unconfirmed_clients_push_out_the_oldest_of_them(tmp_path: Path) -> None:
    with world(tmp_path, Limits(clients=5)) as served:  # one address has three of them at most
        known = [served.client().introduce() for _ in range(5)]
        found = [fails(served, calls.create_session(each.id, each.sequence)) for each in known]
        assert found == [Status.STALE_CLIENTID] * 2 + [Status.OK] * 3
