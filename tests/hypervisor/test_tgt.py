"""The driver of tgtd, where the command cannot lead."""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from presented import eventually, free_port

from engine import errors
from hypervisor.host_daemon import Listen, kill_lock_holder
from hypervisor.iscsi import Chap, Initiator, LoginRefused
from hypervisor.tgt import Lun, Target, Tgtd
from hypervisor.tgt_control import SOCKET, Mode, Op, Refused


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Tgtd]:
    made = Tgtd(tmp_path / "tgt", Listen("127.0.0.1", free_port()))
    made.prepare()
    made.spawn()
    made.await_ready()
    yield made
    made.stop()
    assert not made.alive


def target_of(path: Path, chap: Chap | None = None) -> Target:
    path.write_bytes(bytes(1 << 20))
    found = path.stat()
    naa = "602726d" + "1" * 25
    lun = Lun(1, path, "ab" * 16, naa, 1 << 20, found.st_ino, found.st_dev)
    return Target(7, "iqn.2026-01.io.ramet:test", ("127.0.0.1",), (), chap, (lun,))


def test_the_probe_logs_in_where_only_others_may(daemon: Tgtd, tmp_path: Path) -> None:
    target = target_of(tmp_path / "a", Chap("eve", "secret-of-eve"))
    only = Target(7, target.iqn, (), ("iqn.2026-01.test:friend",), target.chap, target.luns)
    assert daemon.apply((only,)) == {}
    daemon.probe(only)
    with pytest.raises(LoginRefused), Initiator.stranger().login(
        daemon.listen, only.iqn, only.chap
    ):  # fmt: skip
        pass
    assert "secret-of-eve" not in repr(only)


def test_the_probe_sees_what_is_not_as_it_should_be(daemon: Tgtd, tmp_path: Path) -> None:
    target = target_of(tmp_path / "a")
    assert daemon.apply((target,)) == {}
    daemon.control.call(Mode.DEVICE, Op.UPDATE, tid=7, lun=1, text="scsi_sn=another")
    with pytest.raises(errors.RametError, match="another"):
        daemon.probe(target)
    daemon.control.call(Mode.DEVICE, Op.DELETE, tid=7, lun=1)
    with pytest.raises(errors.RametError, match="does not answer"):
        daemon.probe(target)


def test_a_lun_that_fails_leaves_the_others(daemon: Tgtd, tmp_path: Path) -> None:
    target = target_of(tmp_path / "a")
    (good,) = target.luns
    bad = replace(good, number=2, path=tmp_path / "none")
    swapped = replace(good, number=3, inode=1)
    elsewhere = replace(good, number=4, device=good.device + 1)
    failed = daemon.apply((replace(target, luns=(good, bad, swapped, elsewhere)),))
    assert set(failed) == {f"{target.iqn}/{n}" for n in (2, 3, 4)}
    daemon.probe(target)
    with Initiator.stranger().login(daemon.listen, target.iqn) as session:
        assert session.capacity_bytes(1) == 1 << 20
        with pytest.raises(errors.RametError):
            session.capacity_bytes(3)


def test_a_path_that_is_made_to_lead_elsewhere_leads_tgtd_nowhere(
    daemon: Tgtd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory's owner puts a link to a file of the host in the LUN's place, for just as long
    as tgtd opens it: at first, after a new size, and after a restart."""
    target = target_of(tmp_path / "a")
    (tmp_path / "secret").write_bytes(b"secret" * (1 << 20))
    call = daemon.control.call

    def attacked(mode: Mode, op: Op, **more: Any) -> str:
        if (mode, op) != (Mode.DEVICE, Op.NEW):
            return call(mode, op, **more)
        (tmp_path / "a").rename(tmp_path / "aside")
        (tmp_path / "a").symlink_to(tmp_path / "secret")
        try:
            return call(mode, op, **more)
        finally:
            (tmp_path / "aside").replace(tmp_path / "a")

    monkeypatch.setattr(daemon.control, "call", attacked)
    assert daemon.apply((target,)) == {}
    daemon.probe(target)
    os.truncate(tmp_path / "a", 2 << 20)
    (lun,) = target.luns
    grown = replace(target, luns=(replace(lun, size_bytes=2 << 20),))
    assert daemon.apply((grown,)) == {}
    daemon.probe(grown)
    daemon.kill()
    daemon.prepare()
    daemon.spawn()
    daemon.await_ready()
    assert daemon.apply((grown,)) == {}
    daemon.probe(grown)


def test_what_is_no_file_is_never_opened(daemon: Tgtd, tmp_path: Path) -> None:
    target = target_of(tmp_path / "a")
    (lun,) = target.luns
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for number, name in enumerate(("fifo", "link"), 2):
        found = os.lstat(tmp_path / name)
        bad = replace(lun, number=number, path=tmp_path / name, inode=found.st_ino)
        failed = daemon.apply((replace(target, luns=(lun, bad)),))
        assert "no regular file" in failed[f"{target.iqn}/{number}"]


def test_a_rename_disturbs_nobody_and_a_new_size_all(daemon: Tgtd, tmp_path: Path) -> None:
    target = target_of(tmp_path / "a")
    assert daemon.apply((target,)) == {}
    with Initiator.stranger().login(daemon.listen, target.iqn) as session:
        (tmp_path / "a").rename(tmp_path / "b")
        (lun,) = target.luns
        assert daemon.apply((replace(target, luns=(replace(lun, path=tmp_path / "b"),)),)) == {}
        assert session.capacity_bytes(1) == 1 << 20
        os.truncate(tmp_path / "b", 2 << 20)
        grown = replace(lun, path=tmp_path / "b", size_bytes=2 << 20)
        assert daemon.apply((replace(target, luns=(grown,)),)) == {}
        with pytest.raises((errors.RametError, OSError)):
            session.capacity_bytes(1)  # it has to log in again
    daemon.probe(replace(target, luns=(grown,)))


def test_a_port_lost_in_between_never_becomes_another(tmp_path: Path) -> None:
    """tgtd listens everywhere when it cannot have its port: then it gets no target, and ends."""
    daemon = Tgtd(tmp_path / "tgt", Listen("127.0.0.1", free_port()))
    daemon.prepare()
    with socket.socket() as taken:
        taken.bind(daemon.listen)
        taken.listen()
        daemon.spawn()
        with pytest.raises(errors.RametError, match=r"could not listen|did not start"):
            daemon.await_ready()
        daemon.stop()
    assert not daemon.alive


def test_a_lock_whose_holder_is_unknown_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an open file description lock F_GETLK says -1, which to kill(2) is everybody."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    path = tmp_path / "lock"
    with path.open("wb") as file:
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, whole)
        with pytest.raises(errors.Busy, match="does not say which process"):
            kill_lock_holder(path)
    assert killed == []
    kill_lock_holder(path)


def test_one_left_over_is_ended_first(daemon: Tgtd) -> None:
    with pytest.raises(Refused, match="no such target"):
        daemon.control.call(Mode.TARGET, Op.DELETE, tid=99)
    kill_lock_holder(daemon.directory / f"{SOCKET}.0.lock")
    eventually(lambda: not daemon.alive)
    daemon.prepare()
    daemon.spawn()
    daemon.await_ready()
