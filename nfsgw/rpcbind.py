"""The host's own port mapper: our programs announced there, where it has port 111 already.

rpcbind listens at every address of a host, and comes with the tools of NFS clients (nfs-common), so
on many hosts port 111 is taken, at each 127.x too.  It takes registrations by version 2 (RFC 1833,
3: SET and UNSET) from 127.0.0.1 and a port below 1024 only.  Blocking, for a thread.
"""

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator

from engine import errors
from nfsgw.portmap import PORT, PROGRAM, VERSION, Mapping, Procedure
from nfsgw.probe import PROBE_S, call

_HOST = "127.0.0.1"
_RESERVED = range(1023, 599, -1)


def announce(mappings: list[Mapping]) -> None:
    """Busy when another server has announced one of the programs; OSError, RametError when nobody
    listens who takes it."""
    with _connection() as connection:
        for done, mapping in enumerate(mappings):
            if not _ask(connection, Procedure.SET, mapping):
                _withdraw(connection, mappings[:done])
                raise errors.Busy(
                    f"the host's rpcbind leads to another server for program {mapping.program}; "
                    "stop that one (`rpcinfo -p`), or `--listen ADDRESS:PORT` with another port"
                )


def withdraw(mappings: list[Mapping]) -> None:
    """Take back what was announced, as far as anybody is there."""
    with contextlib.suppress(OSError, errors.RametError), _connection() as connection:
        _withdraw(connection, mappings)


def _withdraw(connection: socket.socket, mappings: Iterable[Mapping]) -> None:
    for mapping in mappings:
        _ask(connection, Procedure.UNSET, mapping)


@contextlib.contextmanager
def _connection() -> Iterator[socket.socket]:
    for port in _RESERVED:
        with contextlib.ExitStack() as opened:
            made = opened.enter_context(socket.socket())
            made.settimeout(PROBE_S)
            try:
                made.bind((_HOST, port))
            except OSError:
                continue
            made.connect((_HOST, PORT))
            yield made
            return
    raise errors.Busy("no port below 1024 is free to ask rpcbind from")


def _ask(connection: socket.socket, procedure: Procedure, mapping: Mapping) -> bool:
    answer = call(connection, (PROGRAM, VERSION), procedure, struct.pack(">4I", *mapping))
    return answer.boolean()
