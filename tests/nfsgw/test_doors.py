"""The mount, NFS and the command change the same files; each shows at once what others did."""

import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import nfs3_client
import pyfuse3
import pytest
from doors_machine import Doors
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from loopback import own_address
from nfs3_client import FILE_SYNC, Failed3, Nfs3Client
from served import Served, serving

from engine import Store
from service import daemon
from service.client import Client

ANYBODY = ["127.0.0.0/8:root"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("doors")) as made:
        yield made


@pytest.fixture(scope="module")
def nfs(served: Served) -> Iterator[Nfs3Client]:
    address = own_address()
    served.ask("share_nfs_add", "lab", address, ANYBODY)
    client = Nfs3Client((address, 2049))
    yield client
    client.close()


@pytest.fixture(scope="module")
def top(nfs: Nfs3Client) -> bytes:
    return nfs.mount(b"/lab")


def test_three_doors_one_model(served: Served, nfs: Nfs3Client, top: bytes) -> None:
    Doors.mounted, Doors.nfs, Doors.top = served.lab, nfs, top
    Doors.commands = Client(served.store)
    budget = settings(max_examples=15, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(Doors, settings=budget)


def test_a_mapped_file_shows_what_nfs_wrote(served: Served, nfs: Nfs3Client, top: bytes) -> None:
    path = served.lab / "mapped"
    path.write_bytes(b"a" * 8192)
    handle = nfs.lookup(top, b"mapped")[0]
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as seen:
        assert seen[4096] == ord("a")
        for letter in b"bde":  # what the kernel has is a page, its attributes it does not ask for
            nfs.write(handle, 4096, bytes([letter]))
            assert seen[4096] == letter
        nfs.rename(top, b"mapped", top, b"renamed")  # which changes no page
        nfs.write(handle, 4096, b"f")
        assert seen[4096] == ord("f")
        seen[0] = ord("c")
        seen.flush()
        assert nfs.read(handle, 0, 1)[0] == b"c"


def test_a_listing_tells_the_kernel_of_its_entries(
    served: Served, nfs: Nfs3Client, top: bytes
) -> None:
    directory = nfs.mkdir(top, b"listed", mode=0o755).handle
    handles = [nfs.create(directory, b"%d" % n).handle for n in range(50)]
    assert len(os.listdir(served.lab / "listed")) == 50
    for n, handle in enumerate(handles):
        nfs.write(handle, 0, b"x" * n)
    sizes = [os.stat(served.lab / "listed" / str(n)).st_size for n in range(50)]
    assert sizes == list(range(50))


def test_a_snapshot_of_a_command_has_what_nfs_wrote(
    served: Served, nfs: Nfs3Client, top: bytes
) -> None:
    handle = nfs.create(top, b"early").handle
    nfs.write(handle, 0, b"early")
    served.ask("snapshot_create", "lab", "s")
    nfs.write(handle, 0, b"later")
    assert (served.lab / ".snapshots" / "s" / "early").read_bytes() == b"early"
    old = nfs.walk(top, ".snapshots/s/early")
    assert nfs.read(old, 0, 9)[0] == b"early"
    assert (served.lab / "early").read_bytes() == b"later"
    served.ask("snapshot_rm", "lab", "s", False)
    with pytest.raises(Failed3) as caught:
        nfs.read(old, 0, 9)
    assert caught.value.status == nfs3_client.STALE
    assert not (served.lab / ".snapshots" / "s").exists()


def test_a_restored_volume_is_the_old_one_by_all_doors(
    served: Served, nfs: Nfs3Client, top: bytes
) -> None:
    kept = nfs.create(top, b"kept").handle
    nfs.write(kept, 0, b"before", FILE_SYNC)
    served.ask("snapshot_create", "lab", "past")
    nfs.write(kept, 0, b"afters")
    (served.lab / "new").write_bytes(b"new")
    new = nfs.lookup(top, b"new")[0]
    assert (served.lab / "kept").read_bytes() == b"afters"
    served.ask("snapshot_restore", "lab", "past", False, False)
    assert (served.lab / "kept").read_bytes() == b"before"
    assert nfs.read(kept, 0, 9)[0] == b"before"
    assert not (served.lab / "new").exists()
    with pytest.raises(Failed3) as caught:
        nfs.read(new, 0, 9)
    assert caught.value.status == nfs3_client.STALE


def test_the_kernel_is_told_what_it_knows_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file it has never heard of it is told nothing; of one that it has looked at, that it has
    to look again."""
    told: list[int] = []
    real = pyfuse3.invalidate_inode

    def invalidate(number: int, attr_only: bool = False) -> None:
        told.append(number)
        real(number, attr_only=attr_only)

    monkeypatch.setattr(pyfuse3, "invalidate_inode", invalidate)
    path, root = tmp_path / "store", tmp_path / "mnt"
    Store.create(path)
    root.mkdir()
    found: list[list[int]] = []

    def work() -> None:
        client, address = Client(path), own_address()
        try:
            client.call("volume_create", "lab", 0, False)
            client.call("share_nfs_add", "lab", address, ANYBODY)
            nfs = Nfs3Client((address, 2049))
            file = nfs.create(nfs.mount(b"/lab"), b"file").handle
            number = nfs.getattr(file).fileid
            for size in (0, 5, 10):
                if size:  # from the second time on the kernel has looked
                    assert os.stat(root / "lab" / "file").st_size == size
                told.clear()
                for n in range(5):
                    nfs.write(file, size + n, b"x")
                found.append([each for each in told if each == number])
            nfs.close()
        finally:
            client.call("shutdown")

    worker = threading.Thread(target=work)
    daemon.serve(str(path), str(root), worker.start)
    worker.join()
    assert [len(each) for each in found] == [0, 1, 1]
