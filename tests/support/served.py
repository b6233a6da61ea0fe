"""A store with a volume ``lab``, served by a daemon in the background and mounted."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command import Ramet

from service.rpc import Client


class Served(Ramet):
    """The command, and the daemon itself."""

    def __init__(self, store: Path, root: Path) -> None:
        super().__init__(store)
        self.root = root
        self.lab = root / "lab"

    def client(self) -> Client:
        client = Client.connect(self.store)
        assert client is not None
        return client

    def ask(self, method: str, *arguments: object) -> Any:
        """The daemon, without a command in between."""
        return self.client().call(method, *arguments)


@contextmanager
def serving(path: Path) -> Iterator[Served]:
    """Nothing is mounted afterwards, whatever has been done to the daemon."""
    made = Served(path / "store", path / "mnt")
    made.root.mkdir()
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    made.run("mount", made.root)
    try:
        yield made
    finally:
        if made.json("status")["serving"]:
            made.run("umount")
    assert not os.path.ismount(made.root)
