"""How procedures answer: what a result says of the objects of its call, whether it fails or not.

A reading procedure answers at once. A changing one waits for room, then looks its objects up,
notes them as they are, changes them and notes them again - one step of the engine, nothing of
others' comes between, so the attributes before are those that the change met (RFC 1813, 2.6:
wcc_data may then be trusted) - and waits, if it must, until the change is durable.
"""

import struct
from collections.abc import Callable, Generator
from functools import wraps
from typing import Any

from nfsgw.files import Files, Place
from nfsgw.gate import Outcome, Wait
from nfsgw.handles import HANDLE_BYTES
from nfsgw.nfs3.attributes import NOTHING, post_op, pre_op
from nfsgw.nfs3.protocol import FAILURES, HANDLE_BYTES_MAX, NAME_MAX, OK, status_of
from nfsgw.rpc import Call
from nfsgw.xdr import Garbage, Packer, Unpacker

_U32 = struct.Struct(">I")
_FH_HEAD = struct.Struct(">2I")
_OURS = struct.Struct(f">I{HANDLE_BYTES}s")
Procedure = Callable[[Files, Call, Unpacker, Packer], Outcome]
Change = Generator[Wait, None, bytes]


class Subject:
    """An object that an answer tells of: as it was before a change, and after."""

    __slots__ = ("after", "before", "place")

    def __init__(self) -> None:
        self.place: Place | None = None
        self.before = self.after = NOTHING

    def seen(self, place: Place) -> Place:
        self.place = place
        return place

    def meets(self, place: Place) -> Place:
        """In the step of the change, before it."""
        self.place = place
        self.before = pre_op(place.inode)
        return place

    def changed(self) -> None:
        """In the step of the change, after it."""
        assert self.place is not None
        self.after = post_op(self.place)

    def attributes(self) -> bytes:
        """post_op_attr."""
        if self.after is NOTHING and self.place is not None:
            self.changed()
        return self.after

    def wcc(self) -> bytes:
        """wcc_data."""
        return self.before + self.attributes()


def reading(procedure: Callable[[Files, Call, Unpacker, Packer, Subject], None]) -> Procedure:
    """A procedure that appends its whole result; its failure tells of one object."""

    @wraps(procedure)
    def answer(files: Files, call: Call, args: Unpacker, out: Packer) -> None:
        subject, mark = Subject(), out.mark()
        try:
            procedure(files, call, args, out, subject)
        except FAILURES as error:
            out.rewind(mark)
            out.u32(status_of(error))
            out.raw(subject.attributes())

    return answer


def changing(*tells: Callable[[Subject], bytes]) -> Callable[[Callable[..., Change]], Procedure]:
    """A procedure that returns its result without the status; its failure ``tells`` of as many
    objects as it has, each by ``Subject.wcc`` or ``Subject.attributes``.
    """

    def decorate(procedure: Callable[..., Change]) -> Procedure:
        @wraps(procedure)
        def answer(
            files: Files, call: Call, args: Unpacker, out: Packer
        ) -> Generator[Wait, Any, None]:
            subjects = [Subject() for _ in tells]
            try:
                result = yield from procedure(files, call, args, *subjects)
            except FAILURES as error:
                out.u32(status_of(error))
                out.raw(b"".join(tell(each) for tell, each in zip(tells, subjects, strict=True)))
            else:
                out.raw(OK + result)

        return answer

    return decorate


def read_handle(args: Unpacker) -> bytes:
    """nfs_fh3; Garbage when it is longer than any may be."""
    at = args.at
    if args.left >= _OURS.size:
        length, raw = _OURS.unpack_from(args.data, at)
        if length == HANDLE_BYTES:
            args.at = at + _OURS.size
            return raw  # type: ignore[no-any-return]
    return bytes(args.opaque(HANDLE_BYTES_MAX))


def read_name(args: Unpacker) -> bytes:
    """filename3: one byte more than a name may have at most, for the check that comes later."""
    length = args.u32()
    if length > args.left:
        raise Garbage("a record was cut short")
    return bytes(args.fixed(length)[: NAME_MAX + 1])


def post_op_handle(raw: bytes) -> bytes:
    """post_op_fh3 with a handle; ours need no padding."""
    return _FH_HEAD.pack(1, len(raw)) + raw
