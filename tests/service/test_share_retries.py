"""What cannot be presented is tried again, for as long as it takes."""

from service.share_plan import RETRY_S_MAX, pause_s


def test_pauses_grow_and_have_an_end() -> None:
    pauses = [pause_s(failures) for failures in range(1, 12)]
    assert pauses == sorted(pauses)
    assert pauses[0] < RETRY_S_MAX == pauses[-1]


def test_weeks_of_failures_are_no_error() -> None:
    assert {pause_s(failures) for failures in (100, 1023, 1024, 10**9)} == {RETRY_S_MAX}
