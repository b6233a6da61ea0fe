"""The program: procedure numbers to procedures, and which of them must not be done twice."""

from collections.abc import Callable

from engine.cold import Cold, read_only
from nfsgw.files import Files
from nfsgw.gate import Outcome, Waits
from nfsgw.nfs3 import contents, directories, names, objects
from nfsgw.nfs3.again import ShortWays
from nfsgw.nfs3.answers import Procedure as Answer
from nfsgw.nfs3.protocol import PROGRAM, VERSION, Procedure
from nfsgw.rpc import Again, Call, ProcedureUnavailable
from nfsgw.xdr import Packer, Unpacker


def _null(files: Files, call: Call, args: Unpacker, out: Packer) -> None:
    """RFC 1813, 3.3.0: for measuring and for asking whether somebody is there."""


_PROCEDURES: dict[int, Answer] = {
    Procedure.NULL: _null,
    Procedure.GETATTR: objects.getattr3,
    Procedure.SETATTR: objects.setattr3,
    Procedure.LOOKUP: objects.lookup,
    Procedure.ACCESS: objects.access,
    Procedure.READLINK: objects.readlink,
    Procedure.READ: contents.read,
    Procedure.WRITE: contents.write,
    Procedure.CREATE: names.create,
    Procedure.MKDIR: names.mkdir,
    Procedure.SYMLINK: names.symlink,
    Procedure.MKNOD: names.mknod,
    Procedure.REMOVE: names.remove,
    Procedure.RMDIR: names.rmdir,
    Procedure.RENAME: names.rename,
    Procedure.LINK: names.link,
    Procedure.READDIR: directories.readdir,
    Procedure.READDIRPLUS: directories.readdirplus,
    Procedure.FSSTAT: objects.fsstat,
    Procedure.FSINFO: objects.fsinfo,
    Procedure.PATHCONF: objects.pathconf,
    Procedure.COMMIT: contents.commit,
}

# A WRITE may be repeated, but not after a later one of the same range has been answered.
_ONCE = frozenset(
    {
        Procedure.SETATTR, Procedure.WRITE, Procedure.CREATE, Procedure.MKDIR, Procedure.SYMLINK,
        Procedure.MKNOD, Procedure.REMOVE, Procedure.RMDIR, Procedure.RENAME, Procedure.LINK,
    }
)  # fmt: skip


class Nfs3:
    """NFS version 3 over a store's exports."""

    number = PROGRAM
    versions: tuple[int, ...] = (VERSION,)

    def __init__(self, files: Files) -> None:
        self._files = files
        ways = ShortWays(files)
        self.again: dict[int, Again] = {Procedure.READ: ways.read, Procedure.WRITE: ways.write}
        self._pool = files.store.pool

    @staticmethod
    def cached(call: Call) -> bool:
        """Whether a retransmission must get the first answer instead of being carried out."""
        return call.procedure in _ONCE

    def call(self, call: Call, args: Unpacker, out: Packer) -> Outcome:
        procedure = _PROCEDURES.get(call.procedure)
        if procedure is None:
            raise ProcedureUnavailable
        if call.procedure in _ONCE:
            return procedure(self._files, call, args, out)
        at, mark = args.at, out.mark()
        nodes, core = self._pool.nodes, self._pool.core
        nodes.waits = core.waits = False  # what changes nothing can be asked again (engine/cold.py)
        try:
            return procedure(self._files, call, args, out)
        except Cold:
            pass
        finally:
            nodes.waits = core.waits = True

        def again() -> Outcome:
            args.at = at
            out.rewind(mark)
            return procedure(self._files, call, args, out)

        return self._when_warm(again)

    def _when_warm(self, again: Callable[[], Outcome]) -> Waits:
        rest = yield from self._files.gate.driven(read_only(self._pool, again))
        if rest is not None:
            yield from rest
