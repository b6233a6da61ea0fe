"""The disk is full in the middle of a job: it is undone, or stops with what it has."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Ramet
from small_disk import OTHERS, fill, small_disk

BASE_XML = Path(__file__).parents[1] / "guest" / "golden.xml"


@pytest.fixture(params=["ext4", "btrfs"])
def ramet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ramet]:
    """A store with a base VM on a disk that somebody else has filled."""
    with small_disk(request.param) as root:
        made = Ramet(root / "store")
        made.run("init", made.store)
        made.run("volume", "create", "lab")
        (tmp_path / "golden.raw").write_bytes(b"g" * 100_000)
        made.run("import", "-p", tmp_path / "golden.raw", "lab:/golden/golden.raw")
        made.run("vm", "add", "lab:/golden", "--xml", BASE_XML)
        fill(root)
        yield made
        (root / OTHERS).unlink()
        assert made.json("fsck", "--data")["clean"]


def give_back(ramet: Ramet, size: int) -> None:
    others = ramet.store.parent / OTHERS
    os.truncate(others, others.stat().st_size - size)


def names(ramet: Ramet) -> list[str]:
    return [row["name"] for row in ramet.json("ls", "lab:/")]


def test_a_batch_that_meets_a_full_disk_is_none(ramet: Ramet) -> None:
    source = "lab:/golden/golden.raw"
    failed = ramet.run("clone", source, "lab:/c-{n}", "--count", 100_000, code=15)
    assert "full" in failed.stderr
    told = ramet.json("job", "ls")[-1]
    assert (told["state"], told["items_done"]) == ("failed", 0)
    assert ramet.json("job", "show", told["job"])["failed_item"].startswith("lab:/c-")
    assert names(ramet) == ["golden"]


def test_vms_that_meet_a_full_disk_stop_with_what_there_is(ramet: Ramet) -> None:
    give_back(ramet, 12 << 20)
    words = ["vm", "clone", "lab:/golden", "lab:/web-{n:05d}", "--count", 20_000]
    failed = ramet.run(*words, "--on-error", "stop", code=3)
    assert "full" in failed.stderr
    told = ramet.json("job", "show", 1)
    assert (told["state"], told["items_failed"]) == ("failed", 1)
    made = told["items_done"]
    assert told["failed_item"] == f"web-{made + 1:05d}"
    assert names(ramet) == ["golden", *(f"web-{n:05d}" for n in range(1, made + 1))]
    assert len(ramet.json("vm", "ls")) == made + 1
    ramet.run(*words, "--start", 50_000, code=15)
    assert len(names(ramet)) == made + 1
