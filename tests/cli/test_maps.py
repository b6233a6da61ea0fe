"""``ramet volume map`` on a store that nobody serves, and while it changes."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Ramet
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.output import Stream
from engine import ROOT_INO, Store, errors
from service import extents, volume_maps
from service.addresses import Context
from service.steps import run_here

BLOCK = 4096


def caller(store: Store) -> extents.Call:
    """Operations on a store of this process."""
    context = Context(store)

    def call(operation: Any, *arguments: Any) -> Any:
        answer = operation(context, *arguments)
        if hasattr(answer, "send"):
            answer = run_here(answer, store.commit, lambda: None)
        return answer

    return call


@pytest.fixture
def ramet(tmp_path: Path) -> Ramet:
    made = Ramet(tmp_path / "store")
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    (tmp_path / "disk.raw").write_bytes(os.urandom(4 * BLOCK) + bytes(4 * BLOCK) + b"end")
    made.run("import", "-p", tmp_path / "disk.raw", "lab:/vms/disk.raw")
    made.run("clone", "lab:/vms/disk.raw", "lab:/copy.raw")
    return made


def test_a_file_is_mapped_with_its_holes(ramet: Ramet, tmp_path: Path) -> None:
    told = ramet.json("volume", "map", "lab:/vms/disk.raw")
    assert [(e["offset_bytes"], e["length_bytes"], e["hole"]) for e in told["extents"]] == [
        (0, 4 * BLOCK, False), (4 * BLOCK, 4 * BLOCK, True), (8 * BLOCK, BLOCK, False),
    ]  # fmt: skip
    assert (told["extent_count"], told["mapped_bytes"], told["shared_bytes"]) == (2, 20480, 20480)
    whole = b""
    for each in told["extents"]:
        if each["hole"]:
            whole += bytes(each["length_bytes"])
            continue
        slab = Path(told["slab_files"] % each["slab"]).read_bytes()
        whole += slab[each["slot"] * BLOCK :][: each["length_bytes"]]
    assert whole[: told["size_bytes"]] == (tmp_path / "disk.raw").read_bytes()
    assert told["unique_bytes"] is None  # nobody has counted
    assert ramet.json("volume", "map", "lab:/copy.raw", "--exact")["unique_bytes"] == 0


def test_a_volume_lists_its_files_and_adds_them_up(ramet: Ramet) -> None:
    ramet.run("snapshot", "create", "lab", "monday")
    ramet.run("rm", "lab:/copy.raw")
    for name, files in {
        "lab": {"lab:/vms/disk.raw"},
        "lab@monday": {"lab@monday:/vms/disk.raw", "lab@monday:/copy.raw"},
    }.items():
        told = ramet.json("volume", "map", name)
        assert {row["file"] for row in told["files"]} == files
        assert all("extents" not in row for row in told["files"])
        assert told["totals"] == {
            "files": len(files), "size_bytes": len(files) * (8 * BLOCK + 3),
            "extent_count": 2 * len(files), "mapped_bytes": 20480 * len(files),
            "shared_bytes": 20480 * len(files),
        }  # fmt: skip
    every = ramet.json("volume", "map", "lab", "--extents")
    assert len(every["files"][0]["extents"]) == 3


def test_bad_names_are_refused(ramet: Ramet) -> None:
    ramet.run("volume", "map", "nothing", code=12)
    ramet.run("volume", "map", "lab:/nothing", code=12)
    ramet.run("volume", "map", "lab:/vms", code=1)
    ramet.run("volume", "map", "lab:/copy.raw", "--hosts", code=2)
    ramet.run("vm", "map", "lab:/vms", code=12)


def test_people_get_sums_and_all_extents_when_they_ask(ramet: Ramet) -> None:
    def told(*words: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", "--store", ramet.store, *words],
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "RAMET_CONFIG": "/dev/null"},
            check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip

    assert told("volume", "map", "lab")[-1].split()[-2:] == ["2", "files"]
    lines = told("volume", "map", "lab:/copy.raw", "--extents")
    assert lines[-2].split() == ["16384", "16384", "-", "hole"]
    assert lines[-1].split()[-1] == "shared"
    assert not any("hole" in line for line in told("volume", "map", "lab:/copy.raw"))


STEPS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 25)), max_size=8)


@given(before=STEPS, cut=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_runs_are_whole_whatever_the_pages(
    before: list[tuple[int, int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("maps") / "s"
    Store.create(path, fanout=4, slab_slots=512)  # a small one: all examples are kept to the end
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"f", 0o644, 0, 0).ino
        for at, count in before:
            lab.write(ino, at * BLOCK, os.urandom(count * BLOCK))
        call = caller(store)
        whole = list(extents.extents(call, "lab", ino))

        def small(operation: Any, name: str, ino: int, block: int) -> Any:
            page = call(operation, name, ino, block)
            if len(page["extents"]) > cut:
                page["extents"] = page["extents"][:cut]
                last = page["extents"][-1]
                page["next_block"] = (last["offset_bytes"] + last["length_bytes"]) // BLOCK
            return page

        assert list(extents.extents(small, "lab", ino)) == whole
        covered = [(each["offset_bytes"], each["length_bytes"]) for each in whole]
        assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(covered))
        assert sum(n for _, n in covered) == lab.inode(ino).size
        assert all(a["hole"] != b["hole"] or not a["hole"] for a, b in itertools.pairwise(whole))


def test_a_large_volume_takes_small_steps(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        lab = store.create_volume("lab")
        for n in range(300):
            ino = lab.create(ROOT_INO, b"%d" % n, 0o644, 0, 0).ino
            lab.write(ino, 0, os.urandom(BLOCK))
        call = caller(store)
        page = call(volume_maps.volume_map_page, "lab", 0)
        assert len(page["files"]) <= volume_maps.FILES_STEP
        totals: dict[str, Any] = {}
        files = volume_maps.files(call, "lab", totals)
        first = next(files)
        lab.unlink(ROOT_INO, b"250")  # what goes meanwhile is left out
        rows = [first, *files]
        assert len({row["file"] for row in rows}) == len(rows) == totals["files"] == 299


def test_a_restored_volume_ends_its_map(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"f", 0o644, 0, 0).ino
        lab.write(ino, 0, os.urandom(BLOCK))
        store.create_snapshot(lab, "s")
        steps = volume_maps.file_map(Context(store), "lab:/f")
        next(steps)
        store.restore(lab, "s", force=True)
        with pytest.raises(errors.Stale):
            next(steps)
        assert not lab.held


def test_a_stream_is_json_and_is_not_held() -> None:
    for rows in ([], [1], [{"a": 1}, {"b": [2]}]):
        pieces = json.JSONEncoder().iterencode({"rows": Stream(iter(rows)), "end": True})
        assert json.loads("".join(pieces)) == {"rows": rows, "end": True}
    endless = json.JSONEncoder().iterencode(Stream(itertools.count()))
    assert "".join(itertools.islice(endless, 4)) == "[0, 1, 2, 3"
