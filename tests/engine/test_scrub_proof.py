"""The short form of `make scrub-proof`: see scrub_proof.py."""

from scrub_proof import KINDS, run


def test_every_injected_block_is_found_named_refused_and_healed() -> None:
    figures = run(200, seed=7)
    assert figures["found"] == sum(figures["injected"].values()) >= 190
    assert all(figures["injected"][kind] > 40 for kind in KINDS)
    assert figures["healed"] >= figures["found"] - 1
