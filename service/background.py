"""Start and stop a daemon from the command line, and wait until it is so."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine import errors
from engine.owner import wait_for_owner
from service.host_files import owner_only
from service.mount_options import MountOptions
from service.rpc import Client

LOG = Path("run") / "daemon.log"


def start(store: str, mountpoint: str, options: MountOptions) -> None:
    """Serve and mount in a process of its own; returns when the mount answers.

    ``-P`` and another working directory: where we were called, a user's modules may lie.
    """
    store, mountpoint = os.path.abspath(store), os.path.abspath(mountpoint)
    root = Path(store)
    if not (root / "meta").is_dir():
        raise errors.NoSuchStore(f"{root} is no store; make one with `ramet init {root}`")
    if Client.connect(root) is not None:
        raise errors.StoreInUse(f"{root} is served already; `ramet umount` stops it")
    drop_dead_mount(mountpoint)
    (root / LOG).parent.mkdir(mode=0o700, exist_ok=True)
    with open(root / LOG, "ab", opener=owner_only) as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "--store", store, "serve", "--mount", mountpoint,
             "-o", ",".join(options.words())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            cwd="/", env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        ready = output.readline()
    if ready != b"ready\n":
        process.wait()
        lines = (root / LOG).read_text(errors="replace").strip().splitlines()
        raise errors.RametError(lines[-1].removeprefix("ramet: ") if lines else "it did not start")
    os.stat(mountpoint)


def drop_dead_mount(mountpoint: str) -> None:
    """A crashed daemon leaves a mount that answers nothing; take it away.

    Its attributes the kernel may still know for a second; the space it always asks for.
    """
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        if error.errno != 107:  # ENOTCONN
            raise
        subprocess.run(["umount", "-l", mountpoint], check=True)


def stop(store: str) -> None:
    """Stop the daemon; returns when its mount is gone and the store is closed.

    Raises what kept it from storing the last changes; it has stopped all the same.
    """
    client = Client.connect(Path(store))
    if client is None:
        raise errors.NotFound(f"no daemon serves {store}; see `ramet status`")
    try:
        client.call("shutdown")
    finally:
        wait_for_owner(Path(store))


def status(store: str) -> dict[str, Any]:
    root = Path(store)
    if not (root / "meta").is_dir():
        raise errors.NoSuchStore(f"{root} is no store; make one with `ramet init {root}`")
    client = Client.connect(root)
    if client is None:
        return {"serving": False, "store": store}
    answer: dict[str, Any] = client.call("status")
    return {"serving": True} | answer
