"""Random damage: no exception but ours, repair converges, and what is left is honest."""

from pathlib import Path

import pytest
from fsck_walk import REFUSED, round_of
from test_fsck import build

ROUNDS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walk") / "sound"
    build(path)
    return path


def test_random_damage_is_repaired_or_refused(store: Path) -> None:
    ends = [round_of(store, seed) for seed in range(ROUNDS)]
    assert ends.count("clean") > ROUNDS // 4
    assert sum(end.startswith(REFUSED) for end in ends) < ROUNDS // 4
