"""The short form of ``make churn``."""

from churn import churn


def test_nothing_grows_without_bound() -> None:
    samples, problems = churn(rounds=36, seed=1)
    assert problems == []
    assert len(samples) == 12
