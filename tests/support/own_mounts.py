"""A mount namespace of its own, where mount(8) has helpers that this machine has not.

What is mounted inside, nobody outside sees; commands run inside by ``run``.  All of it goes with
the process that holds it.  Mounts of other tests are let go of first: they would stay half alive,
and `mount -a` asks all loop devices that it sees, also those whose disk just stalls.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENTER = """
set -e
awk '$1 ~ "^/dev/loop" || $3 ~ "^fuse" { print $2 }' /proc/self/mounts | tac |
    while read -r path; do umount -lic "$path" || true; done
mount -t tmpfs none "$1"
mkdir "$1/up" "$1/work"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$1/up,workdir=$1/work" none /usr/sbin
rm -f /usr/sbin/mount.ramet /usr/sbin/mount.fuse.ramet
echo ready
read -r _
"""
BIN = Path(sys.executable).parent


@dataclass
class OwnMounts:
    pid: int

    def run(self, *words: object, code: int = 0) -> str:
        """What a command inside prints, its errors too."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", *map(str, words)],
            check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, (words, done.returncode, done.stdout)
        return done.stdout

    def ramet(self, *words: object) -> str:
        return self.run(BIN / "ramet", *words)


@contextmanager
def own_mounts(scratch: Path) -> Iterator[OwnMounts]:
    scratch.mkdir()
    with subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", ENTER, "sh", str(scratch)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield OwnMounts(holder.pid)
