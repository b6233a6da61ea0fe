"""A Linux kernel as an NFS client: the guest, the checks of ``tests/nfsgw/linux``, its mounts."""

import re
import subprocess
from pathlib import Path

import client
from client import Client

SOURCES = client.HERE.parent / "nfsgw" / "linux"
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
PROGRAM = "linux_client"
DIR = {"3": "/m3", "4.2": "/m4"}


def make(out: Path, cache: Path) -> Client:
    """The guest, built in ``out``; packages come from ``cache`` or by apt-get."""
    out.mkdir(parents=True, exist_ok=True)
    program = out / PROGRAM
    subprocess.run(["gcc", *FLAGS, "-o", program, *sorted(SOURCES.glob("*.c"))], check=True)
    return client.make_for_nfs(out, cache, program)


def mount(version: str, port: int, path: str, more: str = "") -> str:
    """A line of the guest's script: the host's export at ``DIR[version]``.

    Names that were not there are looked for again at every call, so a file on the share is a sign
    from the other side; ``more`` are options.
    """
    options = f"addr={client.HOST},vers={version},proto=tcp,port={port},lookupcache=positive"
    if version == "3":
        options += f",nolock,mountproto=tcp,mountport={port}"
    else:
        options += ",clientaddr=10.0.2.15"
    words = f"{client.HOST}:{path} {DIR[version]} {options}{more}"
    return f"mkdir -p {DIR[version]}\n{PROGRAM} mount {words} || exit 1\n"


def checks(said: str) -> dict[str, str]:
    """What came of each check, by its path: empty when it passed, else what failed."""
    found = dict.fromkeys(re.findall(r"^PASSED \S+ (\S+)$", said, re.MULTILINE), "")
    return found | dict(re.findall(r"^NOT PASSED \S+ (\S+): (.*)$", said, re.MULTILINE))


def told(said: str) -> dict[str, str]:
    """What the script told, by its first word."""
    return dict(re.findall(r"^TOLD (\S+) (.*)$", said, re.MULTILINE))


SCRIPT = """\
check() {
    # the rest goes on when one has failed
    if linux_client "$@" > /said.$1 2>&1; then
        cat /said.$1
    else
        echo "NOT PASSED $1 $2: $(tail -c 600 /said.$1 | tr '\\n' '|')"
    fi
}
sign() { touch "/m4/$1" && until [ -e "/m4/$1-seen" ]; do sleep 0.1; done; }
digest() { md5sum < "$1" | cut -d' ' -f1; }
operations() {  # how often the client of a mount has called an operation
    awk -v dir="$1" -v name="$2:" '$3 == "mounted" { here = $5 == dir }
        here && $1 == name { print $2 }' /proc/self/mountstats
}
"""
