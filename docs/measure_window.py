"""Measure where chaos sets in at finite width, without JAX: an oracle for the prediction.

    python docs/measure_window.py [--depth 6000] [--seeds 4]

One tangent is followed through networks of radial tanh units, and its components along the
rotations A z of the state are removed at every layer. Its mean log growth is the largest exponent
of unprotected directions. The gain where it is zero is interpolated for every seed.
Writes docs/data/finite_width_window.json.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

GROUPS = {"dense": (1, "real"), "U(1)": (2, "complex"), "O(4)": (4, "real")}
GAINS = {
    "dense": np.array([1.03, 1.06, 1.1, 1.15, 1.22, 1.32, 1.5, 1.8, 2.4, 3.2]),
    "U(1)": np.array([1.03, 1.05, 1.1, 1.16, 1.24, 1.35, 1.5, 1.75, 2.1, 2.8]),
    "O(4)": np.array([1.03, 1.06, 1.1, 1.15, 1.2, 1.35, 1.5, 1.7, 1.9, 2.2, 2.6, 3.4]),
}
SIZES = {
    "dense": [8, 16, 32, 64, 128, 256],
    "U(1)": [8, 16, 32, 64, 128, 256, 512],
    "O(4)": [8, 16, 32, 64, 128, 256, 512, 1024],
}
"""Real numbers in a layer: up to 256 units."""
CASCADE = np.array([1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.43, 1.6, 1.9])


def generators(k: int, algebra: str) -> np.ndarray:
    """What commutes with the weights: all rotations, or the multiplication by i."""
    if k == 1:
        return np.zeros((0, 1, 1))
    if algebra == "complex":
        return np.array([[[0.0, -1.0], [1.0, 0.0]]])
    rows, columns = np.triu_indices(k, 1)
    found = np.zeros((len(rows), k, k))
    found[np.arange(len(rows)), rows, columns] = -1
    found[np.arange(len(rows)), columns, rows] = 1
    return found


def weights(rng: np.random.Generator, units: int, k: int, algebra: str) -> np.ndarray:
    """A matrix of unit gain on the [units · k] numbers of a layer, or on its units if real."""
    if algebra == "real":
        return rng.standard_normal((units, units)) / np.sqrt(units)
    real, imaginary = rng.standard_normal((2, units, units)) / np.sqrt(2 * units)
    blocks = np.stack([real, -imaginary, imaginary, real], axis=-1)
    return blocks.reshape(units, units, 2, 2).transpose(0, 2, 1, 3).reshape(2 * units, -1)


def follow(group: str, size: int, gains: np.ndarray, depth: int, seed: int):
    """Exponents for every gain, and the eigenvalues of the states' covariances."""
    k, algebra = GROUPS[group]
    units, a, rng = size // k, generators(k, algebra), np.random.default_rng([seed, size, k])
    z = np.repeat(rng.standard_normal((1, units, k)), len(gains), axis=0)
    t = np.repeat(rng.standard_normal((1, units, k)), len(gains), axis=0)
    discard, total = depth // 10, np.zeros(len(gains))
    shape = (len(gains), units, k)
    for layer in range(depth):
        r = np.sqrt(np.sum(z**2, axis=2, keepdims=True)) + 1e-300
        g, n = np.tanh(r), z / r
        along = np.sum(n * t, axis=2, keepdims=True) * n
        t = (1 - g**2) * along + g / r * (t - along)
        both = np.stack([g * n, t], axis=1) * gains[:, None, None, None]
        w = weights(rng, units, k, algebra)
        if algebra == "real":
            both = np.einsum("oi,gcik->gcok", w, both, optimize=True)
        else:
            both = (both.reshape(len(gains), 2, -1) @ w.T).reshape(len(gains), 2, units, k)
        z, t = both[:, 0].copy(), both[:, 1].copy()
        if len(a):
            rotated = np.einsum("apq,guq->gaup", a, z).reshape(len(gains), len(a), -1)
            values, vectors = np.linalg.eigh(rotated @ rotated.transpose(0, 2, 1))
            there = values > 1e-12 * values[:, -1:]
            scale = np.where(there, 1 / np.sqrt(np.where(there, values, 1)), 0)
            frame = np.einsum("gab,gax,gb->gbx", vectors, rotated, scale)
            flat = t.reshape(len(gains), -1)
            for _ in range(2):
                flat = flat - np.einsum("gbx,gb->gx", frame, np.einsum("gbx,gx->gb", frame, flat))
            t = flat.reshape(shape)
        size_t = np.sqrt(np.sum(t**2, axis=(1, 2), keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            t /= size_t
            if layer >= discard:
                total += np.log(size_t[:, 0, 0])
    covariance = np.einsum("gup,guq->gpq", z, z) / units
    return total / (depth - discard), np.linalg.eigvalsh(covariance)[:, ::-1]


def crossing(gains: np.ndarray, values: np.ndarray) -> float:
    """The gain behind which the exponent stays positive, by linear interpolation."""
    below = np.flatnonzero(values < 0)
    if not len(below) or below[-1] == len(gains) - 1:
        return float("nan")
    i = below[-1]
    return float(gains[i] - values[i] * (gains[i + 1] - gains[i]) / (values[i + 1] - values[i]))


def finite(values, digits: int) -> list[float | None]:
    """Rounded; None where few units have left nothing but the orbit, or the state died out."""
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--depth", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args(argv)
    start, rows = time.process_time(), []
    for group, gains in GAINS.items():
        for size in SIZES[group]:
            found = np.array(
                [follow(group, size, gains, options.depth, s)[0] for s in range(options.seeds)]
            )
            edges = [crossing(gains, row) for row in found]
            rows.append(
                {
                    "group": group,
                    "numbers": size,
                    "gains": gains.tolist(),
                    "exponent": finite(found.mean(0), 6),
                    "standard_error": finite(found.std(0, ddof=1) / np.sqrt(len(found)), 6),
                    "edges": finite(edges, 4),
                }
            )
            print(
                group, size, np.round(edges, 3), f"{time.process_time() - start:.0f} s", flush=True
            )
    cascade = [follow("O(4)", 64, CASCADE, options.depth, s)[1] for s in range(options.seeds)]
    content = {
        "command": "python docs/measure_window.py",
        "depth": options.depth,
        "seeds": options.seeds,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "processor_seconds": round(time.process_time() - start),
        "windows": rows,
        "cascade": {
            "gains": CASCADE.tolist(),
            "eigenvalues": [[[float(f"{v:.3g}") for v in row] for row in one] for one in cascade],
        },
    }
    path = Path(__file__).parent / "data/finite_width_window.json"
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
