"""Reads go on after a write of the store's has failed, whatever failed before it."""

from pathlib import Path

import lmdb
import pytest
from injection import run

from engine import Store, errors

DEADLINE_S = 120


@pytest.mark.parametrize("first", ["alone", "log"])
def test_reads_go_on_when_the_root_page_cannot_be_written(first: str) -> None:
    done = run("second_failure.py", first, timeout_s=DEADLINE_S)
    assert (done.stdout, done.returncode) == ("xxxx\n", 0), done.stderr


def test_metadata_that_cannot_be_read_now_is_the_stores_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no error that a front end does not know: that would end the mount."""

    class Panicking:
        def begin(self, **_: object) -> None:
            raise lmdb.PanicError("MDB_PANIC")

    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        meta = store.pool.meta
        with monkeypatch.context() as patch:
            patch.setattr(meta, "env", Panicking())
            with pytest.raises(errors.StoreFailed, match="cannot be read"):
                meta.read_node(1)
            with pytest.raises(errors.StoreFailed):
                meta.get("super", b"state")
            meta.warm_node(1)
