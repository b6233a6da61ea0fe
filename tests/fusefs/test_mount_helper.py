"""mount -t ramet, lines of fstab, and umount, by the mount(8) of this machine."""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from own_mounts import OwnMounts, own_mounts

from engine import ROOT_INO, Store
from service import mount_options


@dataclass
class Host:
    """Where mount(8) knows stores: one with volumes lab and other, and some empty directories."""

    mounts: OwnMounts
    store: Path
    all: Path
    one: Path
    two: Path

    def status(self) -> dict[str, object]:
        return json.loads(self.mounts.ramet("--store", self.store, "--json", "status"))

    def mounted(self) -> dict[str, str]:
        """What is mounted at the directories, with its options."""
        rows = [line.split() for line in self.mounts.run("cat", "/proc/self/mounts").splitlines()]
        return {row[1]: row[3] for row in rows if row[2] == "fuse.ramet" and self.is_ours(row[1])}

    def wait_until_closed(self) -> None:
        """Until no daemon has the store."""
        with (self.store / "lock").open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def is_ours(self, path: str) -> bool:
        return Path(path).is_relative_to(self.store.parent)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        for name in ("lab", "other"):
            volume = store.create_volume(name)
            volume.write(volume.create(ROOT_INO, b"file", 0o644, 0, 0).ino, 0, name.encode())
        store.create_snapshot(store.volume("lab"), "monday")
    places = [tmp_path / name for name in ("all", "one", "two")]
    for place in places:
        place.mkdir()
    with own_mounts(tmp_path / "overlay") as mounts:
        mounts.ramet("mount", "--install-helper")
        host = Host(mounts, tmp_path / "store", *places)
        yield host
        for path in host.mounted():
            mounts.run("umount", path)
        host.wait_until_closed()


def test_lines_of_fstab(host: Host, tmp_path: Path) -> None:
    run, fstab = host.mounts.run, tmp_path / "fstab"
    fstab.write_text(
        f"{host.store} {host.all} ramet "
        "defaults,noatime,nofail,_netdev,allow_other,x-systemd.automount 0 0\n"
        f"{host.store}:lab {host.one} fuse.ramet ro,noexec,relatime,nosuid,nodev,user 0 0\n"
        f"{host.store}:other {host.two} ramet rw,noauto 0 0\n"
    )
    run("mount", "-T", fstab, "-a")
    run("mount", "-T", fstab, "-a")  # what is there already is no error
    found = host.mounted()
    assert found.keys() == {str(host.all), str(host.one)}
    assert "noatime" in found[str(host.all)]
    assert {"ro", "noexec"} <= set(found[str(host.one)].split(","))
    assert run("cat", host.one / "file", host.all / "other" / "file") == "labother"
    run("touch", host.one / "new", code=1)
    run("mount", "-T", fstab, host.two)
    run("touch", host.two / "new")
    assert run("ls", host.all / "other").split() == ["file", "new"]


def test_the_last_umount_ends_the_daemon(host: Host) -> None:
    run = host.mounts.run
    run("mount", "-t", "ramet", host.store, host.all)
    run("mount", "-t", "ramet", f"{host.store}:lab", host.one)
    run("umount", host.all)
    assert run("cat", host.one / "file") == "lab"  # one mount is left
    assert host.status()["serving"] is True
    assert "not from all places" in run("mount", "-t", "ramet", host.store, host.all, code=32)
    run("umount", host.one)
    for _ in range(3):  # a mount waits for the daemon that ends
        run("mount", "-t", "ramet", host.store, host.all)
        assert run("cat", host.all / "lab" / "file") == "lab"
        run("umount", host.all)
    host.wait_until_closed()


def test_one_volume_alone(host: Host) -> None:
    run = host.mounts.run
    run("mount", "-t", "ramet", f"{host.store}:lab", host.one)
    assert (host.status()["volume"], host.status()["mountpoint"]) == ("lab", str(host.one))
    assert run("cat", host.one / "file", host.one / ".snapshots/monday/file") == "lablab"
    run("cp", host.one / "file", host.one / "copy")
    host.mounts.ramet("--store", host.store, "clone", host.one / "copy", "other:/copy")
    run("mount", "-t", "ramet", f"{host.store}:lab", host.one)  # it is there already
    told = run("mount", "-t", "ramet", f"{host.store}:other", host.two, code=32)
    assert "only volume lab" in told
    run("umount", host.one)
    run("mount", "-t", "ramet", "-o", "volume=lab@monday", host.store, host.one)
    assert run("ls", host.one).split() == ["file"]
    assert "Read-only" in run("touch", host.one / "new", code=1)


def test_all_flags_of_the_kernel_at_once(host: Host) -> None:
    flags = sorted(mount_options.KERNEL)
    words = ",".join([*flags, "nodiratime"])
    host.mounts.run("mount", "-t", "ramet", "-o", words, host.store, host.all)
    assert set(flags) <= set(host.mounted()[str(host.all)].split(","))


def test_remount_changes_what_the_kernel_minds(host: Host) -> None:
    run = host.mounts.run
    run("mount", "-t", "ramet", host.store, host.all)
    run("mount", "-o", "remount,ro", host.all)
    run("touch", host.all / "lab" / "new", code=1)
    run("mount", "-o", "remount,rw,noexec", host.all)
    run("touch", host.all / "lab" / "new")
    assert "noexec" in host.mounted()[str(host.all)]
    run("mount", "-o", "remount,volume=lab", host.all, code=32)


def test_errors_are_one_line_and_codes_of_mount(host: Host, tmp_path: Path) -> None:
    def refused(*words: object, code: int) -> str:
        told = host.mounts.run("mount", "-t", "ramet", *words, code=code)
        assert told.count("\n") == 1, told
        return told

    (host.two / "file").touch()
    assert "no store" in refused(tmp_path / "nothing", host.one, code=32)
    assert "no volume 'nope'" in refused(f"{host.store}:nope", host.one, code=32)
    assert "no directory" in refused(host.store, host.two / "file", code=32)
    assert "not empty" in refused(host.store, host.two, code=32)
    assert "no mount option" in refused("-o", "bogus", host.store, host.one, code=1)
    host.mounts.run("mount", "-f", "-t", "ramet", host.store, host.one)  # fake
    host.mounts.run("mount", "-s", "-t", "ramet", "-o", "bogus,nonempty", host.store, host.two)
    assert host.mounted().keys() == {str(host.two)}


def test_stopping_the_daemon_leaves_no_dead_mounts(host: Host) -> None:
    run = host.mounts.run
    run("mount", "-t", "ramet", host.store, host.all)
    run("mount", "-t", "ramet", f"{host.store}:lab", host.one)
    host.mounts.ramet("--store", host.store, "umount")
    assert host.mounted() == {}
