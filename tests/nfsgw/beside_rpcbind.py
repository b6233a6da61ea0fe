"""A host of its own, which has an rpcbind: a network and a /run that nobody else sees.

Run by test_rpcbind.py under ``unshare``; prints what is to be seen from outside, a JSON object.
"""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from command import Ramet

DEADLINE_S = 60
IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS = 1, 0x8913, 0x8914


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def programs() -> list[str]:
    """As rpcbind tells: program/version/protocol/port; of NFS and MOUNT."""
    done = subprocess.run(["rpcinfo", "-p"], capture_output=True, text=True, check=False)
    lines = [line.split()[:4] for line in done.stdout.splitlines()[1:]]
    assert done.returncode == 0 or not lines
    return sorted("/".join(line) for line in lines if line[0] in ("100003", "100005"))


def main(root: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    loopback_up()
    ramet = Ramet(root / "store")
    ramet.run("init", ramet.store)
    ramet.run("volume", "create", "lab")
    seen: dict[str, object] = {}
    with subprocess.Popen(["rpcbind", "-f"]) as mapper:
        deadline = time.monotonic() + DEADLINE_S
        while subprocess.run(["rpcinfo", "-p"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline
        daemon = subprocess.Popen(
            [sys.executable, "-m", "cli", "--store", str(ramet.store), "serve"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        seen["before"] = programs()
        seen["row"] = ramet.json("share", "nfs", "add", "lab", "--listen", "127.0.0.9")
        seen["exported"] = programs()
        listed = subprocess.run(
            ["nfs-ls", "nfs://127.0.0.9/lab"], capture_output=True, text=True, check=False
        )
        seen["listed"] = listed.returncode
        ramet.run("share", "nfs", "rm", "lab")
        seen["removed"] = programs()
        ramet.run("share", "nfs", "add", "lab")
        daemon.send_signal(signal.SIGTERM)
        seen["ended"] = daemon.wait(DEADLINE_S)
        seen["after"] = programs()
        mapper.terminate()
    print(json.dumps(seen))


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path.cwd())
    main(Path(sys.argv[1]))
