"""A clone as a person types it: the whole command, from its start to its end."""

import subprocess

from bench.harness.peer import Peer, TreePeer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario, timed_ms
from bench.scenarios.datastore import files
from bench.scenarios.images import GIB, scattered

ONE_IMAGE, WHOLE_TREE = range(2)
PYTHON = "; `ramet` starts Python first."


class Command(Scenario):
    name = "command"
    title = "The whole command"
    question = "How long does one typed command take to clone an aged image, a whole datastore?"
    reasons = {  # noqa: RUF012
        "ramet-cp": "It is Ramet: `cp` is a small C program; `ramet clone` starts Python first, "
        "which takes some 70 ms whatever it does.",
        "xfs": "`cp` is a small C program" + PYTHON,
        "btrfs": "`cp` is a small C program" + PYTHON,
        "btrfs-snapshot": "`btrfs` is a small C program" + PYTHON,
        "qcow2": "`qemu-img` is a C program that makes an empty file" + PYTHON,
        "juicefs": "`juicefs` is a compiled program that changes its database" + PYTHON,
        "lvm-thin": "`lvcreate` is a C program" + PYTHON,
        "zfs": "`zfs` is a C program" + PYTHON,
        "copy": "There is little in this sparse image, and in few small files, to copy.",
    }

    def accepts(self, peer: Peer) -> str | None:
        has_one = type(peer).clone_command is not Peer.clone_command
        return None if has_one else "it has no command for that"

    def charts(self) -> list[Chart]:
        return [Chart("command", "one whole command", "ms", "lower", "what",
                      x_names=["an image", "a datastore"])]  # fmt: skip

    def run(self, lab: Lab) -> None:
        blocks = lab.pick(tiny=16, quick=1_000, full=100_000)
        count = lab.pick(tiny=10, quick=1_000, full=10_000)
        rounds = lab.pick(tiny=2, quick=5, full=15)

        def put(peer: Peer) -> None:
            peer.make("golden", 4 * GIB)
            peer.write("golden", lab.limited(scattered(4 * GIB, blocks, seed=1)))

        def put_tree(peer: Peer) -> None:
            if isinstance(peer, TreePeer) and tree_command(peer, 0):
                peer.make_tree("tree", lab.limited(files(count)))

        def image(peer: Peer, n: int) -> dict[str, float]:
            return typed(peer.clone_command("golden", f"clone-{n}"))

        def tree(peer: Peer, n: int) -> dict[str, float]:
            return typed(tree_command(peer, n))

        lab.prepare("image of 4 GiB", put)
        lab.turns(ONE_IMAGE, rounds, image, "image")
        lab.prepare(f"{count:,} files", put_tree)
        lab.turns(WHOLE_TREE, rounds, tree, "datastore")
        lab.notes.append(
            f"the image has {blocks:,} extents, the datastore {count:,} files of 4 KiB"
        )


def tree_command(peer: Peer, n: int) -> list[str] | None:
    """None for who has no operation for a whole datastore, or the same as another door."""
    if not isinstance(peer, TreePeer) or peer.name == "ramet-cp":
        return None
    return peer.clone_tree_command("tree", f"tree-{n}")


def typed(words: list[str] | None) -> dict[str, float]:
    if words is None:
        return {}
    return {"command": timed_ms(lambda: subprocess.run(
        words, check=True, capture_output=True, stdin=subprocess.DEVNULL))}  # fmt: skip
