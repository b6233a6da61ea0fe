"""NFS-Ganesha, exporting a directory, for as long as a measurement.

It wants rpcbind, which wants port 111 of every address and its place in /run: where another server
has one of those ports, Ganesha gets a network of its own, and a /run in any case.  Its processes
end with the one that started them.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import trio

READY_S = 60
NFS_PORT, MOUNT_PORT = 2049, 20_048
PSEUDO = "/lab"  # the path of the export by NFSv4; by NFSv3 it is the directory's own
CONFIGURATION = """
NFS_CORE_PARAM {{
  Protocols = 3, 4; NFS_Port = {nfs}; MNT_Port = {mount}; Enable_NLM = false;
  Enable_RQUOTA = false;
}}
NFSV4 {{ Graceless = true; RecoveryRoot = "{state}"; }}
EXPORT {{
  Export_Id = 77; Path = {path}; Pseudo = {pseudo}; Protocols = 3, 4; Access_Type = RW;
  Squash = No_Root_Squash; SecType = sys; Transports = TCP; FSAL {{ Name = VFS; }}
}}
LOG {{
  Default_Log_Level = WARN; Facility {{ name = FILE; destination = "{log}"; enable = active; }}
}}
"""


@contextlib.contextmanager
def ganesha(folder: Path, path: Path, *, own_network: bool = True) -> Iterator[tuple[str, ...]]:
    """Export ``path``; yields the words before a command that is to reach it at 127.0.0.1."""
    for program in ("ganesha.nfsd", "rpcbind", "showmount"):
        if shutil.which(program) is None:
            raise OSError(f"{program} is not installed: `make bench-packages` installs it")
    configuration, log, state = (folder / f"ganesha.{each}" for each in ("conf", "log", "state"))
    state.mkdir()
    configuration.write_text(
        CONFIGURATION.format(
            path=path, log=log, state=state, nfs=NFS_PORT, mount=MOUNT_PORT, pseudo=PSEUDO
        )
    )
    script = (
        "ip link set lo up && mount -t tmpfs tmpfs /run && rpcbind -w && "
        "exec ganesha.nfsd -F -f $0 -p $1"
    )
    server = subprocess.Popen(
        ["unshare", *(("--net",) if own_network else ()), "--mount", "--pid", "--fork",
         "--kill-child",
         "sh", "-c", script, configuration, folder / "ganesha.pid"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    enter = ("nsenter", "--net", "--target", str(server.pid))
    try:
        trio.run(_wait_until_it_serves, [*enter, "showmount", "-e", "127.0.0.1"], log)
        yield enter
    finally:
        server.kill()  # and with it, as it was told to, all that runs in there
        server.wait()


async def _wait_until_it_serves(command: list[str], log: Path) -> None:
    with trio.move_on_after(READY_S):
        while True:
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False
            )
            if done.returncode == 0 and done.stdout.count(b"\n") > 1:
                return
            await trio.sleep(0.2)
    raise OSError(f"Ganesha does not serve: {_told(log)}")


def _told(log: Path) -> str:
    """What its log says of it, in one line: what is wrong with the export, or what was last."""
    lines = log.read_text().splitlines() if log.exists() else []
    wrong = [line for line in lines if ":EXPORT :CRIT" in line] or lines or ["it has no log"]
    return wrong[-1].rpartition(" :CRIT :")[2][:300]
