"""Beside a host's own rpcbind, which has port 111 of all addresses."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_a_hosts_rpcbind_leads_to_the_exports(tmp_path: Path) -> None:
    """As long as there are any, and no longer."""
    path = os.pathsep.join([str(Path.cwd()), str(HERE.parent / "support")])
    done = subprocess.run(
        [
            "unshare", "--net", "--mount", sys.executable, str(HERE / "beside_rpcbind.py"),
            str(tmp_path),
        ],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["before"], seen["removed"], seen["after"]) == ([], [], [])
    assert seen["row"]["state"] == "up"
    assert seen["exported"] == ["100003/3/tcp/2049", "100003/4/tcp/2049", "100005/3/tcp/2049"]
    assert (seen["listed"], seen["ended"]) == (0, 0)
