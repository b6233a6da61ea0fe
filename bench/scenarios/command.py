"""A clone as a person types it: the whole command, from its start to its end."""

import subprocess

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario, timed_ms
from bench.scenarios.images import GIB, scattered


class Command(Scenario):
    name = "command"
    title = "The whole command"
    question = "How long does one typed command take to clone an aged 4 GiB image?"
    reasons = {  # noqa: RUF012
        "ramet-cp": "It is Ramet: `cp` is a small C program; `ramet clone` starts Python first, "
        "which takes some 70 ms whatever it does.",
        "xfs": "`cp` is a small C program; `ramet clone` starts Python first.",
        "btrfs": "`cp` is a small C program; `ramet clone` starts Python first.",
        "btrfs-snapshot": "`btrfs` is a small C program; `ramet clone` starts Python first.",
        "qcow2": "`qemu-img` is a C program that makes an empty file; `ramet clone` starts Python.",
        "copy": "There is little in this sparse image to copy.",
    }

    def accepts(self, peer: Peer) -> str | None:
        has_one = type(peer).clone_command is not Peer.clone_command
        return None if has_one else "it has no command for that"

    def charts(self) -> list[Chart]:
        return [Chart("command", "one whole command", "ms", "lower", "what", x_names=["clone"])]

    def run(self, lab: Lab) -> None:
        blocks = lab.pick(tiny=16, quick=1_000, full=100_000)

        def put(peer: Peer) -> None:
            peer.make("golden", 4 * GIB)
            peer.write("golden", lab.limited(scattered(4 * GIB, blocks, seed=1)))

        def typed(peer: Peer, n: int) -> dict[str, float]:
            words = peer.clone_command("golden", f"clone-{n}") or []
            return {"command": timed_ms(lambda: subprocess.run(
                words, check=True, capture_output=True, stdin=subprocess.DEVNULL))}  # fmt: skip

        lab.prepare("image of 4 GiB", put)
        lab.turns(0, lab.pick(tiny=2, quick=5, full=15), typed, "command")
