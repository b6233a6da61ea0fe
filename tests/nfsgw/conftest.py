"""One exported store a module, a directory of its own a test, users from the hosts of exported."""

import itertools
from collections.abc import Iterator

import pytest
from again_files import EngineWrites, File, made
from exported import ROOT_HOST, Exported, exported
from nfs3_client import Nfs3Client, Users
from pipelined import Steps

_directories = itertools.count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    with exported(tmp_path_factory.mktemp("exported")) as made:
        yield made


@pytest.fixture()
def user(world: Exported) -> Iterator[Users]:
    """``user(uid, gid, gids=(), host=ROOT_HOST)``: somebody at the server; uid None: nobody."""
    clients: list[Nfs3Client] = []

    def make(
        uid: int | None = 0, gid: int = 0, gids: tuple[int, ...] = (), host: str = ROOT_HOST
    ) -> Nfs3Client:
        clients.append(Nfs3Client(world.address, uid=uid, gid=gid, gids=gids, source=host))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


@pytest.fixture()
def root(user: Users) -> Nfs3Client:
    return user()


@pytest.fixture()
def top(root: Nfs3Client) -> bytes:
    """The handle of a directory that is this test's, where everybody may write."""
    name = b"test-%d" % next(_directories)
    return root.mkdir(root.mount(b"/lab"), name, mode=0o777).handle


# --- for calls that are carried out in steps (test_nfs3_again_*.py)


@pytest.fixture()
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture()
def engine(monkeypatch: pytest.MonkeyPatch) -> EngineWrites:
    return EngineWrites(monkeypatch)


@pytest.fixture()
def file(root: Nfs3Client, top: bytes) -> File:
    return made(root, top, b"f")
