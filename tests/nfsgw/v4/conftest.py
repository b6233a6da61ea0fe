"""A store a module, volumes of its own a test, a client without a network."""

from collections.abc import Iterator

import pytest
from nfs4_direct import Client, Gateway, gateway


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("nfs4") / "store") as made:
        yield made


@pytest.fixture
def gate(hall: Gateway) -> Iterator[Gateway]:
    with hall.volumes("lab", "other") as made:
        yield made


@pytest.fixture
def client(gate: Gateway) -> Client:
    return Client(gate)
