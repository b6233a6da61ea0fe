"""Public operations between their yields: what others do meanwhile."""

from pathlib import Path

import pytest

from engine import ROOT_INO, Store, errors
from service.addresses import Context
from service.operations import export_file


def test_an_export_does_not_go_on_into_a_restored_volume(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"a", 0o644, 0, 0).ino
        lab.write(ino, 0, b"1" * (16 << 20))
        store.create_snapshot(lab, "monday")
        lab.write(ino, 0, b"2" * (16 << 20))
        steps = export_file(Context(store, None), "lab:/a", str(tmp_path / "out"))
        check = next(steps)
        assert callable(check)
        check()
        write = steps.send(None)
        assert callable(write)
        write()
        store.restore(lab, "monday", force=True)
        lab.hold(ino)
        with pytest.raises(errors.Stale):
            steps.send(None)
        assert not (tmp_path / "out").exists()
        assert lab.held  # by the one who opened it after the restore
        lab.release(ino)
