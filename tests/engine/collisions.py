"""Pairs of different 4 KiB blocks with equal XXH3-64 (and XXH3-128) under any seed.

How: a long input is hashed in stripes of 64 bytes, eight words of 8 bytes each. Until the next
scramble, 16 stripes later, all that a word ``d`` in lane ``i`` of a stripe does is

    acc[i]     += low32(d ^ key) * high32(d ^ key)
    acc[i ^ 1] += d

with a key from the secret, which is the seed added to and taken from known constants. Take the
words of one lane in two stripes of one such kilobyte, and give each the low half of its key: both
products are zero, whatever the high halves are, and the sums see only ``x + y``. Now add any
number to the high half of one word and take it from the other's: other bytes, the same sums, so the
same accumulators and the same hash at every width. Nothing is searched for.

The last stripe of the input has another key and is left alone. Source: xxHash's ``xxhash.h``,
``XXH3_accumulate_512_scalar``, ``XXH3_initCustomSecret_scalar``.
"""

import random
import struct

BLOCK = 4096
STRIPE = 64
STRIPES = 16  # of one kilobyte, between two scrambles
_WORD = 1 << 64
_HALF = 1 << 32
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def _keys(seed: int) -> list[int]:
    """The secret of a seed, in words: the one of stripe ``s``, lane ``i`` is number ``s + i``."""
    words = struct.unpack("<24Q", _SECRET)
    return [(w - seed if n % 2 else w + seed) % _WORD for n, w in enumerate(words)]


def pair(seed: int, rng: random.Random) -> tuple[bytes, bytes]:
    """Two blocks that differ in two words of one kilobyte and have one hash."""
    keys = _keys(seed)
    lane, part = rng.randrange(8), rng.randrange(4)
    first, second = rng.sample(range(STRIPES - (part == 3)), 2)
    one = bytearray(rng.randbytes(BLOCK))
    two = bytearray(one)
    high, other = rng.randrange(_HALF), rng.randrange(_HALF)
    moved = rng.randrange(1, _HALF)
    for block, x, y in ((one, high, other), (two, high + moved, other - moved)):
        for stripe, half in ((first, x), (second, y)):
            at = part * STRIPES * STRIPE + stripe * STRIPE + lane * 8
            word = half % _HALF << 32 | keys[stripe + lane] % _HALF
            struct.pack_into("<Q", block, at, word)
    return bytes(one), bytes(two)


def pairs(seed: int, count: int) -> list[tuple[bytes, bytes]]:
    """``count`` pairs, always the same ones for a seed."""
    rng = random.Random(seed)
    return [pair(seed, rng) for _ in range(count)]
