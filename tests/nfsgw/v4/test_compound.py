"""What a compound is, whatever its operations: versions, order, bad XDR, current file and stateid,
durability.
"""

from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
from nfs4_calls import Call4
from nfs4_client import Nfs4Client, over
from nfs4_world import World, at, lab, world
from rpc_client import RpcClient, RpcError
from rpc_server import hosting

from engine import ROOT_INO, errors
from nfsgw.v4.protocol import PROGRAM, VERSION, Op, Status
from nfsgw.v4.stateids import CURRENT, INVALID
from nfsgw.xdr import Garbage


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def test_minor_versions_1_and_2_are_there(served: World) -> None:
    for minor, status in (
        (0, Status.MINOR_VERS_MISMATCH), (1, Status.OK), (2, Status.OK),
        (3, Status.MINOR_VERS_MISMATCH),
    ):  # fmt: skip
        found = served.client().compound(calls.exchange_id(b"somebody"), minor=minor, tag=b"a tag")
        assert (found.status, found.tag) == (status, b"a tag")
        assert len(found.results) == (status == Status.OK)


def test_no_operations_are_no_mistake(served: World) -> None:
    assert served.client().compound().status == Status.OK


def test_a_tag_has_a_kilobyte(served: World) -> None:
    assert served.client().compound(tag=bytes(1024)).tag == bytes(1024)
    with pytest.raises(Garbage):
        served.client().compound(tag=bytes(1025))


@pytest.mark.parametrize("minor", [1, 2])
def test_operations_that_are_none(served: World, minor: int) -> None:
    session = served.session()
    for number in (0, 1, 2, 59 if minor == 1 else 76, 0xFFFFFFFF, Op.ILLEGAL):
        made = served.client().compound(count=1, more=calls.words(number), minor=minor)
        assert (made.status, made.results[0].op) == (Status.OP_ILLEGAL, Op.ILLEGAL)
        made = session.attempt(count=2, more=calls.words(number), minor=minor)
        assert (made.status, made.results[1].op) == (Status.OP_ILLEGAL, Op.ILLEGAL)


def test_operations_that_are_not_served(served: World) -> None:
    session = served.session()
    for op in (Op.RENEW, Op.SETCLIENTID, Op.OPEN_CONFIRM, Op.LAYOUTGET, Op.GET_DIR_DELEGATION,
               Op.DELEGPURGE, Op.SET_SSV, Op.COPY_NOTIFY):  # fmt: skip
        made = session.attempt(Call4(op))
        assert (made.status, made.results[1].op) == (Status.NOTSUPP, op)


def test_what_needs_no_session_stands_alone(served: World) -> None:
    session = served.session()
    for call in (
        calls.exchange_id(b"somebody"), calls.create_session(session.client_id, 2),
        calls.bind(session.id), calls.destroy_session(session.id), calls.destroy_clientid(0),
    ):  # fmt: skip
        found = served.client().compound(call, calls.putrootfh())
        assert (found.status, len(found.results)) == (Status.NOT_ONLY_OP, 1)
    assert served.client().compound(calls.putrootfh()).status == Status.OP_NOT_IN_SESSION
    assert served.client().compound(calls.reclaim_complete()).status == Status.OP_NOT_IN_SESSION


def test_some_of_it_may_stand_in_a_session(served: World) -> None:
    session = served.session()
    known = session.run(calls.exchange_id(b"somebody"))
    made = session.run(calls.create_session(known.id, known.sequence))
    assert served.client().compound(calls.sequence(made.session_id, 1, 0, 0)).ok()
    assert session.status(calls.bind(session.id)) == Status.NOT_ONLY_OP
    assert session.status(calls.putrootfh(), calls.bind(session.id)) == Status.NOT_ONLY_OP


def test_sequence_is_first(served: World) -> None:
    session = served.session()
    found = session.attempt(calls.putrootfh(), calls.sequence(session.id, 9, 1, 7))
    assert (found.status, len(found.results)) == (Status.SEQUENCE_POS, 3)


def test_bad_xdr_ends_a_compound_where_it_is(served: World) -> None:
    session = served.session()
    cut = [
        (calls.words(Op.LOOKUP, 100) + b"abcd", Op.LOOKUP),
        (calls.words(Op.LOOKUP, 0xFFFFFFFF), Op.LOOKUP),
        (calls.words(Op.OPEN, 0), Op.OPEN),
        (calls.words(Op.LOCK, 9), Op.LOCK),
        (calls.words(Op.TEST_STATEID, 0xFFFFFFFF), Op.TEST_STATEID),
        (calls.words(Op.RECLAIM_COMPLETE, 2), Op.RECLAIM_COMPLETE),
    ]
    for more, op in cut:
        found = session.attempt(calls.putrootfh(), count=3, more=more)
        assert (found.status, found.results[-1].op, len(found.results)) == (Status.BADXDR, op, 3)
    short = served.client().compound(count=1, more=calls.words(Op.SEQUENCE, 1, 2))
    assert (short.status, short.results[0].op) == (Status.BADXDR, Op.SEQUENCE)


def test_fewer_operations_than_it_says_are_garbage(served: World) -> None:
    with pytest.raises(Garbage):
        served.client().compound(count=0xFFFFFFFF)
    session = served.session()
    found = session.attempt(calls.getfh(), count=3)
    assert (found.status, len(found.results)) == (Status.NOFILEHANDLE, 2)


def test_setattr_says_that_nothing_is_set_when_it_is_cut_off(served: World) -> None:
    session = served.session()
    cut = Call4(Op.SETATTR, calls.words(1), fails=lambda body, _: calls.bitmap(body))
    found = session.attempt(*lab(), cut)
    assert (found.status, found.value) == (Status.BADXDR, 0)


# --- the current file and its stateid


def test_the_current_stateid_is_that_of_the_operation_before(served: World) -> None:
    session = served.session()
    closed = session.run(
        *lab(),
        calls.open_new(b"disk"),
        calls.write(CURRENT, 0, b"abc"),
        calls.set_size(CURRENT, 2),
        calls.lock_new(CURRENT, b"lock"),
        calls.read(CURRENT),
        calls.unlock(CURRENT),
        calls.free_stateid(CURRENT),
        *at(b"disk"),
        calls.open_here(),
        calls.close(CURRENT),
    )
    assert closed == INVALID
    served.check_nothing_open()


def test_another_current_file_has_no_current_stateid(served: World) -> None:
    session = served.session()
    opened = session.run(*lab(), calls.open_new(b"disk")).stateid
    opening = [*lab(), calls.open_name(b"disk")]
    assert session.status(*opening, *at(b"disk"), calls.close(CURRENT)) == Status.BAD_STATEID
    assert session.status(*at(b"disk"), calls.close(CURRENT)) == Status.BAD_STATEID
    assert session.status(*at(b"disk"), calls.close(INVALID)) == Status.BAD_STATEID
    found = session.attempt(*opening, calls.getfh()).ok()
    assert found.of(Op.OPEN).stateid == (3, opened.other)
    kept = [*opening, calls.savefh(), *lab(), calls.restorefh(), calls.close(CURRENT)]
    assert session.run(*kept) == INVALID


def test_restorefh_needs_a_savefh(served: World) -> None:
    session = served.session()
    assert session.status(calls.restorefh()) == Status.NOFILEHANDLE
    assert session.status(calls.savefh()) == Status.NOFILEHANDLE


# --- durability


def test_a_compound_waits_once_for_the_disk(served: World) -> None:
    session = served.session()
    served.gateway.waited.clear()
    session.run(*lab(), calls.open_new(b"a"), *lab(), calls.open_new(b"b"), *lab(),
                calls.remove(b"a"))  # fmt: skip
    assert served.gateway.waited == ["durable"]
    served.gateway.waited.clear()
    session.run(*lab(), calls.open_name(b"b"), calls.getfh())
    assert served.gateway.waited == []


def test_what_failed_after_a_change_waits_too(served: World) -> None:
    session = served.session()
    served.gateway.waited.clear()
    assert session.status(*lab(), calls.open_new(b"a"), calls.lookup(b"b")) == Status.NOTDIR
    assert served.gateway.waited == ["durable"]


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (errors.StoreFailed("the disk is gone"), Status.IO),
        (errors.NoSpace("the disk is full"), Status.NOSPC),  # what a commit meets there
    ],
)
def test_when_nothing_can_be_stored_the_first_change_has_failed(
    served: World, problem: errors.RametError, status: Status
) -> None:
    session = served.session()
    served.file(b"old")

    async def durable() -> None:
        raise problem

    object.__setattr__(served.gateway.gate, "durable", durable)
    sent = [*lab(), calls.remove(b"old"), calls.open_new(b"new"), calls.getfh()]
    found = session.attempt(*sent, cache=True)
    assert (found.status, found.results[-1].op) == (status, Op.REMOVE)
    assert len(found.results) == 4
    assert session.attempt(*sent, cache=True, step=0).raw == found.raw


# --- as a program


def test_over_a_network(served: World) -> None:
    with hosting([served.gateway.program]) as hosted:
        with RpcClient(hosted.address) as connection:
            connection.call(PROGRAM, VERSION, 0)
            session = (
                hosted.do(lambda: served.file(b"disk", b"contents"))
                or Nfs4Client(over(connection)).session()
            )
            assert session.run(*at(b"disk"), calls.read()) == (True, b"contents")
            with pytest.raises(RpcError) as caught:
                connection.call(PROGRAM, VERSION, 2)
            assert (caught.value.kind, caught.value.status) == ("accepted", 3)
            with pytest.raises(RpcError) as caught:
                connection.call(PROGRAM, VERSION, 1, b"\0\0\0")
            assert (caught.value.kind, caught.value.status) == ("accepted", 4)
        with RpcClient(hosted.address) as connection:
            session.connection = Nfs4Client(over(connection))
            session.run()
            session.connection.compound(calls.destroy_session(session.id)).ok()
        assert not hosted.failures


def test_secinfo_says_what_is_taken_and_uses_the_file_up(served: World) -> None:
    served.lab.mkdir(ROOT_INO, b"dir", 0o755, 0, 0)
    served.file(b"disk")
    session = served.session()
    assert session.run(*lab(), calls.secinfo(b"dir")) == [1, 0]
    assert session.run(calls.putrootfh(), calls.secinfo(b"lab")) == [1, 0]
    assert session.run(*lab(), calls.secinfo_no_name(0)) == [1, 0]
    assert session.run(*lab(), calls.secinfo_no_name(1)) == [1, 0]
    for last in (calls.secinfo(b"dir"), calls.secinfo_no_name(0), calls.secinfo_no_name(1)):
        assert session.status(*lab(), last, calls.getfh()) == Status.NOFILEHANDLE
    assert session.status(*lab(), calls.secinfo(b"none")) == Status.NOENT
    assert session.status(*at(b"disk"), calls.secinfo(b"x")) == Status.NOTDIR
    assert session.status(*at(b"disk"), calls.secinfo_no_name(1)) == Status.NOTDIR
    assert session.status(calls.putrootfh(), calls.secinfo_no_name(1)) == Status.NOENT
    assert session.status(calls.secinfo_no_name(0)) == Status.NOFILEHANDLE
    assert session.status(*lab(), calls.secinfo_no_name(2)) == Status.BADXDR
