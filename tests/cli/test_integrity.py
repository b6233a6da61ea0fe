"""scrub and fsck as an operator uses them, beside a mount and without one."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from command import Ramet
from damage import Surgery, fingerprint
from mounted import Mount, serve

from engine import Store
from engine.superblock import BLOCK_BYTES
from hypervisor.machines import MARK, Machine


@pytest.fixture
def cli(tmp_path: Path) -> Ramet:
    made = Ramet(tmp_path / "store")
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    (tmp_path / "image").write_bytes(os.urandom(64 * BLOCK_BYTES))
    made.run("import", "-p", tmp_path / "image", "lab:/web/disk.raw")
    return made


def damage(store: Path, *blocks: int) -> None:
    """The first file of a new store lies in the slots from 0 on."""
    with (store / "slabs" / "00000000.slab").open("r+b") as slab:
        for block in blocks:
            slab.seek(block * BLOCK_BYTES + 77)
            slab.write(b"damage")


def test_scrub_without_a_daemon_names_files_snapshots_and_vms(cli: Ramet) -> None:
    with Store.open(cli.store) as store:
        lab = store.volume("lab")
        mark = msgspec.msgpack.encode(Machine("web-001", "some-uuid"))
        lab.set_mark(lab.resolve("/web").ino, MARK, mark)
        store.create_snapshot(lab, "monday")
    assert cli.json("scrub")["clean"]
    damage(cli.store, 3, 4, 9)
    told = json.loads(cli.run("scrub", code=14).stdout)
    assert (told["bad_blocks"], told["checked_bytes"]) == (3, 64 * BLOCK_BYTES)
    assert told["files"] == [
        {"file": "lab:/web/disk.raw", "vm": "web-001", "bad_blocks": 3, "blocks": "3-4, 9"},
        {"file": "lab@monday:/web/disk.raw", "vm": "web-001", "bad_blocks": 3, "blocks": "3-4, 9"},
    ]


def test_a_bad_block_is_eio_on_the_mount_and_status_names_it(cli: Ramet, tmp_path: Path) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    bad = {5, 6, 7, 8}
    damage(cli.store, 5)
    with (cli.store / "slabs" / "00000000.slab").open("r+b") as slab:
        slab.seek(20 * BLOCK_BYTES)
        other = slab.read(BLOCK_BYTES)
        slab.seek(6 * BLOCK_BYTES)
        slab.write(bytes(BLOCK_BYTES) + other + os.urandom(BLOCK_BYTES))
    mount: Mount = serve(cli.store, root)
    try:
        file = mount.lab / "web" / "disk.raw"
        data = (tmp_path / "image").read_bytes()
        fd = os.open(file, os.O_RDWR | os.O_DIRECT)
        try:
            for block in range(64):
                if block in bad:
                    with pytest.raises(OSError) as caught:
                        os.pread(fd, BLOCK_BYTES, block * BLOCK_BYTES)
                    assert caught.value.errno == errno.EIO
                else:
                    got = os.pread(fd, BLOCK_BYTES, block * BLOCK_BYTES)
                    assert got == data[block * BLOCK_BYTES :][:BLOCK_BYTES]
        finally:
            os.close(fd)
        status = cli.json("status")
        assert status["corrupt_reads"] >= len(bad)
        assert status["corrupt_files"] == ["lab:/web/disk.raw"]
        cli.run("scrub", "--rate", 500, code=14)
        assert cli.json("status")["last_scrub"]["bad_files"] == 1
        with file.open("r+b") as again:
            again.seek(5 * BLOCK_BYTES)
            again.write(data[5 * BLOCK_BYTES : 9 * BLOCK_BYTES])
        cli.run("scrub")
        assert file.read_bytes() == data
    finally:
        mount.stop()


def test_scrub_repair_heals_beside_a_mount_and_says_what_it_could_not(
    cli: Ramet, tmp_path: Path
) -> None:
    root, good = tmp_path / "mnt", tmp_path / "image"
    root.mkdir()
    cli.run("clone", "lab:/web/disk.raw", "lab:/twin")
    damage(cli.store, 5, 6)
    mount = serve(cli.store, root)
    try:
        short = tmp_path / "short"
        short.write_bytes(good.read_bytes()[: 6 * BLOCK_BYTES])
        told = json.loads(
            cli.run("scrub", "--repair", "lab:/web/disk.raw", "--from", short, code=3).stdout
        )
        assert (told["healed"], [each["block"] for each in told["not_healed"]]) == (1, [6])
        told = cli.json(
            "scrub", "--repair", mount.lab / "web" / "disk.raw", "--from", good, "--everywhere"
        )
        assert (told["healed"], told["also_healed"]) == (1, ["lab:/twin"])
        assert (mount.lab / "web" / "disk.raw").read_bytes() == good.read_bytes()
        cli.run("scrub", "--repair", "lab:/twin", "--from", good)
        assert (mount.lab / "twin").read_bytes() == good.read_bytes()
        assert cli.json("scrub")["clean"]
        cli.run("scrub", "--repair", "lab:/twin", code=2)
    finally:
        mount.stop()


def test_a_daemon_that_is_told_to_stop_does_not_wait_for_its_scrub(
    cli: Ramet, tmp_path: Path
) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    mount = serve(cli.store, root)
    with ThreadPoolExecutor() as pool:
        scrub = pool.submit(cli.run, "scrub", "--rate", 0.001, code=1)  # four minutes
        while cli.json("status")["scrub"] is None:
            assert not scrub.done()
        assert "a scrub runs already" in cli.run("scrub", code=1).stderr
        mount.stop()
        assert "went away" in scrub.result().stderr
    assert cli.json("fsck", "--data")["clean"]


def test_fsck_names_its_checks_and_repairs_only_what_nobody_serves(
    cli: Ramet, tmp_path: Path
) -> None:
    with Surgery(cli.store) as surgery:
        surgery.set_volume("lab", logical_bytes=7)
    before = fingerprint(cli.store)
    told = json.loads(cli.run("fsck", code=14).stdout)
    assert [f["check"] for f in told["findings"]] == ["F7"]
    assert told["findings"][0].keys() == {"check", "where", "problem"}
    assert fingerprint(cli.store) == before
    root = tmp_path / "mnt"
    root.mkdir()
    mount = serve(cli.store, root)
    try:
        cli.run("fsck", "--repair", code=11)
        cli.run("fsck", code=14)
    finally:
        mount.stop()
    assert [r["check"] for r in cli.json("fsck", "--repair")["repaired"]] == ["F7"]
    assert cli.json("fsck", "--repair")["repaired"] == []
    assert cli.json("fsck", "--data")["clean"]


def test_damage_that_cannot_be_opened_is_exit_code_14(cli: Ramet) -> None:
    with Surgery(cli.store) as surgery:
        surgery.put("super", b"superblock", b"noise")
    for words in (("fsck",), ("fsck", "--repair"), ("scrub",), ("df",)):
        assert "superblock" in cli.run(*words, code=14).stderr


def test_known_content_dedups_again_after_the_index_is_rebuilt(cli: Ramet, tmp_path: Path) -> None:
    (cli.store / "index" / "fingerprints").unlink()
    assert cli.json("fsck", "--rebuild-index")["entries"] == 64
    before = cli.json("df")["physical_bytes"]
    cli.run("import", tmp_path / "image", "lab:/again")
    assert cli.json("df")["physical_bytes"] == before
