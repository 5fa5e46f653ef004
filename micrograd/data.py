"""Points to tell apart. The lecture's moons come out number for number, without numpy and scikit-learn."""
import math
from random import Random

def numpy_stream(seed):
    """A Random in the state of numpy.random.seed(seed): the same Mersenne twister, only started in another way."""
    state = [seed % 2**32]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) % 2**32)
    rng = Random()
    rng.setstate((3, (*state, 624), None))
    return rng

def shuffle(items, rng):
    """numpy's shuffle: random bits, as many as i has, drawn again until they are not above i."""
    for i in range(len(items) - 1, 0, -1):
        while (j := rng.getrandbits(32) & (1 << i.bit_length()) - 1) > i: pass
        items[i], items[j] = items[j], items[i]

def normals(rng):
    """numpy's Gaussians: two from every point that falls inside the unit circle."""
    while True:
        x, y = 2 * rng.random() - 1, 2 * rng.random() - 1
        if 0 < (r2 := x*x + y*y) < 1:
            yield from (math.sqrt(-2 * math.log(r2) / r2) * z for z in (y, x))

def moons(n=100, noise=0.1, seed=1337):
    """Rows (x, y, target -1 or 1): scikit-learn's make_moons(n, noise=noise) after numpy.random.seed(seed)."""
    rng, arc = numpy_stream(seed), [math.pi * i / (n//2 - 1) for i in range(n//2)]
    rows = [(math.cos(t), math.sin(t), -1.0) for t in arc] + [(1 - math.cos(t), 0.5 - math.sin(t), 1.0) for t in arc]
    shuffle(rows, rng)
    bell = normals(rng)
    return [(x + noise * next(bell), y + noise * next(bell), target) for x, y, target in rows]

def spiral(n=120, noise=0.1, seed=1337):
    """Rows (x, y, then 1.0 in the place of the right class, of three): arms that wind around each other."""
    bell, rows = normals(numpy_stream(seed)), []
    for i in range(n):
        r, turn = 0.1 + 0.9 * i / n, 3.6 * i / n + i % 3 * math.tau / 3 + noise * next(bell)
        rows.append((r * math.cos(turn), r * math.sin(turn), *(float(i % 3 == c) for c in range(3))))
    return rows
