"""Slots: a request happens once; what a session's sizes mean; connections; compounds' order."""

from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
from nfs4_calls import Call4
from nfs4_client import answer
from nfs4_world import World, at, lab, world

from nfsgw.v4.protocol import Op, Status


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def made_and_removed(name: bytes) -> list[Call4]:
    """What fails when it is done twice."""
    return [*lab(), calls.remove(name)]


# --- slots


def test_sequence_answers_what_it_was_asked(served: World) -> None:
    session = served.session(slots=8)
    found = session.attempt(slot=5).ok().value
    assert found == (session.id, 1, 5, 7, 7, 0)


def test_a_retry_gets_the_same_answer_and_does_nothing(served: World) -> None:
    served.file(b"disk")
    session = served.session()
    first = session.attempt(*made_and_removed(b"disk"), cache=True).ok()
    served.file(b"disk")
    again = session.attempt(*made_and_removed(b"disk"), cache=True, step=0)
    assert again.raw == first.raw
    assert served.lab.resolve("/disk")
    session.run(*made_and_removed(b"disk"))


def test_a_failure_is_repeated_too(served: World) -> None:
    session = served.session()
    first = session.attempt(*made_and_removed(b"disk"), cache=True)
    assert first.status == Status.NOENT
    served.file(b"disk")
    assert session.attempt(*made_and_removed(b"disk"), cache=True, step=0).raw == first.raw


def test_what_was_not_to_be_kept_is_not_done_twice_either(served: World) -> None:
    served.file(b"disk")
    session = served.session()
    session.run(cache=True)  # an answer that is not that of the next request
    session.run(*made_and_removed(b"disk"))
    served.file(b"disk")
    again = session.attempt(*made_and_removed(b"disk"), step=0)
    assert (again.status, len(again.results)) == (Status.RETRY_UNCACHED_REP, 1)
    assert served.lab.resolve("/disk")


def test_a_lone_sequence_is_always_repeated(served: World) -> None:
    session = served.session()
    first = session.attempt().ok()
    assert session.attempt(step=0).raw == first.raw


@pytest.mark.parametrize(
    "other",
    [
        [*lab(), calls.remove(b"else")],
        [*lab(), calls.lookup(b"disk")],
        [*lab()],
    ],
)
def test_another_request_with_an_old_number_is_found_out(served: World, other: list[Call4]) -> None:
    served.file(b"disk")
    session = served.session()
    session.run(*made_and_removed(b"disk"), cache=True)
    assert session.status(*other, cache=True, step=0) == Status.SEQ_FALSE_RETRY


def test_another_user_does_not_get_an_answer_by_a_retry(served: World) -> None:
    session = served.session()
    first = session.sequence(cache=True)
    served.client(0).compound(first, *lab(), calls.getfh()).ok()
    stolen = served.client(1000).compound(first, *lab(), calls.getfh())
    assert stolen.status == Status.SEQ_FALSE_RETRY


def test_numbers_go_on_by_one(served: World) -> None:
    session = served.session()
    session.run()
    session.run()
    for step in (2, -2, -1):
        assert session.status(step=step) == Status.SEQ_MISORDERED
        session.sequences[0] -= step
    session.run()


def test_the_number_after_the_largest_is_zero(served: World) -> None:
    session = served.session()
    served.state.sessions[session.id].slots[2].sequence = 0xFFFFFFFF
    answered = served.client().compound(calls.sequence(session.id, 0, 2, 7)).ok()
    assert answered.value.sequence == 0


def test_a_new_slot_has_no_request_zero(served: World) -> None:
    session = served.session()
    zero = calls.sequence(session.id, 0, 3, 7)
    assert served.client().compound(zero).status == Status.SEQ_MISORDERED


def test_a_retry_of_what_is_in_progress_is_told_to_wait(served: World) -> None:
    session = served.session()
    served.file(b"disk")
    sent = [session.sequence(cache=True), *made_and_removed(b"disk")]
    arguments = session.connection.arguments(*sent)
    began = served.begin(arguments)
    assert began.waits is not None  # until the removal is durable
    assert session.status(*made_and_removed(b"disk"), cache=True, step=0) == Status.DELAY
    assert session.status(cache=True) == Status.SEQ_MISORDERED
    session.sequences[0] -= 1
    session.run(slot=1)  # another slot is free
    first = answer(began.finish(), sent)
    assert first.ok()
    assert session.attempt(*made_and_removed(b"disk"), cache=True, step=0).raw == first.raw


def test_slots_there_are(served: World) -> None:
    session = served.session(slots=4)
    client = served.client()
    assert client.compound(calls.sequence(session.id, 1, 4, 4)).status == Status.BADSLOT
    assert client.compound(calls.sequence(session.id, 1, 2, 4)).status == Status.BAD_HIGH_SLOT
    assert client.compound(calls.sequence(session.id, 1, 3, 2)).status == Status.BAD_HIGH_SLOT
    assert client.compound(calls.sequence(session.id, 1, 3, 3)).status == Status.OK


def test_a_session_nobody_has(served: World) -> None:
    session = served.session()
    for session_id in (bytes(16), session.id[:15] + bytes([session.id[15] ^ 1])):
        bad = calls.sequence(session_id, 1, 0, 0)
        assert served.client().compound(bad).status == Status.BADSESSION


# --- sizes


def test_requests_have_a_size(served: World) -> None:
    session = served.session(request=512)
    found = session.attempt(*lab(), calls.lookup(b"x" * 500))
    assert (found.status, len(found.results)) == (Status.REQ_TOO_BIG, 1)
    assert session.status(*lab(), calls.lookup(b"x" * 250), step=0) == Status.NOENT


def test_compounds_have_a_length(served: World) -> None:
    session = served.session(operations=4)
    session.run(*[calls.putrootfh()] * 3)
    found = session.attempt(*[calls.putrootfh()] * 4)
    assert (found.status, len(found.results)) == (Status.TOO_MANY_OPS, 1)


def test_answers_have_a_size(served: World) -> None:
    served.file(b"disk", bytes(1000))
    session = served.session(response=600)
    session.run(*at(b"disk"), calls.read(count=300))
    found = session.attempt(*at(b"disk"), calls.read(count=1000))
    assert found.status == Status.REP_TOO_BIG
    assert found.results[-1].op == Op.READ
    assert len(found.raw) < 600


def test_what_changes_something_is_not_begun_when_its_result_may_not_fit(served: World) -> None:
    served.file(b"disk")
    session = served.session(response=256)
    found = session.attempt(*lab(), *[calls.getfh()] * 2, calls.remove(b"disk"))
    assert found.status == Status.REP_TOO_BIG
    assert found.results[-1].op == Op.REMOVE
    assert served.lab.resolve("/disk")


def test_kept_answers_have_a_size(served: World) -> None:
    served.file(b"disk", bytes(1000))
    session = served.session(cached=300)
    session.run(*at(b"disk"), calls.read(count=1000))
    found = session.attempt(*at(b"disk"), calls.read(count=1000), cache=True)
    assert (found.status, found.results[-1].op) == (Status.REP_TOO_BIG_TO_CACHE, Op.READ)
    again = session.attempt(*at(b"disk"), calls.read(count=1000), cache=True, step=0)
    assert again.raw == found.raw
    tiny = served.session(cached=10, complete=False)
    found = tiny.attempt(cache=True)
    assert (found.status, found.results[-1].op) == (Status.REP_TOO_BIG_TO_CACHE, Op.SEQUENCE)
    assert tiny.status(step=0) == Status.OK  # that took no number


# --- connections


def test_any_connection_may_use_a_session_and_then_end_it(served: World) -> None:
    session = served.session()
    other = served.client()
    destroy = calls.destroy_session(session.id)
    assert other.compound(destroy).status == Status.CONN_NOT_BOUND_TO_SESSION
    other.compound(session.sequence()).ok()
    other.compound(destroy).ok()
    assert session.status() == Status.BADSESSION
    assert other.compound(destroy).status == Status.BADSESSION


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (2, 2), (3, 3), (7, 3)])
def test_binding_a_connection(served: World, asked: int, got: int) -> None:
    session = served.session()
    other = served.client()
    assert other.compound(calls.bind(session.id, asked)).ok().value == (session.id, got)
    other.compound(calls.destroy_session(session.id)).ok()
    assert other.compound(calls.bind(session.id, asked)).status == Status.BADSESSION


def test_a_direction_there_is_not(served: World) -> None:
    session = served.session()
    assert served.client().compound(calls.bind(session.id, 4)).status == Status.BADXDR


def test_a_session_in_use_is_not_ended_by_others(served: World) -> None:
    served.file(b"disk")
    session = served.session()
    sent = [session.sequence(), *made_and_removed(b"disk")]
    began = served.begin(session.connection.arguments(*sent))
    session.connection.compound(calls.bind(session.id)).ok()
    destroy = calls.destroy_session(session.id)
    assert session.connection.compound(destroy).status == Status.DELAY
    began.finish()
    session.connection.compound(destroy).ok()


def test_a_session_ends_itself_at_the_end_only(served: World) -> None:
    session, other = served.session(), served.session()
    destroy = calls.destroy_session(session.id)
    assert session.status(destroy, calls.putrootfh()) == Status.NOT_ONLY_OP
    session.run()
    other.connection.compound(calls.bind(session.id)).ok()
    other.run(destroy, calls.putrootfh())
    assert session.status() == Status.BADSESSION
    other.run(calls.destroy_session(other.id))
    assert other.status() == Status.BADSESSION


def test_a_compound_that_outlives_its_client_opens_nothing(served: World) -> None:
    served.file(b"disk")
    owner = b"a client that reboots"
    session = served.session(owner=owner)
    served.gateway.full = True
    sent = [session.sequence(), *lab(), calls.open_new(b"disk")]
    began = served.begin(session.connection.arguments(*sent))
    assert began.waits is not None  # until there is room
    again = served.client().introduce(owner, b"rebooted")
    served.client().compound(calls.create_session(again.id, again.sequence)).ok()
    assert answer(began.finish(), sent).status == Status.DEADSESSION
    assert not list(served.state.open_files)
    assert not served.lab.held
