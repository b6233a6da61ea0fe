"""The table from errors to nfsstat3."""

import errno

from engine import errors
from nfsgw.access import AccessDenied
from nfsgw.handles import BadHandle
from nfsgw.nfs3.protocol import STATUS, Failed, Status, status_of

# No procedure of version 3 meets these: they belong to jobs, stores and half-done batches.
ELSEWHERE = {errors.Cancelled, errors.NoSuchStore, errors.PartlyDone, errors.StoreInUse}


def test_each_error_of_the_engine_has_its_status() -> None:
    every = {
        each for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.RametError)
    } - {errors.RametError}  # fmt: skip
    assert every - ELSEWHERE | {AccessDenied, BadHandle} == set(STATUS)


def test_what_was_not_foreseen_is_an_io_error() -> None:
    assert status_of(OSError(errno.EIO, "gone")) == Status.IO
    assert status_of(errors.Cancelled("x")) == Status.IO
    assert status_of(MemoryError()) == Status.SERVERFAULT
    assert status_of(Failed(Status.TOOSMALL)) == Status.TOOSMALL
