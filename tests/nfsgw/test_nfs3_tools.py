"""Other people's clients: libnfs' tools and QEMU's nfs driver, against the daemon."""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import own_address
from served import Served, serving

MIB = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("tools")) as made:
        yield made


@pytest.fixture(scope="module")
def url(served: Served) -> Iterator[str]:
    """The export's; root is root."""
    rule = "--client", "127.0.0.0/8:root"
    yield served.json("share", "nfs", "add", "lab", "--listen", own_address(), *rule)["url"]
    served.run("share", "nfs", "rm", "lab")


@pytest.fixture(scope="module")
def data() -> bytes:
    """Data, a hole, data, zeroes, an odd end."""
    chance = random.Random(7)
    return b"".join(
        (chance.randbytes(3 * MIB), bytes(2 * MIB), chance.randbytes(MIB), bytes(4096), b"the end")
    )


def said(*words: object) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_libnfs_copies_in_lists_and_copies_out(
    served: Served, url: str, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(data)
    (served.lab / "dir").mkdir()
    said("nfs-cp", tmp_path / "in", f"{url}/dir/copy")
    assert (served.lab / "dir/copy").read_bytes() == data
    (row,) = [line.split() for line in said("nfs-ls", f"{url}/dir").splitlines()]
    assert (row[4], row[-1]) == (str(len(data)), "copy")
    assert "dir" in said("nfs-ls", url)
    said("nfs-cp", f"{url}/dir/copy", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    (served.lab / "text").write_text("words\n")
    assert said("nfs-cat", f"{url}/text") == "words\n"


def test_what_one_door_writes_the_other_reads(served: Served, url: str) -> None:
    fd = os.open(served.lab / "both", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for number in range(10):
            os.pwrite(fd, b"mount %d " % number, 0)
            assert said("nfs-cat", f"{url}/both").startswith(f"mount {number}")
            said("qemu-io", "-f", "raw", "-c", f"write -P {0x30 + number} 0 512", f"{url}/both")
            assert os.pread(fd, 9, 0) == b"%d" % number * 9
            assert os.fstat(fd).st_size == 512
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_qemu_makes_converts_and_compares_images(
    served: Served, url: str, data: bytes, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(data + bytes(-len(data) % 512))
    target = f"{url}/image.{kind}"
    said("qemu-img", "create", "-f", kind, target, "64M")
    assert "virtual size: 64 MiB" in said("qemu-img", "info", target)
    said("qemu-img", "convert", "-n", "-f", "raw", "-O", kind, source, target)
    said("qemu-img", "compare", "-f", "raw", "-F", kind, source, target)
    said("qemu-img", "convert", "-f", kind, "-O", "raw", target, tmp_path / "back")
    assert (tmp_path / "back").read_bytes().rstrip(b"\0") == data
    said("qemu-img", "compare", "-f", kind, "-F", kind, target, served.lab / f"image.{kind}")
    said("qemu-img", "bench", "-f", kind, "-w", "-c", "200", "-d", "16", target)
    said("qemu-img", "bench", "-f", kind, "-c", "200", "-d", "16", "-s", "65536", target)
    if kind == "qcow2":
        assert "No errors" in said("qemu-img", "check", target)


def test_zeroes_take_no_space(served: Served, url: str, tmp_path: Path) -> None:
    (tmp_path / "zeroes").write_bytes(bytes(8 * MIB))
    said("nfs-cp", tmp_path / "zeroes", f"{url}/zeroes")
    found = (served.lab / "zeroes").stat()
    assert found.st_size == 8 * MIB
    assert os.getxattr(served.lab / "zeroes", "user.ramet.referenced_bytes") == b"0"


def test_a_snapshot_is_read_and_not_written(served: Served, url: str) -> None:
    (served.lab / "old").write_text("old\n")
    served.run("snapshot", "create", "lab", "past")
    (served.lab / "old").write_text("new\n")
    address = url.split("/")[2]
    row = served.json("share", "nfs", "add", "lab@past", "--listen", address)
    assert said("nfs-cat", f"{row['url']}/old") == "old\n"
    assert said("nfs-cat", f"{url}/.snapshots/past/old") == "old\n"
    done = subprocess.run(
        ["qemu-img", "create", "-f", "raw", f"{row['url']}/disk", "1M"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode
    assert "ROFS" in done.stderr
    served.run("share", "nfs", "rm", "lab@past")
