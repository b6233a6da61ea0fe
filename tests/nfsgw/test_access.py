"""Who somebody is, after squashing."""

import pytest

from nfsgw.access import NO_ID, NOBODY, who_is
from nfsgw.exports import Right
from nfsgw.rpc import Credential


@pytest.mark.parametrize("right", list(Right))
def test_an_id_that_is_none_is_nobody(right: Right) -> None:
    """chown(2) takes it for `do not change`, and a kernel refuses what such a one owns."""
    who = who_is(Credential(NO_ID, NO_ID, (5, NO_ID)), right)
    assert (who.uid, who.gid, who.gids) == (NOBODY, NOBODY, {5, NOBODY})


def test_root_is_nobody_unless_trusted() -> None:
    root = Credential(0, 0, (0, 7))
    assert who_is(root, Right.WRITE)[:3] == (NOBODY, NOBODY, {NOBODY, 7})
    assert who_is(root, Right.ROOT)[:3] == (0, 0, {0, 7})
