"""``ramet job``, and clones that are waited for or not, with a daemon and without."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Ramet

import service
from engine import ROOT_INO, Store, errors
from service.addresses import Context
from service.clones import CLONES_STEP, clone
from service.rpc import Client, Request, pack
from service.work import Work, queue, run

MANY = 100_000  # clones: some seconds of work


@pytest.fixture
def alone(tmp_path: Path) -> Ramet:
    """A store that no daemon serves, with a golden file."""
    made = Ramet(tmp_path / "store")
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    (tmp_path / "golden").write_bytes(b"g" * 10_000)
    made.run("import", tmp_path / "golden", "lab:/golden")
    return made


@pytest.fixture
def served(alone: Ramet, tmp_path: Path) -> Iterator[Ramet]:
    root = tmp_path / "mnt"
    root.mkdir()
    alone.run("mount", root)
    yield alone
    alone.run("umount")
    assert not os.path.ismount(root)


def names(ramet: Ramet, directory: str = "lab:/") -> list[str]:
    return [row["name"] for row in ramet.json("ls", directory)]


def ask(ramet: Ramet, request: Request) -> Any:
    """The daemon itself, at once: a command takes half a second to start."""
    client = Client.connect(ramet.store)
    assert client is not None
    return client.ask(request)


def clones(ramet: Ramet, target: str, count: int, *after: int) -> int:
    """Started, and not waited for."""
    arguments = ["lab:/golden", target, count, 1, False]
    number: int = ask(ramet, Request("clone", arguments, wait=False, after=list(after)))["job"]
    return number


def volume_clone(ramet: Ramet, *after: int) -> int:
    arguments = ["lab", "copy", 1, 1]
    number: int = ask(ramet, Request("volume_clone", arguments, wait=False, after=list(after)))[
        "job"
    ]
    return number


@pytest.mark.parametrize("place", ["alone", "served"])
def test_every_clone_is_a_job(place: str, request: pytest.FixtureRequest) -> None:
    ramet: Ramet = request.getfixturevalue(place)
    assert ramet.json("job", "ls") == []
    assert ramet.json("clone", "lab:/golden", "lab:/w-{n}", "--count", 3)["job"] == 1
    assert ramet.json("volume", "clone", "lab", "copy")["job"] == 2
    made = ramet.json("volume", "clone", "lab", "class-{n:02d}", "--count", 2, "--start", 5)
    assert [each["name"] for each in made["volumes"]] == ["class-05", "class-06"]
    failed = ramet.run("clone", "lab:/golden", "lab:/w-{n}", "--count", 3, "--start", 2, code=13)
    assert failed.stderr == "ramet: 'w-2' exists\n"
    ramet.run("clone", "lab:/golden", "lab:/v-{n}", "--count", 3, "--after", 3)

    first = ramet.json("job", "show", 1)
    assert (first["state"], first["percent"], first["bytes_copied"]) == ("completed", 100, 0)
    assert (first["items_done"], first["items_total"]) == (3, 3)
    assert (first["blocks_done"], first["blocks_total"]) == (9, 9)
    assert first["created"] <= first["started"] <= first["ended"]
    assert ramet.json("job", "show", 2)["command"] == "volume clone"
    fourth = ramet.json("job", "show", 4)
    assert (fourth["state"], fourth["items_done"]) == ("failed", 0)
    assert (fourth["failed_item"], fourth["error"]) == ("lab:/w-2", "'w-2' exists")
    assert fourth["error_kind"] == "AlreadyExists"
    assert [row["job"] for row in ramet.json("job", "ls")] == [1, 2, 3, 4, 5]
    assert [row["job"] for row in ramet.json("job", "ls", "--state", "failed")] == [4]
    assert ramet.json("job", "wait", 1) == first
    assert "exists" in ramet.run("job", "wait", 4, code=13).stderr

    ramet.run("job", "show", 99, code=12)
    ramet.run("job", "wait", 99, code=12)
    ramet.run("job", "cancel", 99, code=12)
    ramet.run("job", "clear", 99, code=12)
    ramet.run("clone", "lab:/golden", "lab:/x", "--after", 99, code=12)
    assert "has ended" in ramet.run("job", "cancel", 1, code=1).stderr
    failed = ramet.run("clone", "lab:/golden", "lab:/x", "--after", 1, "--after", 4, code=1)
    assert "job 4, which it waits for, failed" in failed.stderr
    assert "x" not in names(ramet)

    assert ramet.json("job", "clear", 2) == {"cleared": [2]}
    assert ramet.json("job", "clear") == {"cleared": [1, 3, 4, 5, 6]}
    assert ramet.json("job", "ls") == []
    assert ramet.json("clone", "lab:/golden", "lab:/x")["job"] == 7


def test_one_that_fails_in_the_middle_of_volumes_leaves_none(alone: Ramet) -> None:
    alone.run("volume", "create", "class-3")
    alone.run("volume", "clone", "lab", "class-{n}", "--count", 5, code=13)
    assert [row["name"] for row in alone.json("volume", "ls")] == ["class-3", "lab"]
    assert alone.json("fsck", "--data")["clean"]


def test_without_a_daemon_nobody_would_do_the_work(alone: Ramet) -> None:
    failed = alone.run("clone", "lab:/golden", "lab:/x", "--no-wait", code=1)
    assert "needs a daemon" in failed.stderr
    assert alone.json("job", "ls") == []


def test_a_job_can_be_left_to_the_daemon(served: Ramet) -> None:
    told = served.json("clone", "lab:/golden", "lab:/c-{n}", "--count", 10, "--no-wait")
    assert served.json("job", "wait", told["job"])["items_done"] == 10
    assert len(names(served)) == 11


def test_a_command_that_waits_tells_how_it_goes(served: Ramet) -> None:
    out = served.run("clone", "lab:/golden", "lab:/c-{n}", "--count", MANY).stdout
    *progress, last = [json.loads(line) for line in out.splitlines()]
    assert len(last["clones"]) == MANY
    assert progress
    done = [told["items_done"] for told in progress]
    assert done == sorted(done)
    assert {told["state"] for told in progress} == {"running"}
    assert {told["job"] for told in progress} == {last["job"]}
    assert all(told["percent"] < 100 for told in progress)


def test_jobs_wait_for_jobs(served: Ramet) -> None:
    """A volume is cloned when the clones into it are complete."""
    first = clones(served, "lab:/c-{n}", MANY)
    then = volume_clone(served, first)
    told = ask(served, Request("job_show", [then]))
    assert (told["state"], told["after"], told["waits_for"]) == ("queued", [first], [first])
    with pytest.raises(errors.Busy, match="cancel"):
        ask(served, Request("job_clear", [then]))
    assert served.json("job", "wait", then)["state"] == "completed"
    assert served.json("job", "show", first)["state"] == "completed"
    copy = served.json("volume", "ls")[0]
    assert (copy["name"], copy["files"]) == ("copy", MANY + 2)


def test_cancelled_jobs_leave_nothing_and_fail_those_that_wait(served: Ramet) -> None:
    first = clones(served, "lab:/c-{n}", MANY)
    then = volume_clone(served, first)
    third = clones(served, "lab:/d", 1, first)
    assert ask(served, Request("job_cancel", [third]))["state"] == "cancelled"
    assert served.json("job", "cancel", first)["state"] == "cancelled"
    failed = served.run("job", "wait", then, code=1)
    assert f"job {first}, which it waits for, was cancelled" in failed.stderr
    assert names(served) == ["golden"]
    assert [row["name"] for row in served.json("volume", "ls")] == ["lab"]
    assert served.json("job", "show", first)["items_done"] == 0
    assert served.json("fsck", "--data")["clean"]


def test_jobs_run_side_by_side(served: Ramet) -> None:
    first = clones(served, "lab:/c-{n}", MANY)
    second = clones(served, "lab:/d-{n}", 300)
    assert ask(served, Request("job_wait", [second]))["state"] == "completed"
    assert ask(served, Request("job_show", [first]))["state"] == "running"
    assert ask(served, Request("job_cancel", [first]))["state"] == "cancelled"
    assert len(names(served)) == 301


def test_a_client_that_goes_away_leaves_its_job_going(served: Ramet) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(served.store / "run" / "ramet.sock"))
        arguments = ["lab:/golden", "lab:/c-{n}", MANY, 1, False]
        door.sendall(pack(Request("clone", arguments, progress=True)))
        assert b"running" in door.recv(10_000)
    assert served.json("job", "wait", 1)["items_done"] == MANY


def test_python_programs_have_the_same(served: Ramet) -> None:
    client, seen = service.Client(served.store), []
    first = client.clone("lab:/golden", "lab:/c-{n}", count=MANY)
    second = client.clone_volume("lab", "copy-{n}", count=2, after=[first])
    assert second.show()["after"] == [first.id]
    assert second.wait(seen.append)["state"] == "completed"
    assert {told["job"] for told in seen} == {second.id}
    assert [row["name"] for row in client.call("volume_ls")] == ["copy-1", "copy-2", "lab"]
    with pytest.raises(errors.AlreadyExists, match=r"job \d+ has failed: .*exists"):
        client.clone("lab:/golden", "lab:/c-1").wait()
    third = client.clone("lab:/golden", "lab:/d-{n}", count=MANY)
    with pytest.raises(errors.Busy):
        third.clear()
    assert third.cancel()["state"] == "cancelled"
    with pytest.raises(errors.Cancelled):
        client.job(third.id).wait()
    third.clear()
    with pytest.raises(errors.NotFound):
        client.job(third.id)
    assert [row["job"] for row in client.jobs("completed")] == [first.id, second.id]
    assert client.clear_jobs() == [1, 2, 3]
    with pytest.raises(errors.NotFound, match="ramet mount"):
        service.Client(served.store.parent).jobs()


def test_a_daemon_that_is_stopped_undoes_its_jobs(served: Ramet, tmp_path: Path) -> None:
    first = clones(served, "lab:/c-{n}", MANY)
    then = volume_clone(served, first)
    served.run("umount")
    told = served.json("job", "show", first)
    assert (told["state"], told["items_done"]) == ("failed", 0)
    assert "stopping" in told["error"]
    told = served.json("job", "show", then)
    assert (told["state"], "start it again" in told["error"]) == ("failed", True)
    assert names(served) == ["golden"]
    served.run("mount", tmp_path / "mnt")
    assert [row["state"] for row in served.json("job", "ls")] == ["failed", "failed"]


def test_a_job_here_that_is_killed_is_undone_by_the_next_command(alone: Ramet) -> None:
    """The process is gone between a commit and the next: its own changes are in the store."""
    store = Store.open(alone.store)
    context = Context(store)
    arguments = ("lab:/golden", "lab:/c-{n}", 2000, 1, False)
    work = Work(queue(context, clone, arguments, ()))
    steps = run(context, work, clone(context, work, *arguments))
    lab = store.volume("lab")
    while len(lab.readdir(ROOT_INO, limit=5000)) <= 2 * CLONES_STEP:
        next(steps)
    store.commit()
    assert len(lab.readdir(ROOT_INO, limit=5000)) == 1 + 2 * CLONES_STEP
    store.abandon()
    assert names(alone) == ["golden"]
    told = alone.json("job", "show", 1)
    assert (told["state"], told["items_done"], told["left"]) == ("failed", 0, None)
    assert "its process ended" in told["error"]
    assert alone.json("fsck", "--data")["clean"]
