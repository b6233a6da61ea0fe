"""The mount as programs see it: POSIX basics, and cp as a clone."""

import ctypes
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mounted import Mount

BLOCK = 4096
LIBC = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> int:
    done = LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags)
    return 0 if done == 0 else ctypes.get_errno()


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    call = LIBC.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    assert call(fd, mode, offset, length) == 0, os.strerror(ctypes.get_errno())


def test_files_read_back_what_was_written(mount: Mount) -> None:
    path = mount.lab / "a"
    path.write_bytes(b"x" * 10_000)
    with path.open("r+b") as file:
        file.seek(5_000)
        file.write(b"yy")
        file.truncate(8_000)
    with path.open("ab") as file:
        file.write(b"end")
    assert path.read_bytes() == b"x" * 5_000 + b"yy" + b"x" * 2_998 + b"end"


def test_opening_with_truncation_leaves_nothing_of_the_old(mount: Mount) -> None:
    path = mount.lab / "a"
    path.write_bytes(b"x" * 10_000)
    path.write_bytes(b"y" * 4_000)
    assert path.read_bytes() == b"y" * 4_000
    (mount.lab / "b").write_bytes(b"z" * 20_000)
    subprocess.run(["cp", str(path), str(mount.lab / "b")], check=True)
    assert (mount.lab / "b").read_bytes() == b"y" * 4_000
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))  # Linux truncates
    assert path.stat().st_size == 0
    with pytest.raises(OSError) as caught:
        os.open(mount.lab / ".snapshots" / "empty", os.O_RDONLY | os.O_TRUNC)
    assert caught.value.errno in (errno.EISDIR, errno.EROFS)


def test_appends_of_several_openers_all_land(mount: Mount) -> None:
    path = mount.lab / "log"
    path.touch()
    openers = [os.open(path, os.O_WRONLY | os.O_APPEND) for _ in range(3)]
    expected = b""
    for n in range(30):
        line = b"%d " % n * n
        os.write(openers[n % 3], line)
        expected += line
    for fd in openers:
        os.close(fd)
    assert path.read_bytes() == expected


def test_statfs_counts_blocks_once(mount: Mount) -> None:
    def used() -> int:
        found = os.statvfs(mount.lab)
        assert (found.f_bsize, found.f_namemax) == (BLOCK, 255)
        assert 0 < found.f_bavail <= found.f_blocks
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    golden = mount.lab / "golden"
    golden.write_bytes(os.urandom(512 * BLOCK))
    assert used() == 512 * BLOCK
    subprocess.run(["cp", str(golden), str(mount.lab / "clone")], check=True)
    (mount.lab / "twin").write_bytes(golden.read_bytes())
    assert used() == 512 * BLOCK


def test_requests_are_made_by_who_makes_them(mount: Mount) -> None:
    """Through an open directory: the way to the mount is closed to other users."""
    mount.lab.chmod(0o1777)
    secret = mount.lab / "secret"
    secret.write_bytes(b"s")
    secret.chmod(0o600)
    lab = os.open(mount.lab, os.O_RDONLY)

    def as_somebody(*words: str) -> int:
        return subprocess.run(
            words, user=4321, group=8765, extra_groups=[], pass_fds=[lab], check=False,
            stderr=subprocess.DEVNULL, umask=0o027,
        ).returncode  # fmt: skip

    here = f"/proc/self/fd/{lab}"
    try:
        assert as_somebody("touch", f"{here}/file") == 0
        assert as_somebody("mkdir", f"{here}/dir") == 0
        assert as_somebody("ln", "-s", "file", f"{here}/link") == 0
        assert as_somebody("cat", f"{here}/secret") != 0
        assert as_somebody("rm", "-f", f"{here}/secret") != 0  # sticky
        assert as_somebody("chown", "0", f"{here}/file") != 0
    finally:
        os.close(lab)
    for name, mode in (("file", 0o640), ("dir", 0o750), ("link", 0o777)):
        found = (mount.lab / name).lstat()
        assert (found.st_uid, found.st_gid) == (4321, 8765)
        assert stat.S_IMODE(found.st_mode) == mode
    assert secret.read_bytes() == b"s"


def test_a_copy_by_cp_sends_no_data(mount: Mount) -> None:
    golden, clone = mount.lab / "golden.img", mount.lab / "clone.img"
    golden.write_bytes(os.urandom(3_000_001))
    before = mount.stats()["writes"]
    subprocess.run(["cp", str(golden), str(clone)], check=True)
    assert mount.stats()["writes"] == before
    assert mount.stats()["shared_ranges"] > 0
    assert clone.read_bytes() == golden.read_bytes()


def test_a_copy_of_a_sparse_image_sends_no_data(mount: Mount) -> None:
    golden, clone = mount.lab / "sparse.img", mount.lab / "clone.img"
    with golden.open("wb") as file:
        file.truncate(64 << 20)
        for at in (0, 5 << 20, 60 << 20):
            os.pwrite(file.fileno(), os.urandom(100_000), at)
    before = mount.stats()["writes"]
    subprocess.run(["cp", str(golden), str(clone)], check=True)
    assert mount.stats()["writes"] == before
    subprocess.run(["cmp", str(golden), str(clone)], check=True)


def test_a_clone_keeps_its_bytes_when_the_source_changes(mount: Mount) -> None:
    golden, clone = mount.lab / "golden", mount.root / "other" / "clone"
    data = os.urandom(40 * BLOCK)
    golden.write_bytes(data)
    subprocess.run(["cp", str(golden), str(clone)], check=True)
    golden.write_bytes(os.urandom(40 * BLOCK))
    golden.unlink()
    assert clone.read_bytes() == data


def test_rename_with_flags(mount: Mount) -> None:
    a, b = mount.lab / "a", mount.lab / "b"
    a.write_text("a")
    b.write_text("b")
    assert renameat2(a, b, 1) == errno.EEXIST
    assert renameat2(a, b, 4) == errno.EINVAL  # RENAME_WHITEOUT
    assert renameat2(a, b, 2) == 0
    assert (a.read_text(), b.read_text()) == ("b", "a")
    a.rename(b)
    assert b.read_text() == "b"
    assert not a.exists()


def test_rename_and_link_across_volumes_are_exdev(mount: Mount) -> None:
    (mount.lab / "a").write_text("a")
    for call in (os.rename, os.link):
        with pytest.raises(OSError, match="cross-device") as caught:
            call(mount.lab / "a", mount.root / "other" / "a")
        assert caught.value.errno == errno.EXDEV


def test_links_symlinks_and_counts(mount: Mount) -> None:
    a = mount.lab / "a"
    a.write_text("a")
    os.link(a, mount.lab / "b")
    assert a.stat().st_nlink == 2
    os.symlink("../lab/a", mount.lab / "s")
    assert (mount.lab / "s").read_text() == "a"
    (mount.lab / "d").mkdir()
    with pytest.raises(OSError, match="not empty"):
        (mount.lab / "d" / "e").mkdir() or (mount.lab / "d").rmdir()
    assert (mount.lab / "d").stat().st_nlink == 3


def test_an_open_file_outlives_its_name(mount: Mount) -> None:
    path = mount.lab / "a"
    path.write_bytes(b"old")
    with path.open("r+b", buffering=0) as file:
        path.unlink()
        file.write(b"new!")
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 10, 0) == b"new!"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert not path.exists()


def test_modes_owners_times(mount: Mount) -> None:
    path = mount.lab / "a"
    path.touch()
    path.chmod(0o640)
    os.chown(path, 12, 34)
    os.utime(path, ns=(1_111_111_111, 2_222_222_222))
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 12, 34)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_111_111_111, 2_222_222_222)


def test_a_setgid_directory_gives_its_group(mount: Mount) -> None:
    shared = mount.lab / "shared"
    shared.mkdir()
    os.chown(shared, 0, 77)
    shared.chmod(0o2775)
    (shared / "file").touch()
    (shared / "dir").mkdir()
    assert (shared / "file").stat().st_gid == 77
    assert (shared / "dir").stat().st_mode & stat.S_ISGID


def test_extended_attributes(mount: Mount) -> None:
    path = mount.lab / "a"
    path.touch()
    os.setxattr(path, "user.small", b"1")
    os.setxattr(path, "user.large", b"2" * 5000)
    assert sorted(os.listxattr(path)) == ["user.large", "user.small"]
    assert os.getxattr(path, "user.large") == b"2" * 5000
    os.removexattr(path, "user.large")
    assert os.listxattr(path) == ["user.small"]
    with pytest.raises(OSError, match="not permitted"):
        os.setxattr(path, "user.ramet.writes", b"")


def test_punched_holes_are_found_and_zero(mount: Mount) -> None:
    path = mount.lab / "a"
    path.write_bytes(b"d" * (64 * BLOCK))
    with path.open("r+b") as file:
        fallocate(file.fileno(), 3, 16 * BLOCK, 16 * BLOCK)
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 16 * BLOCK
        assert os.lseek(file.fileno(), 16 * BLOCK, os.SEEK_DATA) == 32 * BLOCK
        fallocate(file.fileno(), 0, 64 * BLOCK, BLOCK)
    data = path.read_bytes()
    assert data[16 * BLOCK : 32 * BLOCK] == bytes(16 * BLOCK)
    assert len(data) == 65 * BLOCK


def test_snapshots_are_reachable_hidden_and_read_only(mount: Mount) -> None:
    (mount.lab / "a").touch()
    assert ".snapshots" not in os.listdir(mount.lab)
    assert os.listdir(mount.lab / ".snapshots") == ["empty"]
    assert os.listdir(mount.lab / ".snapshots" / "empty") == []
    with pytest.raises(OSError, match="Read-only"):
        (mount.lab / ".snapshots" / "empty" / "b").touch()
    with pytest.raises(OSError, match="not permitted"):
        (mount.lab / "sub").mkdir() or os.rename(mount.lab / "sub", mount.lab / ".snapshots")


def test_mkfs_and_qemu_img_work_on_the_mount(mount: Mount, tmp_path: Path) -> None:
    image = mount.lab / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["e2fsck", "-fn", str(image)], check=True, capture_output=True)
    qcow2 = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2], check=True)
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, qcow2], check=True)


def test_a_second_owner_is_refused(mount: Mount) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "cli", "--store", str(mount.store), "serve"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert second.returncode == 11
    assert "owns" in second.stderr


def test_fio_verifies_what_it_wrote(mount: Mount, tmp_path: Path) -> None:
    command = [
        "fio", "--name=x", f"--filename={mount.lab / 'disk.img'}", "--rw=randrw", "--size=8m",
        "--bs=512-64k", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=1",
        "--fallocate=none", "--ioengine=psync", "--output-format=terse",
        f"--aux-path={tmp_path}",
    ]  # fmt: skip
    for direct in (0, 1):
        subprocess.run([*command, f"--direct={direct}"], check=True, capture_output=True)
