"""A real mount, served by a real process."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 30


@dataclass
class Mount:
    """A served store: its directory, its mount point, the process."""

    store: Path
    root: Path
    process: subprocess.Popen[str]

    @property
    def lab(self) -> Path:
        return self.root / "lab"

    def stats(self) -> dict[str, int]:
        return json.loads(os.getxattr(self.root, "user.ramet.stats"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0

    def kill(self) -> None:
        """What a crash of the process leaves, and what an administrator then does."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        subprocess.run(["umount", "-l", str(self.root)], check=True)


def serve(store: Path, root: Path, env: dict[str, str] | None = None) -> Mount:
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "--store", str(store), "serve", "--mount", str(root)],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, **(env or {}), "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    os.stat(root / "lab")  # the first request waits for the mount to answer
    return Mount(store, root, process)
