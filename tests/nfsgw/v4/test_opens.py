"""OPEN, CLOSE, OPEN_DOWNGRADE: what is opened and made, share reservations, what stateids allow."""

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nfs4_calls import BOTH, NONE, READ, WRITE, Call4
from nfs4_client import Session
from nfs4_world import World, at, lab, world

from engine import ROOT_INO, Inode, errors
from nfsgw.exports import Right, Rule
from nfsgw.v4.limits import Limits
from nfsgw.v4.protocol import LEASE_S, Op, Status
from nfsgw.v4.stateids import ANONYMOUS, BYPASS, INVALID, Stateid
from service import gateway
from service.share_records import Nfs, Table

NEW = calls.open_new(b"new")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


@pytest.fixture
def session(served: World) -> Session:
    return served.session()


def inode(served: World, name: str = "/new") -> Inode:
    return served.lab.resolve(name)


# --- what is opened


def test_an_open_of_a_file_that_is_there(served: World, session: Session) -> None:
    served.file(b"disk")
    change = inode(served, "/").change
    opened = session.run(*lab(), calls.open_name(b"disk"))
    assert opened.stateid.seqid == 1
    assert (opened.atomic, opened.before, opened.after) == (True, change, change)
    assert opened.flags == 4
    assert opened.attributes == 0
    assert opened.delegation == (0,)
    assert session.run(*at(b"disk"), calls.close(opened.stateid)) == INVALID
    served.check_nothing_open()


def test_an_open_that_makes_the_file(served: World, session: Session) -> None:
    change = inode(served, "/").change
    opened = session.run(*lab(), NEW)
    assert stat.S_IMODE(inode(served).mode) == 0o644
    assert opened.attributes == 1 << calls.MODE_BIT
    assert (opened.before, opened.after) == (change, inode(served, "/").change)
    assert opened.after > change


def test_the_current_file_is_the_opened_one(served: World, session: Session) -> None:
    opened = session.run(*lab(), NEW, calls.getfh())
    assert session.run(*at(b"new"), calls.getfh()) == opened


def test_a_file_of_its_handle(served: World, session: Session) -> None:
    served.file(b"disk")
    opened = session.run(*at(b"disk"), calls.open_here(READ))
    assert (opened.before, opened.after) == (0, 0)
    making = calls.open_call(calls.words(1, 0) + calls.attributes(mode=1), calls.words(4))
    assert session.status(*at(b"disk"), making) == Status.INVAL


def test_unchecked_cuts_what_is_there_and_leaves_its_mode(served: World, session: Session) -> None:
    served.file(b"disk", b"contents", mode=0o600)
    given = calls.attributes(size=3, mode=0o777)
    opened = session.run(*lab(), calls.open_new(b"disk", given=given))
    assert opened.attributes == 1 << calls.SIZE_BIT
    assert inode(served, "/disk").size == 3
    assert stat.S_IMODE(inode(served, "/disk").mode) == 0o600


def test_guarded_wants_no_file(served: World, session: Session) -> None:
    guarded = calls.open_new(b"new", how=calls.GUARDED)
    session.run(*lab(), guarded)
    assert session.status(*lab(), guarded) == Status.EXIST


@pytest.mark.parametrize("how", [calls.EXCLUSIVE, calls.EXCLUSIVE_WITH_ATTRIBUTES])
def test_exclusive_finds_its_own_file_again(served: World, session: Session, how: int) -> None:
    opened = session.run(*lab(), calls.open_new(b"new", how=how))
    assert opened.attributes == (1 << calls.MODE_BIT if how == 3 else 0)
    again = session.run(*lab(), calls.open_new(b"new", how=how))
    assert again.stateid == (2, opened.stateid.other)
    other = calls.open_new(b"new", how=how, verifier=b"somebody")
    assert session.status(*lab(), other) == Status.EXIST
    served.file(b"disk")
    zero = calls.open_new(b"disk", how=how, verifier=bytes(8))
    assert session.status(*lab(), zero) == Status.EXIST


def test_nothing_but_files_is_opened(served: World, session: Session) -> None:
    served.lab.mkdir(ROOT_INO, b"dir", 0o777, 0, 0)
    served.lab.symlink(ROOT_INO, b"link", b"dir", 0, 0)
    served.lab.create(ROOT_INO, b"pipe", stat.S_IFIFO | 0o666, 0, 0)
    for name, status in (
        (b"dir", Status.ISDIR), (b"link", Status.SYMLINK), (b"pipe", Status.WRONG_TYPE),
        (b"none", Status.NOENT), (b".snapshots", Status.ISDIR),
    ):  # fmt: skip
        assert session.status(*lab(), calls.open_name(name)) == status
        if name not in (b"none", b".snapshots"):
            assert session.status(*at(name), calls.open_here()) == status
    served.file(b"disk")
    assert session.status(*at(b"disk"), calls.open_name(b"x")) == Status.NOTDIR
    assert session.status(calls.open_name(b"x")) == Status.NOFILEHANDLE
    served.check_nothing_open()


def test_the_root_of_all_exports_has_no_files(served: World, session: Session) -> None:
    def status(call: Call4) -> Status:
        return session.status(calls.putrootfh(), call)

    assert status(calls.open_name(b"lab")) == Status.ISDIR
    assert status(calls.open_name(b"none")) == Status.NOENT
    assert status(calls.open_new(b"none")) == Status.ROFS
    assert status(calls.open_new(b"lab", how=calls.GUARDED)) == Status.EXIST
    assert status(calls.open_here()) == Status.ISDIR


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (b"", Status.INVAL), (b"a/b", Status.BADCHAR), (b"\0", Status.BADCHAR),
        (b".", Status.BADNAME), (b"..", Status.BADNAME), (b"x" * 256, Status.NAMETOOLONG),
    ],
)  # fmt: skip
def test_names(session: Session, name: bytes, status: Status) -> None:
    assert session.status(*lab(), calls.open_new(name)) == status


def test_shares_there_are(served: World, session: Session) -> None:
    served.file(b"disk")
    for access, deny in ((0, 0), (BOTH, 4), (0x100, 0), (BOTH | 0x600, 0)):
        assert session.status(*lab(), calls.open_name(b"disk", access, deny)) == Status.INVAL
    bad = calls.open_call(calls.words(0), calls.words(9))
    assert session.status(*lab(), bad) == Status.BADXDR
    bad = calls.open_call(calls.words(1, 4), calls.words(4))
    assert session.status(*lab(), bad) == Status.BADXDR


def test_delegations_are_never_given(served: World, session: Session) -> None:
    served.file(b"disk")
    for wanted, told in ((0x100, 3), (0x200, 3), (0x300, 3), (0x400, 0), (0x500, 7)):
        opened = session.run(*lab(), calls.open_name(b"disk", READ | wanted))
        assert opened.delegation == (3, told)
    state = calls.stateid(opened.stateid)
    for claim, status in (
        (calls.words(2) + state + calls.opaque(b"disk"), Status.BAD_STATEID),
        (calls.words(3) + calls.opaque(b"disk"), Status.NOTSUPP),
        (calls.words(5) + state, Status.BAD_STATEID), (calls.words(6), Status.NOTSUPP),
    ):  # fmt: skip
        assert session.status(*lab(), calls.open_call(calls.words(0), claim)) == status
    returned = Call4(Op.DELEGRETURN, state)
    assert session.status(*at(b"disk"), returned) == Status.BAD_STATEID


def test_a_file_whose_attributes_cannot_be_set_is_not_made(served: World) -> None:
    served.lab.mkdir(ROOT_INO, b"open", 0o777, 0, 0)
    session = served.session(1000)
    given = calls.words(2, 0, 1 << 36 - 32) + calls.opaque(calls.opaque(b"0"))
    making = calls.open_new(b"new", given=given)
    assert session.status(*at(b"open"), making) == Status.PERM
    with pytest.raises(errors.NotFound):
        inode(served, "/open/new")
    served.check_nothing_open()


# --- rights


@pytest.mark.parametrize(
    ("mode", "allowed"),
    [(0o000, 0), (0o400, READ), (0o200, WRITE), (0o600, BOTH), (0o100, READ), (0o300, BOTH)],
)
@pytest.mark.parametrize("access", [READ, WRITE, BOTH])
def test_an_open_asks_for_the_mode_of_the_owner_too(
    served: World, mode: int, allowed: int, access: int
) -> None:
    served.file(b"disk", mode=mode, uid=1000)
    fine = access & allowed == access
    status = served.session(1000).status(*lab(), calls.open_name(b"disk", access))
    assert status == (Status.OK if fine else Status.ACCESS)
    assert served.session(1001).status(*lab(), calls.open_name(b"disk", access)) == Status.ACCESS


def test_who_makes_a_file_may_write_it_whatever_its_mode(served: World) -> None:
    served.lab.mkdir(ROOT_INO, b"open", 0o777, 0, 0)
    session = served.session(1000)
    opened = session.run(*at(b"open"), calls.open_new(b"new", given=calls.attributes(mode=0)))
    session.run(*at(b"open"), calls.lookup(b"new"), calls.write(opened.stateid, 0, b"data"))
    assert session.status(*at(b"open"), calls.open_name(b"new")) == Status.ACCESS


def test_a_stateid_is_good_for_the_user_who_has_opened(served: World) -> None:
    served.file(b"disk", b"secret", mode=0o600, uid=1000)
    session = served.session(1000)
    opened = session.run(*lab(), calls.open_name(b"disk"))
    served.lab.setattr(inode(served, "/disk").ino, mode=0)
    assert session.run(*at(b"disk"), calls.read(opened.stateid)) == (True, b"secret")
    session.connection = served.client(1001)
    assert session.status(*at(b"disk"), calls.read(opened.stateid)) == Status.ACCESS
    assert session.status(*at(b"disk"), calls.write(opened.stateid, 0, b"x")) == Status.ACCESS


def test_an_open_that_another_user_widens_gives_the_first_no_more(served: World) -> None:
    served.file(b"disk", b"contents", mode=0o644, uid=1001)
    session = served.session(1000)
    session.run(*lab(), calls.open_name(b"disk", READ))
    session.connection = served.client(1001)
    state = session.run(*lab(), calls.open_name(b"disk", WRITE)).stateid
    served.lab.setattr(inode(served, "/disk").ino, mode=0)
    session.run(*at(b"disk"), calls.write(state, 0, b"C"))
    session.connection = served.client(1000)
    assert session.status(*at(b"disk"), calls.write(state, 0, b"x")) == Status.ACCESS
    assert session.run(*at(b"disk"), calls.read(state)) == (True, b"Contents")
    state = session.run(*at(b"disk"), calls.downgrade(state, WRITE))
    assert session.status(*at(b"disk"), calls.read(state)) == Status.ACCESS


def test_only_so_many_users_of_an_open_are_remembered(served: World) -> None:
    served.file(b"disk", b"contents", mode=0o666)
    session = served.session(1)
    for uid in range(1, 30):
        session.connection = served.client(uid)
        state = session.run(*lab(), calls.open_name(b"disk", READ)).stateid
    served.lab.setattr(inode(served, "/disk").ino, mode=0)
    assert session.run(*at(b"disk"), calls.read(state)) == (True, b"contents")
    session.connection = served.client(1)
    assert session.status(*at(b"disk"), calls.read(state)) == Status.ACCESS


def test_who_may_not_write_keeps_nobody_from_reading(served: World) -> None:
    served.file(b"disk", b"contents", mode=0o644)
    session = served.session(1000)
    for deny in (READ, BOTH):
        assert session.status(*lab(), calls.open_name(b"disk", READ, deny)) == Status.ACCESS
    session.run(*lab(), calls.open_name(b"disk", READ, WRITE))


def test_who_may_only_read_an_export_keeps_nobody_from_anything(served: World) -> None:
    served.file(b"disk", b"contents")
    rule = Rule(ipaddress.ip_network("127.0.0.0/8"), Right.READ)
    served.gateway.export("lab", rule=rule)
    session = served.session()
    for deny in (READ, WRITE, BOTH):
        assert session.status(*lab(), calls.open_name(b"disk", READ, deny)) == Status.ROFS
    session.run(*lab(), calls.open_name(b"disk", READ))


def test_a_snapshot_is_opened_for_reading(served: World, session: Session) -> None:
    served.file(b"disk", b"then")
    served.store.create_snapshot(served.lab, "monday")
    there = [*lab(), calls.lookup(b".snapshots"), calls.lookup(b"monday")]
    opened = session.run(*there, calls.open_name(b"disk", READ))
    assert session.run(*there, calls.lookup(b"disk"), calls.read(opened.stateid))[1] == b"then"
    assert session.status(*there, calls.open_name(b"disk", WRITE)) == Status.ROFS
    assert session.status(*there, NEW) == Status.ROFS


# --- stateids


def test_each_change_of_an_open_counts(served: World, session: Session) -> None:
    served.file(b"disk")
    first = session.run(*lab(), calls.open_name(b"disk", READ)).stateid
    second = session.run(*lab(), calls.open_name(b"disk", WRITE)).stateid
    assert second == Stateid(2, first.other)
    third = session.run(*at(b"disk"), calls.downgrade(second, READ))
    assert third == Stateid(3, first.other)
    found = session.run(calls.test_stateids(
        first, second, third, Stateid(0, first.other), Stateid(4, first.other), ANONYMOUS, BYPASS,
        Stateid(1, b"x" * 12),
    ))  # fmt: skip
    old, bad = Status.OLD_STATEID, Status.BAD_STATEID
    assert found == [old, old, Status.OK, Status.OK, bad, bad, bad, bad]
    assert session.status(*at(b"disk"), calls.close(second)) == Status.OLD_STATEID
    session.run(*at(b"disk"), calls.close(Stateid(0, first.other)))
    assert session.status(*at(b"disk"), calls.close(third)) == Status.BAD_STATEID


def test_a_stateid_is_its_clients_and_its_files(served: World, session: Session) -> None:
    served.file(b"disk")
    served.file(b"other")
    opened = session.run(*lab(), calls.open_name(b"disk")).stateid
    assert served.session().status(*at(b"disk"), calls.read(opened)) == Status.BAD_STATEID
    assert session.status(*at(b"other"), calls.read(opened)) == Status.BAD_STATEID
    assert session.status(*at(b"other"), calls.close(opened)) == Status.BAD_STATEID
    assert session.status(calls.free_stateid(opened)) == Status.LOCKS_HELD


def test_special_stateids_are_just_these(served: World, session: Session) -> None:
    served.file(b"disk", b"contents")
    assert session.run(*at(b"disk"), calls.read(ANONYMOUS))[1] == b"contents"
    assert session.run(*at(b"disk"), calls.read(BYPASS))[1] == b"contents"
    session.run(*at(b"disk"), calls.write(ANONYMOUS, 0, b"C"))
    session.run(*at(b"disk"), calls.write(BYPASS, 1, b"O"))
    for bad in (Stateid(0, BYPASS.other), Stateid(1, BYPASS.other), Stateid(2, ANONYMOUS.other)):
        assert session.status(*at(b"disk"), calls.read(bad)) == Status.BAD_STATEID


def test_an_open_allows_what_it_is_for(served: World, session: Session) -> None:
    served.file(b"disk", b"contents")
    reading = session.run(*lab(), calls.open_name(b"disk", READ, owner=b"r")).stateid
    writing = session.run(*lab(), calls.open_name(b"disk", WRITE, owner=b"w")).stateid
    assert session.status(*at(b"disk"), calls.write(reading, 0, b"x")) == Status.OPENMODE
    assert session.status(*at(b"disk"), calls.set_size(reading, 0)) == Status.OPENMODE
    session.run(*at(b"disk"), calls.write(writing, 0, b"C"))
    assert session.run(*at(b"disk"), calls.read(writing))[1] == b"Contents"  # to write in pages
    session.run(*at(b"disk"), calls.set_size(writing, 1))


# --- shares


def test_deny_stands_against_everybody_else(served: World, session: Session) -> None:
    served.file(b"disk", b"contents")
    held = session.run(*lab(), calls.open_name(b"disk", READ, WRITE)).stateid
    for other in (session, served.session()):
        writing = calls.open_name(b"disk", WRITE, owner=b"other")
        assert other.status(*lab(), writing) == Status.SHARE_DENIED
        cutting = calls.open_new(b"disk", READ, owner=b"other", given=calls.attributes(size=0))
        assert other.run(*lab(), calls.open_name(b"disk", READ, owner=b"other"))
        assert other.status(*lab(), cutting) == Status.SHARE_DENIED
        denying = calls.open_name(b"disk", READ, READ, owner=b"third")
        assert other.status(*lab(), denying) == Status.SHARE_DENIED
    assert inode(served, "/disk").size == 8
    session.run(*at(b"disk"), calls.close(held))
    session.run(*lab(), calls.open_name(b"disk", WRITE, owner=b"fourth"))


def test_deny_stands_against_stateids_that_are_no_opens(served: World, session: Session) -> None:
    served.file(b"disk", b"contents")
    session.run(*lab(), calls.open_name(b"disk", BOTH, BOTH))
    other = served.session()
    assert other.status(*at(b"disk"), calls.read(ANONYMOUS)) == Status.LOCKED
    assert other.status(*at(b"disk"), calls.write(ANONYMOUS, 0, b"x")) == Status.LOCKED
    assert other.status(*at(b"disk"), calls.write(BYPASS, 0, b"x")) == Status.LOCKED
    assert other.status(*at(b"disk"), calls.set_size(ANONYMOUS, 0)) == Status.LOCKED
    assert other.run(*at(b"disk"), calls.read(BYPASS))[1] == b"contents"
    served.now += LEASE_S + 1
    session.connection.compound(session.sequence()).ok()
    served.now += LEASE_S + 1
    other.run(*at(b"disk"), calls.write(ANONYMOUS, 0, b"x"))
    assert session.status() == Status.BADSESSION


def test_a_downgrade_is_to_what_some_opens_were(served: World, session: Session) -> None:
    served.file(b"disk")
    state = session.run(*lab(), calls.open_name(b"disk", BOTH, READ)).stateid
    for access, deny in ((READ, NONE), (WRITE, READ), (BOTH, NONE), (BOTH, BOTH), (0, 0), (1, 4)):
        refused = session.status(*at(b"disk"), calls.downgrade(state, access, deny))
        assert refused == Status.INVAL
    state = session.run(*lab(), calls.open_name(b"disk", READ)).stateid
    state = session.run(*at(b"disk"), calls.downgrade(state, READ))
    assert session.status(*at(b"disk"), calls.write(state, 0, b"x")) == Status.OPENMODE
    assert session.status(*at(b"disk"), calls.downgrade(state, BOTH, READ)) == Status.INVAL


owners = st.tuples(st.integers(0, 1), st.sampled_from([b"x", b"y"]))
shares = st.tuples(st.integers(1, 3), st.integers(0, 3))
actions = st.lists(
    st.tuples(st.sampled_from(["open", "open", "downgrade", "close"]), owners, shares), max_size=25
)


def test_shares_as_a_model_has_them(served: World) -> None:
    """The model keeps every OPEN of every owner, and looks at all of them each time."""
    served.file(b"disk")
    sessions = [served.session(), served.session()]

    @settings(max_examples=60)
    @given(actions)
    def run(done: list[tuple[str, tuple[int, bytes], tuple[int, int]]]) -> None:
        model: dict[tuple[int, bytes], list[tuple[int, int]]] = {}
        states: dict[tuple[int, bytes], Stateid] = {}
        for what, who, (access, deny) in done:
            session = sessions[who[0]]
            if what == "open":
                against = any(
                    each[1] & access or each[0] & deny
                    for other, opens in model.items() for each in opens if other != who
                )  # fmt: skip
                call = calls.open_name(b"disk", access, deny, owner=who[1])
                answer = session.attempt(*lab(), call)
                assert answer.status == (Status.SHARE_DENIED if against else Status.OK)
                if not against:
                    model.setdefault(who, []).append((access, deny))
                    states[who] = answer.value.stateid
            elif who in model and what == "downgrade":
                kept = [e for e in model[who] if not (e[0] & ~access or e[1] & ~deny)]
                fine = union(kept) == (access, deny)
                answer = session.attempt(*at(b"disk"), calls.downgrade(states[who], access, deny))
                assert answer.status == (Status.OK if fine else Status.INVAL)
                if fine:
                    model[who], states[who] = kept, answer.value
            elif who in model:
                del model[who]
                session.run(*at(b"disk"), calls.close(states.pop(who)))
        for who, state in states.items():
            sessions[who[0]].run(*at(b"disk"), calls.close(state))
        served.check_nothing_open()

    run()


def union(shares: list[tuple[int, int]]) -> tuple[int, int]:
    access = deny = 0
    for each in shares:
        access, deny = access | each[0], deny | each[1]
    return access, deny


# --- what becomes of the file


def test_an_unlinked_file_lives_until_it_is_closed(served: World, session: Session) -> None:
    served.file(b"disk", b"contents")
    answer = session.attempt(*lab(), calls.open_name(b"disk"), calls.getfh()).ok()
    handle, state = answer.value, answer.of(Op.OPEN).stateid
    session.run(*lab(), calls.remove(b"disk"))
    assert session.run(calls.putfh(handle), calls.read(state))[1] == b"contents"
    session.run(calls.putfh(handle), calls.write(state, 0, b"C"))
    session.run(calls.putfh(handle), calls.close(state))
    assert session.status(calls.putfh(handle)) == Status.STALE


def test_an_unlinked_file_lives_until_its_client_is_gone(served: World, session: Session) -> None:
    served.file(b"disk")
    handle = session.run(*lab(), calls.open_name(b"disk"), calls.getfh())
    session.run(*lab(), calls.remove(b"disk"))
    other = served.session()
    other.run(calls.putfh(handle))
    served.now += LEASE_S + 3601
    served.state.sweep()
    assert served.session().status(calls.putfh(handle)) == Status.STALE


def test_a_forced_restore_makes_what_is_open_stale(served: World, session: Session) -> None:
    served.file(b"disk", b"then")
    served.store.create_snapshot(served.lab, "monday")
    answer = session.attempt(*lab(), calls.open_name(b"disk", BOTH, BOTH), calls.getfh()).ok()
    handle, state = answer.value, answer.of(Op.OPEN).stateid
    with pytest.raises(errors.Busy):
        served.store.restore(served.lab, "monday")
    served.store.restore(served.lab, "monday", force=True)
    assert session.status(calls.putfh(handle), calls.read(state)) == Status.STALE
    assert session.status(calls.putfh(handle), calls.close(state)) == Status.STALE
    again = session.run(calls.putfh(handle), calls.open_here())  # what was denied is of the past
    assert session.run(calls.putfh(handle), calls.read(again.stateid))[1] == b"then"
    served.state.sweep()
    assert session.run(calls.test_stateids(state)) == [Status.BAD_STATEID]
    session.run(calls.putfh(handle), calls.close(again.stateid))
    served.check_nothing_open()


def test_how_much_may_be_open(tmp_path: Path) -> None:
    with world(tmp_path, Limits(opens=5, opens_of_client=3)) as served:
        served.file(b"disk")
        first, second = served.session(), served.session(address="127.0.0.2")
        for owner in (b"a", b"b", b"c"):
            first.run(*lab(), calls.open_name(b"disk", owner=owner))
        assert first.status(*lab(), calls.open_name(b"disk", owner=b"d")) == Status.DELAY
        assert first.status(*lab(), calls.open_new(b"new", owner=b"d")) == Status.DELAY
        first.run(*lab(), calls.open_name(b"disk", READ, owner=b"a"))
        second.run(*lab(), calls.open_name(b"disk", owner=b"a"))
        second.run(*lab(), calls.open_name(b"disk", owner=b"b"))
        assert second.status(*lab(), calls.open_name(b"disk", owner=b"c")) == Status.DELAY
        with pytest.raises(errors.NotFound):
            inode(served)
        served.now += LEASE_S + 1
        second.run()
        second.run(*lab(), calls.open_name(b"disk", owner=b"c"))
        assert first.status() == Status.BADSESSION


def test_what_is_not_exported_any_more_is_not_open(served: World, session: Session) -> None:
    served.file(b"disk")
    served.store.create_volume("other")
    served.gateway.export("other")
    opened = session.run(*lab(), calls.open_name(b"disk")).stateid
    session.run(*at(b"disk"), calls.lock_new(opened, b"me", calls.WRITE_LOCK, 0, 10))
    exports = served.gateway.exports
    served.state.export({each.id for each in exports.all()})
    assert session.run(calls.test_stateids(opened)) == [Status.OK]
    left = [each for each in exports.all() if each.name == "other"]
    exports.replace(left, exports.changed_ns + 1)
    served.state.export({each.id for each in left})
    assert session.run(calls.test_stateids(opened)) == [Status.BAD_STATEID]
    served.check_nothing_open()


def test_what_was_opened_in_the_export_of_a_snapshot_goes_with_that(
    served: World, session: Session
) -> None:
    """Its volume is exported still, and what was opened by way of that is open."""
    served.file(b"disk")
    served.store.create_snapshot(served.lab, "monday")
    served.gateway.export("lab@monday")
    opening = calls.open_name(b"disk", READ)
    there = session.run(calls.putrootfh(), calls.lookup(b"lab@monday"), opening).stateid
    way = (*lab(), calls.lookup(b".snapshots"), calls.lookup(b"monday"))
    other = served.session()
    kept = other.run(*way, opening).stateid
    exports = served.gateway.exports
    left = [each for each in exports.all() if each.name == "lab"]
    exports.replace(left, exports.changed_ns + 1)
    served.state.export({each.id for each in left})
    assert session.run(calls.test_stateids(there)) == [Status.BAD_STATEID]
    assert other.run(calls.test_stateids(kept)) == [Status.OK]
    other.run(*way, calls.lookup(b"disk"), calls.close(kept))
    served.check_nothing_open()


def test_the_gateway_closes_what_it_exports_no_more(served: World, session: Session) -> None:
    server = gateway.Gateway(served.store, served.gateway.gate)
    server._state, server._exports = served.state, served.gateway.exports
    table = Table(served.store)
    other = served.store.create_volume("kept")
    table.put(Nfs(8, other.id, "127.0.0.1:2049", ["127.0.0.0/8:root"], "kept"))
    nfs = Nfs(9, served.lab.id, "127.0.0.1:2049", ["127.0.0.0/8:root"], "lab")
    table.put(nfs)
    server._publish()
    served.file(b"disk")
    opened = session.run(*lab(), calls.open_name(b"disk")).stateid
    server._publish()
    assert session.run(calls.test_stateids(opened)) == [Status.OK]
    table.delete(nfs)
    server._publish()
    assert session.run(calls.test_stateids(opened)) == [Status.BAD_STATEID]
    served.check_nothing_open()  # so a restore need not be forced
