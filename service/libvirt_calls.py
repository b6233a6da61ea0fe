"""How commands call a hypervisor: on a thread, by a connection."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from hypervisor import domain
from hypervisor.driver import connect
from hypervisor.interface import Hypervisor
from service.steps import HypervisorCall, Steps, insist

T = TypeVar("T")


def with_driver(uri: str, work: Callable[[Hypervisor], T]) -> Callable[[], T]:
    """A call for a thread: connect, work, close."""

    def call() -> T:
        driver = connect(uri)
        try:
            return work(driver)
        finally:
            driver.close()

    return HypervisorCall(call)


def connected(uri: str, use: Callable[[Hypervisor], Steps[T]]) -> Steps[T]:
    """Steps that share one connection."""
    driver: Hypervisor = yield HypervisorCall(partial(connect, uri))
    try:
        return (yield from use(driver))
    finally:
        yield from insist(driver.close)


def kind_of(text: str) -> tuple[str, str]:
    """Type and architecture of a domain's XML: what a host may not be able to run."""
    root = domain.parse(text.encode())
    os_type = root.find("os/type")
    return root.get("type", ""), "" if os_type is None else os_type.get("arch", "")
