"""What a rescan tells when much has changed: everything is counted, not everything is listed."""

from hypervisor.pools import StorageVolume
from service.rescan import LISTED_MAX, _limit, _row, _volume


def test_an_answer_is_cut_to_what_can_be_sent() -> None:
    many = [_volume(f"v{n}", StorageVolume(n, n)) for n in range(LISTED_MAX)]
    hosts = [
        {"pools": [_row("a", "dir", "/a", "new", new=many[:-10]),
                   _row("b", "dir", "/b", "same", new=many[:3], gone=["x"] * 20)]},
        {"pools": [_row("c", "dir", "/c", "same", changed=many[:5])]},
    ]  # fmt: skip
    assert _limit(hosts) == 13 + 5
    listed = [len(p[key]) for h in hosts for p in h["pools"] for key in ("new", "changed", "gone")]
    assert listed == [LISTED_MAX - 10, 0, 0, 3, 0, 7, 0, 0, 0]
    assert hosts[0]["pools"][1]["counts"] == {"new": 3, "changed": 0, "gone": 20}
