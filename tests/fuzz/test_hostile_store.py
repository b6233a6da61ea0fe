"""Two hundred damaged stores (hostile.py): the engine's own errors come out of them, nothing else.

Before the records were checked as they are now, more than half of these cases ended in a
struct.error, a KeyError, a walk without end, or a store that could not commit any more.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hostile import MEMORY, Template, run_case

from engine import ROOT_INO, Store, fsck

CASES = 200
STEP = 10


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with TemporaryDirectory(prefix="ramet-hostile-", dir=MEMORY) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def template(scratch: Path) -> Template:
    return Template(scratch / "good")


@pytest.mark.parametrize("first", range(0, CASES, STEP))
def test_only_errors_of_the_engine_come_out_of_a_damaged_store(
    template: Template, scratch: Path, first: int
) -> None:
    for seed in range(first, first + STEP):
        run_case(template, seed, scratch)


def test_the_store_that_is_damaged_is_whole(template: Template, scratch: Path) -> None:
    """Else the cases would prove nothing: all is there, and fsck finds nothing."""
    with Store.open(template.path) as store:
        assert fsck.check(store, data=True).findings == []
        names = {e.name for e in store.volume("v").readdir(ROOT_INO)}
        assert {b"dir", b"again", b"clone", b"sparse"} <= names
        assert {table for table, _ in template.keys} == {
            "super", "nodes", "volumes", "slots", "orphans", "reclaim", "records",
        }  # fmt: skip
