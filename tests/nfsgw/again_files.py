"""A file and WRITEs to it that a connection finds together, and what the engine makes of them."""

from typing import Any, NamedTuple

import pytest
from exported import Exported
from nfs3_client import Attributes, Failed3, Nfs3Client, Written, wcc
from pipelined import WRITE, Sent, burst, call, long_way, write_arguments
from rpc_client import RpcError, results

from engine import Volume

BLOCK = 4096


class EngineWrites:
    """The writes that the engine was asked for: offset and length of each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[int, int]] = []
        write = Volume.write

        def noted(to: Volume, ino: int, offset: int, data: memoryview, **how: Any) -> int:
            self.done.append((offset, len(data)))
            return write(to, ino, offset, data, **how)

        patch.setattr(Volume, "write", noted)


class File(NamedTuple):
    """A file that its client has written, so that its calls are known."""

    client: Nfs3Client
    handle: bytes

    def call(self, offset: int, data: bytes, **how: Any) -> Sent:
        return call(self.client.rpc, WRITE, write_arguments(self.handle, offset, data, **how))

    def contents(self) -> bytes:
        size = self.client.getattr(self.handle).size
        found = b""
        while len(found) < size:
            found += self.client.read(self.handle, len(found), 1 << 20)[0]
        return found


def made(client: Nfs3Client, top: bytes, name: bytes, **new: Any) -> File:
    file = File(client, client.create(top, name, **new).handle)
    client.write(file.handle, 0, b"!")
    return file


def written(answer: bytes) -> Written:
    return Nfs3Client.written(Nfs3Client.result(results(answer), (wcc,)))


class Told(NamedTuple):
    """What an answer says that a twin's should say too; ``refused``: by RPC, with this status."""

    status: int = 0
    before: int | None = None
    after: Attributes | None = None
    rest: tuple[object, ...] = ()
    refused: int = 0


def told(answer: bytes) -> Told:
    try:
        found = written(answer)
    except RpcError as refused:
        return Told(refused=refused.status)
    except Failed3 as failed:
        (both,) = failed.tells
        return Told(failed.status, *shown(both))
    return Told(0, *shown(found.wcc), (found.count, found.committed, found.verifier))


def shown(both: Any) -> tuple[int | None, Attributes | None]:
    """Sizes before and after, with all that a twin has too; Wcc."""
    before, after = both
    if after is not None:
        after = after._replace(fileid=0, mtime=(0, 0), ctime=(0, 0), atime=(0, 0), used=0)
    return None if before is None else before.size, after


def in_steps(one_by_one: list[Told], taken: list[int]) -> list[Told]:
    """What the same calls say when so many at once are a step: each that the file is as the last
    has left it, and so was before it, unless it is the first."""
    found, at = [], 0
    for count in taken:
        step = one_by_one[at : at + max(count, 1)]
        after = step[-1].after
        found.append(step[0]._replace(after=after))
        for each in step[1:]:
            assert after is not None
            found.append(each._replace(before=after.size, after=after))
        at += len(step)
    return found


def status_of(answer: bytes) -> int:
    return int.from_bytes(answer[24:28], "big")


def letters(*sizes: int) -> list[bytes]:
    return [bytes([65 + n]) * size for n, size in enumerate(sizes)]


def following(file: File, offset: int, parts: list[bytes]) -> list[Sent]:
    """WRITEs of parts that follow each other."""
    calls = []
    for part in parts:
        calls.append(file.call(offset, part))
        offset += len(part)
    return calls


def one_by_one(world: Exported, file: File, calls: list[Sent]) -> list[bytes]:
    with long_way():
        return [burst(world, file.client.rpc, [each])[0] for each in calls]


A, B, C, D = letters(BLOCK, BLOCK, BLOCK, BLOCK)
