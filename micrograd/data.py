"""
Points in the plane to classify: the lecture's two moons, and a spiral with three arms.

    from micrograd.data import moons, spiral

    moons()[0]   # x, y, and the class as -1.0 or 1.0
    spiral()[0]  # x, y, and the class one-hot: 1.0, 0.0, 0.0

The lecture draws its moons with scikit-learn and numpy. moons() gives the same numbers without
either, up to the last bits, so that the losses printed in the lecture's notebook can be compared
with ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

# -----------------------------------------------------------------------------
# numpy's random numbers
#
# numpy.random.seed and the random module of Python use the same generator, the Mersenne twister
# MT19937. Only the way from a seed to its first state differs, and what is made of its bits.


def seed_like_numpy(seed: int) -> random.Random:
    """A generator in the state that numpy.random.seed(seed) sets."""
    # the initialization from the paper on MT19937: 624 words of 32 bits
    words = [seed % 2**32]
    for i in range(1, 624):
        previous = words[-1]
        words.append((1812433253 * (previous ^ previous >> 30) + i) % 2**32)
    rng = random.Random()
    # version of the format; the words and the position among them (all used); no spare Gaussian
    rng.setstate((3, (*words, 624), None))
    return rng


def shuffle_like_numpy(items: list, rng: random.Random) -> None:
    """Shuffle a list in place, as numpy.random.shuffle does."""
    for i in reversed(range(1, len(items))):
        j = randint_like_numpy(i, rng)
        items[i], items[j] = items[j], items[i]


def randint_like_numpy(highest: int, rng: random.Random) -> int:
    """A random number from 0 to highest: as many bits as highest has, until it is not larger."""
    mask = 2 ** highest.bit_length() - 1
    number = rng.getrandbits(32) & mask
    while number > highest:
        number = rng.getrandbits(32) & mask
    return number


def normal_like_numpy(rng: random.Random) -> Iterator[float]:
    """Standard normal numbers without end, as numpy.random.normal draws them."""
    # The polar method of Marsaglia: a random point inside the unit circle gives two numbers.
    while True:
        x = 2 * rng.random() - 1
        y = 2 * rng.random() - 1
        r2 = x * x + y * y
        if 0 < r2 < 1:
            factor = math.sqrt(-2 * math.log(r2) / r2)
            yield factor * y
            yield factor * x


# -----------------------------------------------------------------------------
# data sets


def moons(n: int = 100, noise: float = 0.1, seed: int = 1337) -> list[tuple[float, ...]]:
    """Rows (x, y, -1.0 or 1.0): make_moons(n, noise=noise) after numpy.random.seed(seed)."""
    rng = seed_like_numpy(seed)
    n_upper = n // 2
    n_lower = n - n_upper
    rows = []
    for t in half_circle(n_upper):
        rows.append((math.cos(t), math.sin(t), -1.0))
    for t in half_circle(n_lower):
        rows.append((1 - math.cos(t), 0.5 - math.sin(t), 1.0))
    shuffle_like_numpy(rows, rng)
    normal = normal_like_numpy(rng)
    return [(x + noise * next(normal), y + noise * next(normal), target) for x, y, target in rows]


def half_circle(n: int) -> list[float]:
    """n angles at equal distances from 0 to pi; a single one is 0, as in numpy.linspace."""
    last = max(n - 1, 1)
    return [math.pi * i / last for i in range(n)]


def spiral(n: int = 120, noise: float = 0.1, seed: int = 1337) -> list[tuple[float, ...]]:
    """Rows (x, y, and the class one-hot): three arms that wind around each other."""
    normal = normal_like_numpy(seed_like_numpy(seed))
    rows = []
    for i in range(n):
        arm = i % 3
        radius = 0.1 + 0.9 * i / n
        angle = 3.6 * i / n + arm * math.tau / 3 + noise * next(normal)
        one_hot = [float(arm == c) for c in range(3)]
        rows.append((radius * math.cos(angle), radius * math.sin(angle), *one_hot))
    return rows
