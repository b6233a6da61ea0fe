"""Many VMs in one job: files first and durable, then domains, each VM as a whole or not at all.

A group's files are made, committed together, and its domains defined a few per call, so that a
thousand VMs need some commits and not a thousand, and can still be cancelled on the way; while the
hypervisor defines some, the next group's files are made.  What an error means is the user's choice:

- ``undo`` (the default): all or none; the job takes back what it has made;
- ``stop``: the VM that failed is undone, those made before it stay, the rest is not begun;
- ``continue``: the VM that failed is undone, and the next one has its turn.

When the hypervisor is lost nobody knows what became of the last domain: there a job never goes on.
If the domain cannot be taken back its files stay, and the VM is noted as registered.
"""

from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

from msgspec.structs import replace

from engine import Inode, Store, Volume, errors
from hypervisor.interface import Hypervisor
from hypervisor.machine_index import index_of
from hypervisor.machines import MARK, Directory
from hypervisor.pools import Presented
from service import hosts
from service.addresses import Context
from service.clone_spec import ON_ERROR
from service.jobs import REGISTERED, Made
from service.libvirt_calls import LibvirtCall, connected, kind_of, with_driver
from service.steps import TOLD_TO_STOP, Started, Steps, durable, insist
from service.undo import note, take_back
from service.work import Work

GROUP = 128  # VMs whose files one commit makes durable before they are defined
MAKE_STEP = 8
DEFINE_STEP = 16
Maker = Callable[[], Directory]
Outcome = Exception | None


class Batch:
    """One job's VMs.  ``uri``: where they are registered, or None.

    ``blocks_of_one``: what each refers to; None: its part of what the job has planned.
    ``known``: the VMs are there, and are only registered; domains that the hypervisor has already.
    """

    def __init__(
        self, context: Context, work: Work, uri: str | None, on_error: str, *,
        blocks_of_one: int | None = None, known: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        if on_error not in ON_ERROR:
            raise errors.InvalidArgument(f"on-error is one of {', '.join(ON_ERROR)}")
        self._context = context
        self._work = work
        self._uri = uri
        self._on_error = on_error
        self._planned_blocks = blocks_of_one
        self._known = known
        self._made: dict[tuple[int, int], Made] = {}  # and not registered yet
        self._stopped = False
        self._defining = True
        self._ahead: list[Directory] = []  # made, and not defined yet
        self._first_error: Exception | None = None
        self._checked: set[tuple[str, str]] = set()
        self.pools: dict[str, str] = {}  # what shows the VMs: wanted name -> name on the host

    @contextmanager
    def macs(self) -> Iterator["Macs"]:
        """MACs that are taken, one set for all jobs that run: each adds what its hypervisor has."""
        shared = self._context.running.setdefault("macs", Macs(self._context.store))
        assert isinstance(shared, Macs)
        shared.users += 1
        try:
            yield shared
        finally:
            shared.users -= 1
            if not shared.users:
                del self._context.running["macs"]

    def run(self, items: Iterable[tuple[str, Maker]]) -> Steps[list[Directory]]:
        """Make, and register, each (name, how it is made); those that are complete.

        Raises the first error when none is, and in the mode ``undo``.
        """
        if self._uri is None:
            done = yield from self._groups(iter(items), None)
        else:
            done = yield from connected(self._uri, partial(self._groups, iter(items)))
        if not done and self._first_error is not None:
            raise self._first_error
        return done

    def _groups(
        self, items: Iterator[tuple[str, Maker]], driver: Hypervisor | None
    ) -> Steps[list[Directory]]:
        done: list[Directory] = []
        if driver is None:
            while self._make_some(items):
                yield None
            return self._ahead
        while True:
            while len(self._ahead) < GROUP and self._make_some(items):
                yield None
            group, self._ahead = self._ahead, []
            if not group:
                break
            done += yield from self._define_group(driver, group, items)
        yield from self._refresh_pools(driver, done)
        return done

    def _failed(self, item: str, error: Exception) -> None:
        """Noted; raised again where all is to be undone."""
        self._work.failed(item, error)
        if self._on_error == "undo" or isinstance(error, errors.StoreFailed):
            try:
                raise error
            finally:
                del error  # no cycle of frames
        self._first_error = self._first_error or error.with_traceback(None)  # no cycle of frames
        self._stopped |= self._on_error == "stop" or isinstance(error, errors.PartlyDone)

    def _refused(self, item: str, error: Exception) -> None:
        """As above; where it ends the job, it ends the defining too: a failure in the making does
        not, what was made before it is registered."""
        self._failed(item, error)
        self._defining = not self._stopped

    # --- files

    def _make_some(self, items: Iterator[tuple[str, Maker]]) -> bool:
        """Make a few more; False when there are none."""
        if self._stopped:
            return False
        some = list(islice(items, MAKE_STEP))
        for item, make in some:
            try:
                each = make()
            except (errors.RametError, OSError) as error:
                self._failed(item, error)
                if self._stopped:
                    return False
                continue
            self._note_made(each)
            self._ahead.append(each)
        return bool(some)

    def _note_made(self, each: Directory) -> None:
        made = self._as_made(each)
        self._work.note(made)
        if self._uri is None:
            self._work.done(self._blocks_of_one())
        else:
            self._made[made.volume_id, made.ino] = made

    def _as_made(self, each: Directory) -> Made:
        name = each.path.rpartition("/")[2].encode(errors="surrogateescape")
        uuid = "" if self._uri is None else each.machine.uuid
        inode = each.inode
        made = Made(each.volume.id, inode.parent, inode.ino, inode.generation, name, uuid)
        if self._known is None:
            return made
        before = each.volume.get_mark(inode.ino, MARK) or b""
        return replace(
            made, uuid="" if uuid in self._known else uuid, kind=REGISTERED, before=before
        )

    def _blocks_of_one(self) -> int:
        if self._planned_blocks is not None:
            return self._planned_blocks
        return self._work.job.blocks_total // max(self._work.job.items_total, 1)

    # --- domains

    def _define_group(
        self, driver: Hypervisor, made: list[Directory], items: Iterator[tuple[str, Maker]]
    ) -> Steps[list[Directory]]:
        """Define what was made, and make the next ones while the hypervisor works."""
        assert self._uri is not None
        self._work.registers(self._uri)
        yield durable  # no domain without its files and its record, whatever happens next
        done: list[Directory] = []
        for at in range(0, len(made), DEFINE_STEP):
            part = made[at : at + DEFINE_STEP]
            if not self._defining:
                self._drop(part)
                continue
            part, texts = self._texts(part)
            yield from self._check_runs(driver, texts)
            define = partial(define_some, driver, texts, stop=self._on_error != "continue")
            outcomes = yield from self._meanwhile(define, items)
            good = [each for each, bad in zip(part, outcomes, strict=False) if bad is None]
            for each in good:
                note(each, self._uri)
                self._made.pop((each.volume.id, each.inode.ino), None)
                self._work.done(self._blocks_of_one())
            done += good
            yield from self._not_defined(part, outcomes)
        if not self._defining:
            self._drop(self._ahead)
            self._ahead = []
        return done

    def _meanwhile(
        self, define: Callable[[], list[Outcome]], items: Iterator[tuple[str, Maker]]
    ) -> Steps[list[Outcome]]:
        running = Started(define)
        try:
            for _ in range(DEFINE_STEP // MAKE_STEP):
                if len(self._ahead) >= GROUP or not self._make_some(items):
                    break
                yield None
            outcomes: list[Outcome] = yield LibvirtCall(running.result)
        except BaseException:
            yield from insist(LibvirtCall(running.wait))
            raise
        return outcomes

    def _texts(self, part: list[Directory]) -> tuple[list[Directory], list[str]]:
        """The XML of each; without those whose files somebody has spoiled, or exchanged."""
        good: list[Directory] = []
        texts: list[str] = []
        for each in part:
            try:
                texts.append(each.own_xml())
                good.append(each)
            except errors.RametError as error:
                self._refused(each.path, error)
                self._drop([each])
        return good, texts

    def _not_defined(self, part: list[Directory], outcomes: list[Outcome]) -> Steps[None]:
        """Undo the VMs whose domains were refused, and those that were not tried any more."""
        for each, error in zip(part, outcomes, strict=False):
            if error is None:
                continue
            self._refused(each.machine.name, error)
            if isinstance(error, errors.PartlyDone) and not (yield from self._undefined(each)):
                note(each, self._uri or "")
            else:
                self._drop([each])
        self._drop(part[len(outcomes) :])

    def _undefined(self, each: Directory) -> Steps[bool]:
        """Whether it is sure that the hypervisor does not have it."""
        uuids = [each.machine.uuid]
        try:
            yield with_driver(self._uri or "", lambda driver: driver.undefine_all(uuids))
        except TOLD_TO_STOP:
            raise
        except errors.RametError:
            return False
        return True

    def _drop(self, made: list[Directory]) -> None:
        """In one stretch: a VM has few files, and who wants us to stop is heard elsewhere."""
        for each in made:
            noted = self._made.pop((each.volume.id, each.inode.ino))
            deque(take_back(self._context, noted), maxlen=0)

    def _check_runs(self, driver: Hypervisor, texts: list[str]) -> Steps[None]:
        """Once for each kind of domain."""
        for text in texts:
            kind = kind_of(text)
            if kind not in self._checked:
                yield LibvirtCall(partial(driver.check_runs, text))
                self._checked.add(kind)

    def _refresh_pools(self, driver: Hypervisor, done: list[Directory]) -> Steps[None]:
        """Show them in directory pools."""
        pools = driver.pools(self._context.store.uuid)
        for pool in hosts.pools_of_vms(self._context, done, self._uri or ""):
            try:
                shown: Presented = yield LibvirtCall(partial(pools.show, pool))
                self.pools[pool.name] = shown.name
            except TOLD_TO_STOP:
                raise
            except errors.RametError as error:
                self._failed(f"storage pool {pool.name}", error)


class Macs(Container[str]):
    """The MACs that are taken: those of the store's VMs at any time, and those of hypervisors.

    ``users``: the jobs that look at it.
    """

    def __init__(self, store: Store, known: Iterable[str] = ()) -> None:
        self.users = 0
        self._known = set(known)
        self._stored = index_of(store).macs

    def add(self, known: Iterable[str]) -> None:
        """A hypervisor has these."""
        self._known.update(known)

    def __contains__(self, mac: object) -> bool:
        return mac in self._known or mac in self._stored


def define_some(driver: Hypervisor, texts: list[str], *, stop: bool) -> list[Outcome]:
    """Define domains one by one, each as a whole; what became of each that was tried.

    Ends after the first error if ``stop``, and when the hypervisor is lost.
    """
    outcomes: list[Outcome] = []
    for text in texts:
        try:
            driver.define_all([text])
        except errors.RametError as error:
            outcomes.append(error)
            if stop or isinstance(error, errors.PartlyDone):
                break
        else:
            outcomes.append(None)
    return outcomes


def tree_blocks(volume: Volume, top: Inode) -> int:
    """Blocks that the files below a directory map: what a clone of it refers to."""
    blocks, pending = 0, [top]
    while pending:
        inode = pending.pop()
        blocks += inode.blocks
        cookie = 0
        while inode.is_dir and (entries := volume.readdir(inode.ino, cookie)):
            cookie = entries[-1].cookie
            pending += [volume.inode(entry.ino) for entry in entries]
    return blocks
