"""A served store with a base VM, and what libvirt has of its clones: names that clash with none."""

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from command import Ramet
from libvirt_door import Door

from service.clone_spec import CloneSpec
from service.rpc import Client, Request

BASE_XML = Path(__file__).parents[1] / "guest" / "golden.xml"
DISK_BYTES = 1 << 20
DEADLINE_S = 60


class Fleet:
    """One store, mounted; its volume, VMs, domains and pool have a prefix of their own."""

    def __init__(self, root: Path, uri: str | None = None) -> None:
        self.ramet = Ramet(root / "store")
        self.uri = uri
        self.root = root
        self.mount = root / "mnt"
        self.name = f"fleet{uuid.uuid4().hex[:8]}"
        self.disk = os.urandom(DISK_BYTES)
        self.mount.mkdir()
        self.ramet.run("init", self.ramet.store)
        self.ramet.run("volume", "create", self.name)
        (root / "golden.raw").write_bytes(self.disk)
        self.ramet.run("import", "-p", root / "golden.raw", f"{self.name}:/golden/golden.raw")
        self.ramet.run("vm", "add", f"{self.name}:/golden", "--xml", BASE_XML)
        self.serve()

    def serve(self) -> None:
        self.ramet.run("mount", self.mount)

    def ask(self, request: Request) -> Any:
        """The daemon itself, at once."""
        client = Client.connect(self.ramet.store)
        assert client is not None
        return client.ask(request)

    def job(self, number: int) -> dict[str, Any]:
        told: dict[str, Any] = self.ask(Request("job_show", [number]))
        return told

    def clone_vms(self, count: int, *, register: bool, on_error: str = "undo", **more: Any) -> Any:
        """A request to the daemon for ``count`` clones of the base."""
        uri = more.pop("uri", self.uri or "qemu:///system")
        spec = CloneSpec(count=count, register=register, uri=uri, on_error=on_error)  # type: ignore
        target = f"{self.name}:/{self.name}-{{n}}"
        arguments = [f"{self.name}:/golden", target, spec.to_dict()]
        return self.ask(Request("vm_clone", arguments, **more))

    def killed_as_it_defines(self, path: Path, start: Callable[[str], int]) -> dict[str, Any]:
        """What the next daemon tells of a job that ``start`` begins at a URI; its own was killed
        while it waited for libvirtd to define the twentieth domain."""
        held, killed = threading.Event(), threading.Event()

        def hold(left: int) -> None:
            if left == 980:
                held.set()
                killed.wait(DEADLINE_S)

        door = Door(path, b"<domain", 1000, hold)
        number = start(f"qemu+unix:///system?socket={path}")
        assert held.wait(DEADLINE_S)
        assert self.job(number)["state"] == "running"
        self.kill()
        killed.set()
        assert len(self.domains()) >= 19
        self.serve()
        told: dict[str, Any] = self.ask(Request("job_wait", [number]))
        door.close()
        return told

    def until(self, number: int, items: int) -> None:
        """A running job has done so many, and they are on disk."""
        while (told := self.job(number))["items_done"] < items:
            assert told["state"] in ("queued", "running"), told
        self.ask(Request("volume_create", [f"beside{number}", 0, False]))

    def kill(self) -> None:
        """The daemon's process, at once; its dead mount goes."""
        pid = self.ask(Request("status", []))["pid"]  # a command would take long enough to miss it
        os.kill(pid, signal.SIGKILL)
        while self.ramet.json("status")["serving"]:
            pass
        subprocess.run(["umount", "-l", self.mount], check=True)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.mount / self.name))

    def domains(self) -> list[str]:
        connection = libvirt.open(self.uri)
        try:
            return sorted(
                each.name() for each in connection.listAllDomains()
                if each.name().startswith(self.name)
            )  # fmt: skip
        finally:
            connection.close()

    def pools(self) -> list[str]:
        connection = libvirt.open(self.uri)
        try:
            every = [each.name() for each in connection.listAllStoragePools()]
            return [name for name in every if self.name in name]
        finally:
            connection.close()

    def untouched(self) -> bool:
        """Nothing is there but the base VM, in the store and in libvirt; the store is sound."""
        assert self.names() == ["golden"]
        assert [row["name"] for row in self.ramet.json("vm", "ls")] == ["golden"]
        if self.uri is not None:
            assert (self.domains(), self.pools()) == ([], [])
        return bool(self.ramet.json("fsck", "--data")["clean"])

    def close(self) -> None:
        """Take away whatever a failed test left."""
        if not self.ramet.json("status")["serving"]:
            self.serve()
        for vm in self.ramet.json("vm", "ls"):
            self.ramet.run("vm", "rm", "--force", vm["address"], code=None)
        self.ramet.run("umount")
        if self.uri is not None:
            assert (self.domains(), self.pools()) == ([], [])
