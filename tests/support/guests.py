"""Guests as their host sees them: start, wait for what they print, power off."""

import contextlib
import json
import shlex
import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import libvirt
import libvirt_qemu

BOOT_S = 240  # emulated, on a busy host
STOP_S = 90  # emulated, on a busy host
WORD = "RAMET-GUEST "


NETWORK_DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <devices>
    <disk type='network' device='disk'><driver name='qemu' type='raw' discard='unmap'/>
      {source}
      <target dev='vda' bus='virtio'/></disk>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
  </devices>
</domain>"""


def network_domain(name: str, source: str, console: Path) -> str:
    """A domain that boots from a disk of the network: ``source`` is that element."""
    return NETWORK_DOMAIN.format(name=name, source=source, console=escape(str(console)))


class DidNotBoot(Exception):
    """The domain stopped, or said nothing in time."""


class Guest:
    """A defined domain whose serial console is a file."""

    def __init__(self, connection: libvirt.virConnect, name: str, console: Path) -> None:
        self.domain = connection.lookupByName(name)
        self.console = console

    def start(self) -> None:
        self.domain.create()

    def identity(self, timeout_s: float = BOOT_S) -> dict[str, str]:
        """The identity it prints, by key."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                text = self.console.read_bytes().decode(errors="replace")
                for line in reversed(text.splitlines(keepends=True)):
                    if line.startswith(WORD) and line.endswith("\n"):
                        return dict(word.split("=", 1) for word in shlex.split(line[len(WORD) :]))
            if self.domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                raise DidNotBoot(f"{self.domain.name()} stopped")
            time.sleep(0.2)
        raise DidNotBoot(f"{self.domain.name()} printed nothing in {timeout_s} s")

    def wait_for_agent(self, timeout_s: float = BOOT_S) -> None:
        """Until its guest agent answers."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(libvirt.libvirtError):
                self.ask_agent("guest-ping")
                return
            time.sleep(0.2)
        raise DidNotBoot(f"the agent of {self.domain.name()} did not answer in {timeout_s} s")

    def ask_agent(self, command: str, **arguments: object) -> Any:
        """What its guest agent answers to one of its commands."""
        asked = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(self.domain, asked, 10, 0))["return"]

    def frozen(self) -> bool:
        return bool(self.ask_agent("guest-fsfreeze-status") == "frozen")

    def wait_until_thawed(self, timeout_s: float = STOP_S) -> None:
        deadline = time.monotonic() + timeout_s
        while self.frozen():
            assert time.monotonic() < deadline, "the guest is still frozen"
            time.sleep(0.1)

    def shut_down(self) -> None:
        """By its power button; pulled out when that does not help."""
        self.domain.shutdown()
        deadline = time.monotonic() + STOP_S
        while self.domain.isActive():
            if time.monotonic() > deadline:
                self.domain.destroy()
                raise DidNotBoot(f"{self.domain.name()} ignores its power button")
            time.sleep(0.1)
