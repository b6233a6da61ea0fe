"""The port mapper, asked by our own client and by rpcinfo."""

import socket
import struct
from collections.abc import Iterator

import pytest
from rpc_client import RpcClient, RpcError, call_record, results
from rpc_server import Hosted, hosting

from nfsgw.portmap import (
    PORT,
    PROGRAM,
    TCP,
    UDP,
    VERSION,
    Mapping,
    Portmap,
    Procedure,
    serve_datagrams,
)
from nfsgw.server import listening

NFS, MOUNT = 100_003, 100_005
MAPPINGS = [Mapping(NFS, 3, TCP, 2049), Mapping(NFS, 4, TCP, 2050), Mapping(MOUNT, 3, TCP, 2051)]


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    with hosting([Portmap(MAPPINGS)]) as made:
        yield made


@pytest.fixture
def client(hosted: Hosted) -> Iterator[RpcClient]:
    with RpcClient(hosted.address, uid=None) as made:
        yield made


def question(program: int, version: int, protocol: int) -> bytes:
    return struct.pack(">4I", program, version, protocol, 0)


@pytest.mark.parametrize(
    ("asked", "port"),
    [
        ((NFS, 3, TCP), 2049), ((NFS, 4, TCP), 2050), ((MOUNT, 3, TCP), 2051),
        ((MOUNT, 1, TCP), 2051), ((NFS, 3, UDP), 0), ((100_021, 4, TCP), 0),
        ((PROGRAM, 2, TCP), PORT), ((PROGRAM, 2, UDP), PORT),
    ],
)  # fmt: skip
def test_where_programs_are(client: RpcClient, asked: tuple[int, int, int], port: int) -> None:
    assert client.call(PROGRAM, VERSION, Procedure.GETPORT, question(*asked)).u32() == port


def test_all_programs(client: RpcClient) -> None:
    found, told = [], client.call(PROGRAM, VERSION, Procedure.DUMP)
    while told.boolean():
        found.append(Mapping(told.u32(), told.u32(), told.u32(), told.u32()))
    assert found[2:] == MAPPINGS
    assert told.left == 0


def test_nobody_registers_or_calls_through_it(client: RpcClient) -> None:
    for procedure in (Procedure.SET, Procedure.UNSET):
        told = client.call(PROGRAM, VERSION, procedure, question(NFS, 3, TCP))
        assert not told.boolean()
    with pytest.raises(RpcError) as caught:
        client.call(PROGRAM, VERSION, Procedure.CALLIT, question(NFS, 3, 0))
    assert (caught.value.kind, caught.value.status) == ("accepted", 3)


def test_newer_port_mappers_are_told_the_version(client: RpcClient) -> None:
    with pytest.raises(RpcError) as caught:
        client.call(PROGRAM, 4, 0)
    assert caught.value.detail == (2, 2)


def test_datagrams(hosted: Hosted) -> None:
    bound = listening("127.0.0.1", 0, socket.SOCK_DGRAM)
    port = bound.getsockname()[1]
    hosted.start(serve_datagrams, bound, hosted.server.dispatcher)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(30)
        asking.sendto(b"nonsense", ("127.0.0.1", port))
        asking.sendto(b"", ("127.0.0.1", port))
        record = call_record(5, PROGRAM, VERSION, Procedure.GETPORT, question(NFS, 3, TCP))
        asking.sendto(record, ("127.0.0.1", port))
        assert results(asking.recv(1000), 5).u32() == 2049
