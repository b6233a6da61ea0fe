"""libvirt goes away in the middle of a clone: nothing is left that cannot be finished."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from libvirt_door import Door

if TYPE_CHECKING:
    from conftest import Lab


@pytest.mark.parametrize(
    ("word", "let_through", "defined"),
    [(b"<domain", 2, ["web-1", "web-2"]), (b"<pool", 1, ["web-1", "web-2", "web-3"])],
)
def test_no_domain_is_left_without_its_files(
    lab: "Lab", tmp_path: Path, word: bytes, let_through: int, defined: list[str]
) -> None:
    path = tmp_path / "door"
    lost = f"qemu+unix:///system?socket={path}"
    door = Door(path, word, let_through)
    failed = lab.ramet.run(
        "vm", "clone", "lab:/golden", "lab:/web-{n}", "--count", 3, "--register", "-c", lost, code=3
    )
    assert "vm rm" in failed.stderr
    assert lab.domains() == defined
    assert lab.names() == ["golden", "web-1", "web-2", "web-3"]
    for name in ("web-1", "web-2", "web-3"):
        assert (lab.mount / "lab" / name / "golden.raw").read_bytes() == lab.disk
        assert lab.ramet.run("vm", "rm", f"lab:/{name}", code=1)  # not while nobody answers

    path.unlink()
    door = Door(path, word, 100)
    for name in ("web-1", "web-2", "web-3"):
        lab.ramet.run("vm", "rm", f"lab:/{name}")
    door.close()
    assert (lab.names(), lab.domains()) == (["golden"], [])
