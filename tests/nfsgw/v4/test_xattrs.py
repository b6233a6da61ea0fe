"""RFC 8276: extended attributes of files and directories, the same that the mount has."""

import stat
from collections.abc import Iterator
from pathlib import Path

import nfs4_calls as calls
import pytest
from nfs4_calls import Call4
from nfs4_client import Session
from nfs4_world import World, at, lab, world

from engine import ROOT_INO
from nfsgw.v4.protocol import Op, Status

EITHER, CREATE, REPLACE = range(3)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.file(b"disk", b"contents", mode=0o644)
        yield made


@pytest.fixture
def session(served: World) -> Session:
    return served.session()


def get(name: bytes) -> Call4:
    return Call4(Op.GETXATTR, calls.opaque(name), lambda body: bytes(body.opaque(1 << 17)))


def put(name: bytes, value: bytes, how: int = EITHER) -> Call4:
    return Call4(
        Op.SETXATTR, calls.words(how) + calls.opaque(name) + calls.opaque(value),
        lambda body: (body.boolean(), body.u64(), body.u64()),
    )  # fmt: skip


def take(name: bytes) -> Call4:
    return Call4(
        Op.REMOVEXATTR, calls.opaque(name), lambda body: (body.boolean(), body.u64(), body.u64())
    )


def names(cookie: int = 0, most: int = 4096) -> Call4:
    def read(body: calls.Unpacker) -> tuple[int, list[bytes], bool]:
        after = body.u64()
        found = [bytes(body.opaque(255)) for _ in range(body.count(1000))]
        return after, found, body.boolean()

    return Call4(Op.LISTXATTRS, calls.long(cookie) + calls.words(most), read)


def test_they_are_those_of_the_mount(served: World, session: Session) -> None:
    ino = served.lab.resolve("/disk").ino
    before = served.lab.inode(ino).change
    assert session.run(*at(b"disk"), put(b"origin", b"golden")) == (True, before, before + 1)
    assert served.lab.get_xattr(ino, b"user.origin") == b"golden"
    served.lab.set_xattr(ino, b"user.other", b"")
    served.lab.set_xattr(ino, b"security.label", b"x")
    assert session.run(*at(b"disk"), names()) == (2, [b"origin", b"other"], True)
    assert session.run(*at(b"disk"), get(b"other")) == b""
    session.run(*at(b"disk"), take(b"origin"))
    assert served.lab.list_xattrs(ino) == [b"security.label", b"user.other"]
    session.run(*lab(), put(b"of a directory", b"x" * 65536))
    assert session.run(*lab(), get(b"of a directory")) == b"x" * 65536


def test_they_are_durable(served: World, session: Session) -> None:
    session.run(*at(b"disk"), put(b"a", b"1"), put(b"b", b"2"), take(b"a"))
    served.restart()
    session = served.session()
    assert session.run(*at(b"disk"), names()) == (1, [b"b"], True)


def test_new_and_there_already(session: Session) -> None:
    disk = at(b"disk")
    assert session.status(*disk, put(b"a", b"1", REPLACE)) == Status.NOXATTR
    session.run(*disk, put(b"a", b"1", CREATE))
    assert session.status(*disk, put(b"a", b"2", CREATE)) == Status.EXIST
    session.run(*disk, put(b"a", b"2", REPLACE))
    assert session.run(*disk, get(b"a")) == b"2"
    assert session.status(*disk, get(b"b")) == Status.NOXATTR
    assert session.status(*disk, take(b"b")) == Status.NOXATTR
    assert session.status(*disk, put(b"a", b"1", 3)) == Status.BADXDR


def test_names_and_sizes(session: Session) -> None:
    disk = at(b"disk")
    for name, status in (
        (b"", Status.INVAL), (b"x" * 251, Status.NAMETOOLONG), (b"a\0b", Status.BADCHAR),
        (b"x" * 250, Status.OK),
    ):  # fmt: skip
        assert session.status(*disk, put(name, b"")) == status
        assert session.status(*disk, get(name)) == status
    assert session.status(*disk, put(b"big", bytes(65537))) == Status.XATTR2BIG


def test_a_list_in_pieces(session: Session) -> None:
    disk = at(b"disk")
    for number in range(20):
        session.run(*disk, put(b"name %02d" % number, b""))
    cookie, found, end = 0, [], False
    while not end:
        cookie, some, end = session.run(*disk, names(cookie, 60))
        found += some
        assert len(some) == 3 or end
    assert found == [b"name %02d" % number for number in range(20)]
    assert session.status(*disk, names(0, 20)) == Status.TOOSMALL
    assert session.status(*disk, names(21)) == Status.BAD_COOKIE
    assert session.run(*disk, names(20)) == (20, [], True)


def test_who_may(served: World) -> None:
    served.lab.setattr(served.lab.resolve("/disk").ino, mode=0o640)
    served.lab.set_xattr(served.lab.resolve("/disk").ino, b"user.a", b"1")
    other = served.session(1000)
    disk = at(b"disk")
    assert other.status(*disk, get(b"a")) == Status.ACCESS
    assert other.status(*disk, put(b"a", b"2")) == Status.ACCESS
    assert other.status(*disk, take(b"a")) == Status.ACCESS
    assert other.run(*disk, names())[1] == [b"a"]
    access = Call4(Op.ACCESS, calls.words(0x1FF), lambda body: (body.u32(), body.u32()))
    assert other.run(*disk, access) == (0x1ED | 0x1C0, 0x100)
    assert served.session().run(*disk, access)[1] & 0x1C0 == 0x1C0
    old = other.attempt(*disk, access, minor=1).ok()
    assert old.value[0] & 0x1C0 == 0


def test_the_mounts_own_names_are_not_there(served: World, session: Session) -> None:
    disk = at(b"disk")
    assert session.status(*disk, get(b"ramet.cloned_from")) == Status.NOXATTR
    assert session.status(*disk, put(b"ramet.x", b"")) == Status.PERM


def test_what_has_none(served: World, session: Session) -> None:
    served.lab.create(ROOT_INO, b"pipe", stat.S_IFIFO | 0o666, 0, 0)
    for where in (at(b"pipe"), (calls.putrootfh(),), (*lab(), calls.lookup(b".snapshots"))):
        for call in (get(b"a"), put(b"a", b""), take(b"a"), names()):
            assert session.status(*where, call) == Status.WRONG_TYPE
    served.store.create_snapshot(served.lab, "monday")
    there = [*lab(), calls.lookup(b".snapshots"), calls.lookup(b"monday"), calls.lookup(b"disk")]
    assert session.status(*there, put(b"a", b"")) == Status.ROFS
    assert session.run(*there, names()) == (0, [], True)


def test_version_4_1_has_none(session: Session) -> None:
    found = session.attempt(*at(b"disk"), get(b"a"), minor=1)
    assert (found.status, found.results[-1].op) == (Status.OP_ILLEGAL, Op.ILLEGAL)
