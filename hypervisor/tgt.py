"""LUNs: files presented as SCSI disks over iSCSI by a tgtd of our own.

What is wanted is a list of targets; ``apply`` compares it with what was applied before and changes
the difference, so a LUN that stays keeps its initiators.

Facts about tgt 1.0.85 that shape this (its sources: usr/target.c, usr/iscsi/):
- It listens at every address, port 3260, when it cannot have the one it was told.  So its portals
  are read back before it gets a target.
- Addresses and names of initiators are alternatives: who matches one of them is let in.
- An account is one for all targets of a tgtd, and no target without its account binding asks for
  it.  A target is made offline, gets its rules, and only then takes logins.
- A LUN cannot be reopened under load: requests in flight would meet a closed file.  So its size
  and its file change while the target is offline and its connections are closed; initiators log in
  again by themselves and send what was not answered once more.
- COMPARE AND WRITE is a read, a compare and a write by one of the I/O threads: atomic only when a
  LUN has a single one.
- UNMAP and WRITE SAME with UNMAP are fallocate(PUNCH_HOLE), SYNCHRONIZE CACHE and FUA are
  fdatasync, and the write cache is on in the caching mode page: initiators know that they must
  flush.

Who may rename in a file's directory can make its path lead to any file of the host, between any two
looks at it.  So tgtd gets no path: we hold the file, look whether it is the one that is meant, and
tgtd opens what we hold, by /proc.
"""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import errors
from hypervisor.host_daemon import Deadline, HostDaemon, Listen, kill_lock_holder, point
from hypervisor.iscsi import Chap, Initiator
from hypervisor.tgt_control import LUN_ACTIVE, SOCKET, Control, Mode, Op, Refused

BLOCK_BYTES = 512
PHYSICAL_EXPONENT = 3  # 8 x 512 = 4096
IDLE_S = 5.0  # how long a LUN may be busy before we give up taking it away
READY_S = 10.0
LUNS_MAX = 255  # of a target, in the simple form of a LUN address
LINKS = "luns"
_NAME = re.compile(r"[a-z0-9:.-]{1,223}")


@dataclass(frozen=True, slots=True)
class Lun:
    """One disk.  ``version`` differs when the same file has to be opened anew; another path does
    not: what tgtd has open is the file, ``inode`` of the file system ``device`` (st_dev)."""

    number: int
    path: Path = field(compare=False)
    serial: str
    naa: str
    size_bytes: int
    inode: int
    device: int
    read_only: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """An iSCSI target: who may log in, and its LUNs."""

    tid: int
    iqn: str
    addresses: tuple[str, ...] = ()
    initiators: tuple[str, ...] = ()
    chap: Chap | None = None
    luns: tuple[Lun, ...] = field(default=())


class Tgtd(HostDaemon):
    """One tgtd and the targets that were applied to it."""

    name = "tgtd"

    def __init__(self, directory: Path, listen: Listen) -> None:
        super().__init__(directory, listen)
        self.control = Control(directory)
        self._applied: dict[int, Target] = {}

    def arguments(self) -> list[str]:
        return ["tgtd", "-f", "-C", "0", "-t", "1", "--iscsi", f"portal={self.listen}"]

    def environment(self) -> dict[str, str]:
        return {"TGT_IPC_SOCKET": SOCKET}

    def prepare(self) -> None:
        """What must be there before ``spawn``."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        (self.directory / LINKS).mkdir(mode=0o700, exist_ok=True)
        self._applied.clear()
        kill_lock_holder(self.directory / f"{SOCKET}.0.lock")
        (self.directory / f"{SOCKET}.0").unlink(missing_ok=True)
        self.check_free()

    def await_ready(self) -> None:
        """Return when it takes requests and listens where it was told, and nowhere else."""
        deadline = Deadline(READY_S)
        while True:
            try:
                portals = self.control.portals()
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if not self.alive:
                    raise errors.RametError(f"tgtd did not start: {self.complaint()}") from None
                if not deadline.nap():
                    raise errors.RametError("tgtd does not answer; see its log") from None
        if portals != [str(self.listen)]:
            raise errors.RametError(f"tgtd could not listen at {self.listen}: {self.complaint()}")

    def stop(self) -> None:
        """End it in order: connections, LUNs, then the process; by force if that takes long."""
        try:
            if self.alive:
                for target in list(self._applied.values()):
                    self._remove_target(target)
                self.control.call(Mode.SYSTEM, Op.DELETE)
                self.wait_ended()
        except (errors.RametError, OSError):
            pass  # it goes either way
        finally:
            self.kill()
            self._applied.clear()

    # --- targets

    def apply(self, wanted: tuple[Target, ...]) -> dict[str, str]:
        """Make it so.  What fails is told by IQN or IQN/LUN, and leaves the rest as wanted."""
        failed: dict[str, str] = {}
        by_tid = {target.tid: target for target in wanted}
        for tid, old in list(self._applied.items()):
            if tid not in by_tid or by_tid[tid].iqn != old.iqn:
                self._remove_target(old)
        for target in wanted:
            try:
                self._apply_target(target, failed)
            except (errors.RametError, OSError) as error:
                failed[target.iqn] = str(error)
        return failed

    def _apply_target(self, target: Target, failed: dict[str, str]) -> None:
        """A new target gets its LUNs before anybody may log in, an old one its rules first."""
        new = target.tid not in self._applied
        if new:
            self._new_target(target)
            self._applied[target.tid] = Target(target.tid, target.iqn)
        old = self._applied[target.tid]
        done = {lun.number: lun for lun in old.luns}
        try:
            if not new and _access(old) != _access(target):
                self._set_access(old, target)
            self._apply_luns(target, done, failed)
            if new:
                self._set_access(old, target)
        except BaseException:
            self._remove_target(replace(old, luns=tuple(done.values())))
            raise
        self._applied[target.tid] = replace(target, luns=tuple(done.values()))

    def _new_target(self, target: Target) -> None:
        assert _NAME.fullmatch(target.iqn)
        assert target.tid > 0
        call = self.control.call
        call(Mode.TARGET, Op.NEW, tid=target.tid, text=f"targetname={target.iqn}")
        self._set_state(target.tid, online=False)

    def _set_state(self, tid: int, *, online: bool) -> None:
        """Offline, a target refuses logins for now; initiators try again."""
        text = "state=ready" if online else "state=offline"
        self.control.call(Mode.TARGET, Op.UPDATE, tid=tid, text=text)

    def _set_access(self, old: Target, new: Target) -> None:
        """Other rules: who is logged in has to log in again."""
        call, tid = self.control.call, new.tid
        self._set_state(tid, online=False)
        for op, target in ((Op.UNBIND, old), (Op.BIND, new)):
            for address in target.addresses:
                call(Mode.TARGET, op, tid=tid, text=f"initiator-address={address}")
            for name in target.initiators:
                call(Mode.TARGET, op, tid=tid, text=f"initiator-name={name}")
        if old.chap != new.chap:
            if old.chap is not None:
                call(Mode.ACCOUNT, Op.UNBIND, tid=tid, text=f"user={old.chap.user}")
                self._drop_account(old)
            if new.chap is not None:
                self._have_account(new)
                call(Mode.ACCOUNT, Op.BIND, tid=tid, text=f"user={new.chap.user}")
        self.control.disconnect(tid)
        self._set_state(tid, online=True)

    def _have_account(self, target: Target) -> None:
        assert target.chap is not None
        others = {t.chap for t in self._applied.values() if t.chap and t.tid != target.tid}
        if target.chap not in others:
            text = f"user={target.chap.user},password={target.chap.secret}"
            self.control.call(Mode.ACCOUNT, Op.NEW, text=text)

    def _drop_account(self, target: Target) -> None:
        """Forget it when no other target asks for it."""
        assert target.chap is not None
        others = {t.chap.user for t in self._applied.values() if t.chap and t.tid != target.tid}
        if target.chap.user not in others:
            self.control.call(Mode.ACCOUNT, Op.DELETE, text=f"user={target.chap.user}")

    def _remove_target(self, target: Target) -> None:
        self._set_state(target.tid, online=False)
        self.control.disconnect(target.tid)
        self._when_idle(
            lambda: self.control.call(Mode.TARGET, Op.DELETE, tid=target.tid, force=True)
        )
        if target.chap is not None:
            self._drop_account(target)
        del self._applied[target.tid]

    # --- LUNs

    def _apply_luns(self, target: Target, done: dict[int, Lun], failed: dict[str, str]) -> None:
        """``done`` has what is there, and is kept so."""
        wanted = {lun.number: lun for lun in target.luns}
        changed = [n for n, lun in done.items() if n in wanted and wanted[n] != lun]
        if changed:
            self._set_state(target.tid, online=False)
            self.control.disconnect(target.tid)
        try:
            for number in [n for n in done if n not in wanted] + changed:
                self._delete_lun(target, number)
                del done[number]
            for number, lun in wanted.items():
                if number not in done:
                    try:
                        self._new_lun(target, lun)
                        done[number] = lun
                    except (errors.RametError, OSError) as error:
                        failed[f"{target.iqn}/{number}"] = str(error)
        finally:
            if changed:
                self._set_state(target.tid, online=True)

    def _link(self, target: Target, number: int) -> Path:
        """tgtd's requests have no escapes: it opens a link whose name is ours."""
        return self.directory / LINKS / f"{target.tid}-{number}"

    def _new_lun(self, target: Target, lun: Lun) -> None:
        assert 0 < lun.number <= LUNS_MAX
        link = self._link(target, lun.number)
        call, tid, number = self.control.call, target.tid, lun.number
        with _held(lun) as held:
            point(link, held)
            try:
                path = link.relative_to(self.directory)
                call(
                    Mode.DEVICE, Op.NEW, tid=tid, lun=number,
                    text=f"path={path},bstype=rdwr,blocksize={BLOCK_BYTES}",
                )  # fmt: skip
            finally:
                link.unlink()
        try:
            call(
                Mode.DEVICE, Op.UPDATE, tid=tid, lun=number,
                text=f"vendor_id=RAMET,product_id=LUN,scsi_sn={lun.serial},scsi_id={lun.naa},"
                f"lbppbe={PHYSICAL_EXPONENT},thin_provisioning=1,readonly={int(lun.read_only)}",
            )  # fmt: skip
        except BaseException:
            self._delete_lun(target, number)
            raise

    def _delete_lun(self, target: Target, number: int) -> None:
        """Busy when commands of an initiator do not come to an end."""
        self._when_idle(
            lambda: self.control.call(Mode.DEVICE, Op.DELETE, tid=target.tid, lun=number)
        )

    @staticmethod
    def _when_idle(call: Callable[[], object]) -> None:
        deadline = Deadline(IDLE_S)
        while True:
            try:
                call()
            except Refused as error:
                if error.code != LUN_ACTIVE:
                    raise
                if not deadline.nap():
                    raise errors.Busy(
                        "an initiator keeps the LUN busy; log it out, then try again"
                    ) from None
            else:
                return

    # --- is it so?

    def probe(self, target: Target) -> None:
        """Log in as an initiator does, and ask each LUN for its size and serial.

        The rules let a name in that nobody can guess, for as long as this takes.
        """
        initiator = Initiator.stranger()
        rule = f"initiator-name={initiator.name}"
        call = self.control.call
        call(Mode.TARGET, Op.BIND, tid=target.tid, text=rule)
        try:
            with initiator.login(self.listen, target.iqn, target.chap) as session:
                for lun in target.luns:
                    found = session.capacity_bytes(lun.number), session.serial(lun.number)
                    if found != (lun.size_bytes, lun.serial):
                        raise errors.RametError(
                            f"LUN {lun.number} of {target.iqn} answers with {found[0]} bytes, "
                            f"serial {found[1]}; see tgtd's log"
                        )
        finally:
            call(Mode.TARGET, Op.UNBIND, tid=target.tid, text=rule)


def _access(target: Target) -> tuple[object, ...]:
    return target.addresses, target.initiators, target.chap


@contextlib.contextmanager
def _held(lun: Lun) -> Iterator[Path]:
    """Where our child can open the file that is meant, and no other; it is whole.

    O_PATH opens nothing yet: a FIFO or a device that the path leads to does not notice.
    """
    fd = os.open(lun.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != (lun.device, lun.inode):
            raise errors.Stale(f"{lun.path} is another file by now; it is looked up again")
        if not stat.S_ISREG(found.st_mode):
            raise errors.InvalidArgument(f"{lun.path} is no regular file")
        if found.st_size < lun.size_bytes:
            raise errors.RametError(
                f"{lun.path} has {found.st_size} bytes, the LUN {lun.size_bytes}; resize the LUN"
            )
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    finally:
        os.close(fd)
