"""``ramet clone --range``: block ranges into a LUN, by the command, the daemon and the mount."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Ramet

BLOCK = 4096


@pytest.fixture(params=["store", "daemon"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ramet]:
    """A store with a golden file and a preallocated LUN in another volume."""
    made = Ramet(tmp_path / "store")
    made.run("init", made.store)
    for name in ("lab", "san"):
        made.run("volume", "create", name)
    (tmp_path / "golden").write_bytes(golden())
    (tmp_path / "golden").chmod(0o600)
    (tmp_path / "lun").write_bytes(bytes(64 * BLOCK))
    made.run("import", tmp_path / "golden", "lab:/golden")
    made.run("import", tmp_path / "lun", "san:/lun")
    if request.param == "daemon":
        (tmp_path / "mnt").mkdir()
        made.run("mount", tmp_path / "mnt")
    yield made
    if request.param == "daemon":
        made.run("umount")
    assert made.json("fsck", "--data")["clean"]


def golden() -> bytes:
    return b"".join(n.to_bytes(4, "big") * (BLOCK // 4) for n in range(1, 41))


def content(lab: Ramet, address: str, tmp_path: Path) -> bytes:
    """As the mount shows it, where there is one; else exported."""
    volume, _, path = address.partition(":/")
    on_mount = tmp_path / "mnt" / volume / path
    if os.path.ismount(tmp_path / "mnt"):
        return on_mount.read_bytes()
    out = tmp_path / "out"
    out.unlink(missing_ok=True)
    lab.run("export", address, out)
    return out.read_bytes()


def test_ranges_go_into_a_lun_of_another_volume(lab: Ramet, tmp_path: Path) -> None:
    assert content(lab, "san:/lun", tmp_path) == bytes(64 * BLOCK)  # and the kernel keeps it
    before = lab.json("df")["physical_bytes"]
    made = lab.json("clone", "lab:/golden", "san:/lun", "--range", "3:0:5", "--range", "0:60:4")
    expected = bytearray(64 * BLOCK)
    expected[: 5 * BLOCK] = golden()[3 * BLOCK : 8 * BLOCK]
    expected[60 * BLOCK :] = golden()[: 4 * BLOCK]
    assert content(lab, "san:/lun", tmp_path) == expected
    told = {key: made[key] for key in ("ranges", "blocks", "size_bytes", "bytes_copied")}
    assert told == {"ranges": 2, "blocks": 9, "size_bytes": 64 * BLOCK, "bytes_copied": 0}
    assert lab.json("df")["physical_bytes"] == before
    job = lab.json("job", "show", made["job"])
    assert (job["state"], job["blocks_done"], job["blocks_total"]) == ("completed", 9, 9)


def test_within_a_file_ranges_may_overlap(lab: Ramet, tmp_path: Path) -> None:
    lab.run("clone", "lab:/golden", "lab:/golden", "--range", "0:1:39", "--range", "39:0:1")
    assert content(lab, "lab:/golden", tmp_path) == golden()[-BLOCK:] + golden()[:-BLOCK]


def test_a_target_grows_only_when_asked(lab: Ramet, tmp_path: Path) -> None:
    words = ("clone", "lab:/golden", "san:/lun", "--range", "0:0:2", "--range", "0:63:2")
    assert "0:63:2 is past the target's end" in lab.run(*words, code=1).stderr
    assert content(lab, "san:/lun", tmp_path) == bytes(64 * BLOCK)
    assert lab.json(*words, "--extend")["size_bytes"] == 65 * BLOCK
    new = ("clone", "lab:/golden", "san:/new", "--range", "10:2:3")
    assert "--extend makes it" in lab.run(*new, code=12).stderr
    assert lab.run("clone", "lab:/golden", "san:/new", "--range", "39:0:2", "--extend", code=1)
    lab.run("ls", "san:/new", code=12)
    lab.run(*new, "--extend")
    expected = bytes(2 * BLOCK) + golden()[10 * BLOCK : 13 * BLOCK]
    assert content(lab, "san:/new", tmp_path) == expected
    lab.run("export", "san:/new", tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600  # as the source


def test_a_quota_that_is_met_half_way_changes_nothing(lab: Ramet, tmp_path: Path) -> None:
    lab.run("volume", "quota", "san", str(10 * BLOCK))
    failed = lab.run("clone", "lab:/golden", "san:/lun", "--range", "0:0:8", "--range", "0:20:8",
                     code=None)  # fmt: skip
    assert failed.returncode
    assert "quota" in failed.stderr
    assert content(lab, "san:/lun", tmp_path) == bytes(64 * BLOCK)


@pytest.mark.parametrize("wrong", ["1:2", "a:0:1", "-1:0:1", "0:0:1.5", "0:0:1:1", "0x1:0:1"])
def test_a_range_is_three_plain_numbers(wrong: str, tmp_path: Path) -> None:
    ramet = Ramet(tmp_path / "store")
    assert "SRCBLK:DSTBLK:COUNT" in ramet.run("clone", "a:/a", "a:/b", "--range", wrong,
                                              code=2).stderr  # fmt: skip


@pytest.mark.parametrize("words", [("--range", "0:0:1", "--replace"), ("--extend",), ("--force",)])
def test_options_that_do_not_go_together_are_refused(words: tuple[str], tmp_path: Path) -> None:
    Ramet(tmp_path / "store").run("clone", "a:/a", "a:/b", *words, code=2)
