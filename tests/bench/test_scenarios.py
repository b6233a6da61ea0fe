"""Scenarios of the data path with real peers: every sample is there, in the state it names."""

import os
import subprocess
from pathlib import Path

import pytest

from bench.budgets import judged
from bench.harness.peer import Peer
from bench.harness.results import Results
from bench.harness.runner import Plan, run
from bench.harness.scenario import Scenario
from bench.peers.full_copy import FullCopy
from bench.peers.qcow2 import Qcow2
from bench.peers.ramet import Ramet, RametCp, RametEngine
from bench.scenarios.beside import Beside
from bench.scenarios.cold import Cold, drop
from bench.scenarios.command import Command
from bench.scenarios.duplicate import Duplicate
from bench.scenarios.mark import Mark
from bench.scenarios.memory import Memory
from bench.scenarios.metadata import Metadata
from bench.scenarios.nfs import Nfs


def ran(scenario: type[Scenario], folder: Path, *peers: type[Peer]) -> Results:
    found = run(Plan(peers, [scenario], "tiny", folder))
    assert not list(folder.iterdir())
    return found


def samples(found: Results, peer: str) -> list[int]:
    """How many at each place of each chart."""
    return [len(point.samples) for chart in found.scenarios[0].charts
            for line in chart.lines if line.peer == peer for point in line.points]  # fmt: skip


@pytest.mark.parametrize("scenario", [Beside, Cold, Duplicate])
def test_each_place_has_its_sample(scenario: type[Scenario], tmp_path: Path) -> None:
    found = ran(scenario, tmp_path, Ramet, FullCopy)
    assert not found.left_out
    assert samples(found, "ramet") == samples(found, "copy") == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("scenario", "expected"), [(Metadata, [1, 1]), (Memory, [1, 1]), (Mark, [2, 2, 2, 2])]
)
def test_ramet_is_asked_about_itself(
    scenario: type[Scenario], expected: list[int], tmp_path: Path
) -> None:
    found = ran(scenario, tmp_path, RametEngine, FullCopy)
    assert not found.left_out
    assert samples(found, "ramet-engine") == expected
    assert not samples(found, "copy")
    told = [each for each in judged(found) if each.met is not None]
    assert len(told) == {"metadata": 2, "memory": 1, "mark": 2}[scenario.name]


def test_commands_on_an_image_and_on_a_datastore(tmp_path: Path) -> None:
    found = ran(Command, tmp_path, Ramet, RametCp, FullCopy, Qcow2)
    assert not found.left_out
    assert samples(found, "ramet") == samples(found, "copy") == [2, 2]
    assert samples(found, "ramet-cp") == samples(found, "qcow2") == [2]


def test_nfs_before_and_after_a_clone(tmp_path: Path) -> None:
    found = ran(Nfs, tmp_path, Ramet)
    assert not found.left_out
    assert samples(found, "ramet") == [1] * 12


def test_who_has_no_nfs_says_why(tmp_path: Path) -> None:
    found = ran(Nfs, tmp_path, RametCp, RametEngine, Qcow2)
    assert {each.peer: bool(each.why) for each in found.left_out} == {
        "ramet-cp": True, "ramet-engine": True, "qcow2": True,
    }  # fmt: skip


def test_what_was_dropped_is_not_in_memory(tmp_path: Path) -> None:
    peer = FullCopy()
    peer.folder = peer.root = tmp_path
    image = peer.path("image")
    image.write_bytes(os.urandom(1 << 20))
    drop(peer)
    left = subprocess.run(
        ["fincore", "--noheadings", "--output", "PAGES", image], check=True, capture_output=True
    ).stdout  # fmt: skip
    assert int(left) == 0
