"""How commands call a hypervisor: on a thread, by a connection, and never without end.

libvirt's calls have no timeout.  What has been silent for SILENT_S is given up (``deadline``): the
command goes on as if the hypervisor had gone away, and what it may have done all the same is in the
job's record or the VM's mark.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from hypervisor import domain
from hypervisor.connection import watched_by
from hypervisor.driver import connect
from hypervisor.interface import Hypervisor
from service.deadline import Tick, beside
from service.steps import HypervisorCall, Steps, insist

T = TypeVar("T")
SILENT_S = 60.0  # of one call of libvirt's: to start a domain on a loaded host takes its time


class LibvirtCall(HypervisorCall):
    """Work whose calls of libvirt each end, or RametError says that the hypervisor is silent."""

    def __call__(self) -> Any:
        result = beside({"": self._watched}, SILENT_S)[""]
        if isinstance(result, Exception):
            raise result
        return result

    def _watched(self, tick: Tick) -> Any:
        watched_by(tick)
        return self._call()


def with_driver(uri: str, work: Callable[[Hypervisor], T]) -> Callable[[], T]:
    """A call for a thread: connect, work, close."""

    def call() -> T:
        driver = connect(uri)
        try:
            return work(driver)
        finally:
            driver.close()

    return LibvirtCall(call)


def connected(uri: str, use: Callable[[Hypervisor], Steps[T]]) -> Steps[T]:
    """Steps that share one connection."""
    driver: Hypervisor = yield LibvirtCall(partial(connect, uri))
    try:
        return (yield from use(driver))
    finally:
        yield from insist(LibvirtCall(driver.close))


def kind_of(text: str) -> tuple[str, str]:
    """Type and architecture of a domain's XML: what a host may not be able to run."""
    root = domain.parse(text.encode())
    os_type = root.find("os/type")
    return root.get("type", ""), "" if os_type is None else os_type.get("arch", "")
