"""The ``ramet`` command as a script uses it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Ramet:
    """Runs commands on one store and checks their exit codes."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def run(
        self, *arguments: object, code: int | None = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``code`` None: whatever it is."""
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--json", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=300,
            env={
                **os.environ, **(env or {}), "PYTHONPATH": str(Path.cwd()),
                "RAMET_STORE": str(self.store), "RAMET_CONFIG": "/dev/null",
            },
        )  # fmt: skip
        assert code in (None, done.returncode), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: object) -> Any:
        return json.loads(self.run(*arguments).stdout.splitlines()[-1])
