"""LOCK, LOCKT, LOCKU, FREE_STATEID: byte ranges between owners and clients."""

from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nfs4_calls import READ, READ_LOCK, TO_END, WRITE, WRITE_LOCK, Denied
from nfs4_client import Session
from nfs4_world import World, at, lab, world

from engine import ROOT_INO
from nfsgw.v4.limits import Limits
from nfsgw.v4.protocol import LEASE_S, Op, Status
from nfsgw.v4.stateids import Stateid


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.file(b"disk", b"contents")
        yield made


def opened(session: Session, owner: bytes = b"owner", access: int = calls.BOTH) -> Stateid:
    found: Stateid = session.run(*lab(), calls.open_name(b"disk", access, owner=owner)).stateid
    return found


def on_disk(call: calls.Call4) -> tuple[calls.Call4, ...]:
    return *at(b"disk"), call


def test_two_clients_and_one_range(served: World) -> None:
    one, other = served.session(), served.session()
    mine, theirs = opened(one), opened(other)
    held = one.run(*on_disk(calls.lock_new(mine, b"me", WRITE_LOCK, 10, 10)))
    assert held.seqid == 1
    wanted = calls.lock_new(theirs, b"you", READ_LOCK, 0, TO_END)
    answer = other.attempt(*on_disk(wanted))
    told = Denied(10, 10, WRITE_LOCK, served.state.clients.alias(one.client_id), b"me")
    assert (answer.status, answer.value) == (Status.DENIED, told)
    tested = other.attempt(*on_disk(calls.lock_test(b"you", READ_LOCK, 19, 1)))
    assert (tested.status, tested.value) == (Status.DENIED, told)
    other.run(*on_disk(calls.lock_test(b"you", WRITE_LOCK, 20)))
    one.run(*on_disk(calls.lock_test(b"me", WRITE_LOCK, 0)))  # its own are in nobody's way
    one.run(*on_disk(calls.unlock(held, 0, TO_END)))
    other.run(*on_disk(wanted))
    served.now += 1
    assert one.attempt(*on_disk(calls.lock_test(b"me"))).value == Denied(
        0, TO_END, READ_LOCK, served.state.clients.alias(other.client_id), b"you"
    )


def test_a_client_does_not_learn_the_ids_of_others(served: World) -> None:
    """Who knows one could ask for its session, and end that."""
    ids = []
    for session in (served.session(), served.session()):
        state = opened(session)
        session.run(*on_disk(calls.lock_new(state, b"me", WRITE_LOCK, len(ids) * 10, 10)))
        ids.append(session.client_id)
    asker = served.session()
    told = [
        asker.attempt(*on_disk(calls.lock_test(b"me", WRITE_LOCK, offset, 10))).value.client_id
        for offset in (0, 10, 0, 10)
    ]
    assert told[:2] == told[2:]  # it can tell them apart
    assert len({*told, *ids, asker.client_id}) == 5


def test_owners_of_one_client_are_others_too(served: World) -> None:
    session = served.session()
    state = opened(session)
    session.run(*on_disk(calls.lock_new(state, b"me")))
    answer = session.attempt(*on_disk(calls.lock_new(state, b"you")))
    assert answer.value == Denied(0, TO_END, WRITE_LOCK, session.client_id, b"me")
    other = served.session()  # the same owner of another client is another owner
    assert other.status(*on_disk(calls.lock_new(opened(other), b"me"))) == Status.DENIED


def test_a_lock_counts_its_changes(served: World) -> None:
    session = served.session()
    state = opened(session)
    first = session.run(*on_disk(calls.lock_new(state, b"me", offset=0, length=10)))
    second = session.run(*on_disk(calls.lock_more(first, offset=20, length=10)))
    assert second == Stateid(2, first.other)
    again = session.run(*on_disk(calls.lock_new(state, b"me", offset=40, length=10)))
    assert again == Stateid(3, first.other)
    assert session.status(*on_disk(calls.lock_more(second))) == Status.OLD_STATEID
    assert session.status(*on_disk(calls.unlock(second))) == Status.OLD_STATEID
    third = session.run(*on_disk(calls.unlock(again, 0, 30)))
    assert third == Stateid(4, first.other)
    assert session.status(calls.free_stateid(third)) == Status.LOCKS_HELD
    gone = session.run(*on_disk(calls.unlock(third)))
    session.run(calls.free_stateid(gone))
    assert session.status(calls.free_stateid(gone)) == Status.BAD_STATEID
    session.run(*on_disk(calls.close(state)))
    served.check_nothing_open()


def test_a_lock_needs_an_open_that_allows_it(served: World) -> None:
    session = served.session()
    reading, writing = opened(session, b"r", READ), opened(session, b"w", WRITE)
    assert session.status(*on_disk(calls.lock_new(reading, b"me", WRITE_LOCK))) == Status.OPENMODE
    assert session.status(*on_disk(calls.lock_new(writing, b"me", READ_LOCK))) == Status.OPENMODE
    held = session.run(*on_disk(calls.lock_new(reading, b"me", READ_LOCK, 0, 10)))
    assert session.status(*on_disk(calls.lock_more(held, WRITE_LOCK, 0, 10))) == Status.OPENMODE
    assert session.status(*on_disk(calls.write(held, 0, b"x"))) == Status.OPENMODE
    assert session.run(*on_disk(calls.read(held)))[1] == b"contents"
    blocking = calls.lock_new(writing, b"you", calls.WRITE_LOCK_WAIT, 10, 10)
    session.run(*on_disk(blocking))


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (1, TO_END - 1), (TO_END, 2), (TO_END - 5, 7)]
)
def test_ranges_there_are_not(served: World, offset: int, length: int) -> None:
    session = served.session()
    state = opened(session)
    if (offset, length) == (1, TO_END - 1):
        held = session.run(*on_disk(calls.lock_new(state, b"me", WRITE_LOCK, offset, length)))
        session.run(*on_disk(calls.unlock(held, TO_END, TO_END)))
        return
    for call in (
        calls.lock_new(state, b"me", WRITE_LOCK, offset, length),
        calls.lock_test(b"me", WRITE_LOCK, offset, length), calls.unlock(state, offset, length),
    ):  # fmt: skip
        assert session.status(*on_disk(call)) == Status.INVAL


def test_stateids_of_another_kind(served: World) -> None:
    session = served.session()
    state = opened(session)
    held = session.run(*on_disk(calls.lock_new(state, b"me")))
    assert session.status(*on_disk(calls.lock_new(held, b"you"))) == Status.BAD_STATEID
    assert session.status(*on_disk(calls.lock_more(state))) == Status.BAD_STATEID
    assert session.status(*on_disk(calls.unlock(state))) == Status.BAD_STATEID
    assert session.status(*on_disk(calls.close(held))) == Status.BAD_STATEID
    assert session.status(*on_disk(calls.downgrade(held, READ))) == Status.BAD_STATEID
    served.lab.mkdir(ROOT_INO, b"dir", 0o777, 0, 0)
    assert session.status(*at(b"dir"), calls.lock_test(b"me")) == Status.ISDIR
    assert session.status(calls.lock_test(b"me")) == Status.NOFILEHANDLE


def test_close_lets_go_of_locks(served: World) -> None:
    one, other = served.session(), served.session()
    state = opened(one)
    held = one.run(*on_disk(calls.lock_new(state, b"me")))
    one.run(*on_disk(calls.close(state)))
    assert one.run(calls.test_stateids(held)) == [Status.BAD_STATEID]
    other.run(*on_disk(calls.lock_new(opened(other), b"you")))


def test_locks_of_a_client_that_is_gone(served: World) -> None:
    """Courtesy: they stay beyond the lease, until somebody wants what they are on."""
    one, other = served.session(), served.session()
    held = one.run(*on_disk(calls.lock_new(opened(one), b"me", WRITE_LOCK, 0, 10)))
    theirs = opened(other)
    served.now += LEASE_S - 1
    other.run()
    wanted = calls.lock_new(theirs, b"you", WRITE_LOCK, 5, 1)
    assert other.status(*on_disk(wanted)) == Status.DENIED
    served.now += 2
    other.run(*on_disk(calls.lock_new(theirs, b"you", WRITE_LOCK, 10, 10)))
    one.run(calls.test_stateids(held))  # which renews
    assert other.status(*on_disk(wanted)) == Status.DENIED
    served.now += LEASE_S + 1
    other.run(*on_disk(calls.lock_test(b"you", WRITE_LOCK, 5, 1)))
    other.run(*on_disk(wanted))
    assert one.status() == Status.BADSESSION


def test_a_client_with_a_request_in_progress_is_there(served: World) -> None:
    one, other = served.session(), served.session()
    one.run(*on_disk(calls.lock_new(opened(one), b"me")))
    theirs = opened(other)
    sent = [one.sequence(), *lab(), calls.open_new(b"new")]
    began = served.begin(one.connection.arguments(*sent))
    served.now += LEASE_S + 1
    wanted = calls.lock_new(theirs, b"you")
    assert other.status(*on_disk(wanted)) == Status.DENIED
    began.finish()
    assert other.status(*on_disk(wanted)) == Status.DENIED
    served.now += LEASE_S + 1
    other.run(*on_disk(wanted))


def test_taking_a_lease_away_is_durable_before_others_profit(served: World) -> None:
    one, other = served.session(), served.session()
    one.run(*on_disk(calls.lock_new(opened(one), b"me")))
    theirs = opened(other)
    served.now += LEASE_S + 1
    served.gateway.waited.clear()
    other.run(*on_disk(calls.lock_new(theirs, b"you")))
    assert served.gateway.waited == ["durable"]


def test_how_much_may_be_locked(tmp_path: Path) -> None:
    with world(tmp_path, Limits(locks=30, locks_of_client=7)) as served:
        served.file(b"disk")
        one, other = served.session(), served.session()
        state = opened(one)
        held = one.run(*on_disk(calls.lock_new(state, b"me", WRITE_LOCK, 0, 1)))
        for byte in (2, 4, 6):
            held = one.run(*on_disk(calls.lock_more(held, WRITE_LOCK, byte, 1)))
        assert one.status(*on_disk(calls.lock_more(held, WRITE_LOCK, 8, 1))) == Status.DELAY
        held = one.run(*on_disk(calls.unlock(held, 0, 5)))
        held = one.run(*on_disk(calls.lock_more(held, WRITE_LOCK, 10, 90)))
        held = one.run(*on_disk(calls.unlock(held, 20, 1)))
        held = one.run(*on_disk(calls.unlock(held, 30, 1)))
        assert one.status(*on_disk(calls.unlock(held, 40, 1))) == Status.DELAY
        held = one.run(*on_disk(calls.unlock(held, 31, 9)))
        theirs = opened(other)
        for owner in (b"a", b"b", b"c"):
            wanted = calls.lock_new(theirs, owner, READ_LOCK, 200, 1)
            other.run(*on_disk(wanted))
        wanted = calls.lock_new(theirs, b"d", READ_LOCK, 200, 1)
        assert other.status(*on_disk(wanted)) == Status.DELAY
        one.run(*on_disk(calls.close(state)))
        other.run(*on_disk(calls.close(theirs)))
        served.check_nothing_open()


OWNERS = [(0, b"x"), (0, b"y"), (1, b"x")]
BYTES = 12
spans = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES - 1)).map(sorted)
actions = st.lists(
    st.tuples(st.sampled_from(OWNERS), spans, st.sampled_from(["read", "write", "unlock"])),
    max_size=20,
)


def known_as(served: World, sessions: list[Session], who: int, other: int) -> int:
    """What a client is told of another, or of itself."""
    number = sessions[other].client_id
    return number if who == other else served.state.clients.alias(number)


def test_locks_as_a_model_has_them(served: World) -> None:
    """The model knows for each byte who has locked it, and how."""
    sessions = [served.session(), served.session()]
    opens = [opened(each) for each in sessions]

    @settings(max_examples=60)
    @given(actions)
    def run(done: list[tuple[tuple[int, bytes], list[int], str]]) -> None:
        model: dict[tuple[int, bytes], dict[int, bool]] = {owner: {} for owner in OWNERS}
        states: dict[tuple[int, bytes], Stateid] = {}
        for who, (start, end), what in done:
            session, span = sessions[who[0]], range(start, end + 1)
            offset, length = start, end - start + 1
            if what == "unlock":
                if who in states:
                    call = calls.unlock(states[who], offset, length)
                    states[who] = session.run(*on_disk(call))
                for byte in span:
                    model[who].pop(byte, None)
                continue
            kind = WRITE_LOCK if what == "write" else READ_LOCK
            against = {
                (known_as(served, sessions, who[0], other[0]), other[1])
                for other, held in model.items() if other != who
                for byte in span if byte in held and (what == "write" or held[byte])
            }  # fmt: skip
            tested = session.attempt(*on_disk(calls.lock_test(who[1], kind, offset, length)))
            call = (
                calls.lock_more(states[who], kind, offset, length) if who in states
                else calls.lock_new(opens[who[0]], who[1], kind, offset, length)
            )  # fmt: skip
            answer = session.attempt(*on_disk(call))
            assert tested.status == answer.status
            assert answer.status == (Status.DENIED if against else Status.OK)
            if against:
                assert answer.results[-1].op == Op.LOCK
                assert (answer.value.client_id, answer.value.owner) in against
            else:
                states[who] = answer.value
                model[who].update(dict.fromkeys(span, what == "write"))
        for who, state in states.items():
            freed = sessions[who[0]].run(*on_disk(calls.unlock(state)))
            sessions[who[0]].run(calls.free_stateid(freed))
        assert served.state.quotas.locks.count == 0

    run()
