"""Phase diagrams, ours and as they are drawn by habit."""

import math
import time

import numpy as np
from scipy import integrate

import theory

from .timing import timed

TANH = theory.activation("tanh")


WEIGHTS, BIASES = np.linspace(0.5, 4.0, 64), np.linspace(1e-3, 0.5, 64)


def build(weight_variance, bias_variance):
    """One layer of a tanh network."""
    return theory.layer(TANH, weight_variance, bias_variance)


def by_quad(w, b):
    """q* and χ the usual way: iterate the length map, with adaptive quadrature at each step."""

    def expectation(fn):
        weight = np.sqrt(2 * np.pi)
        return integrate.quad(lambda z: fn(z) * np.exp(-z * z / 2) / weight, -10, 10)[0]

    q = 1.0
    for _ in range(500):
        new = w * expectation(lambda z, q=q: np.tanh(np.sqrt(q) * z) ** 2) + b
        done, q = abs(new - q) < 1e-10 * q, new
        if done:
            break
    chi = w * expectation(lambda z: np.cosh(np.sqrt(q) * z) ** -4.0)
    return q, chi


def by_dblquad(w, b, q):
    """c* the usual way: iterate the correlation map from c = 0, with `dblquad` at each step."""
    c = 0.0
    for _ in range(500):
        a, s = math.sqrt(q), math.sqrt(max(1 - c * c, 0.0))

        def term(y, x, a=a, s=s, c=c):
            density = math.exp(-(x * x + y * y) / 2) / (2 * math.pi)
            return math.tanh(a * x) * math.tanh(a * (c * x + s * y)) * density

        product = integrate.dblquad(term, -8, 8, -8, 8, epsabs=1e-9, epsrel=1e-9)[0]
        new = (w * product + b) / q
        done, c = abs(new - c) < 1e-8, min(new, 1.0)
        if done:
            break
    return c


def by_gauss_hermite(w, b, nodes=128, steps=8):
    """q* and χ on a whole grid with one fixed rule and Newton's method."""
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    q = np.ones_like(w)
    for _ in range(steps):
        root = np.sqrt(q)[..., None]
        f = np.tanh(root * z)
        slope = 1 - f**2
        value = w * (f**2 @ weight) + b - q
        rate = w * ((f * slope * z) @ weight) / root[..., 0] - 1
        q = np.maximum(q - value / rate, 1e-12)
    slope = 1 - np.tanh(np.sqrt(q)[..., None] * z) ** 2
    return q, w * (slope**2 @ weight)


def diagram_rows(points, map_points, repeats):
    """Rows (what, seconds, ratio to ours) for the diagram."""
    axes = {"weight_variance": WEIGHTS, "bias_variance": BIASES}
    start = time.perf_counter()
    theory.phase_diagram(build, axes)
    cold = time.perf_counter() - start
    warm, diagram = timed(lambda: theory.phase_diagram(build, axes), repeats)
    lengths = lambda: theory.phase_diagram(build, axes, correlations=False)
    lengths()
    short, _ = timed(lengths, repeats)
    w, b = np.meshgrid(WEIGHTS, BIASES, indexing="ij")

    chosen = np.random.default_rng(0).choice(w.size, points, replace=False)
    start = time.perf_counter()
    quad = np.array([by_quad(w.flat[i], b.flat[i]) for i in chosen])
    slow = (time.perf_counter() - start) * w.size / points
    mapped, seconds = [], []
    for i in chosen[:map_points]:
        start = time.perf_counter()
        mapped.append(by_dblquad(w.flat[i], b.flat[i], diagram["length"].values.flat[i]))
        seconds.append(time.perf_counter() - start)
    slow_map = float(np.mean(seconds)) * w.size
    fast, (q, chi) = timed(lambda: by_gauss_hermite(w, b), repeats)

    ours_q, ours_chi = diagram["length"].values, diagram["slope"].values
    error = lambda x, y: float(np.max(np.abs(x / y - 1)))
    print(
        f"largest relative error that our diagram reports: q* "
        f"{float((diagram['length_error'] / diagram['length']).max()):.1e}, c* "
        f"{float(diagram['correlation_error'].max()):.1e}"
    )
    print(
        f"against it: quad q* {error(quad[:, 0], ours_q.flat[chosen]):.1e}, χ "
        f"{error(quad[:, 1], ours_chi.flat[chosen]):.1e}; Gauss-Hermite q* "
        f"{error(q, ours_q):.1e}, χ {error(chi, ours_chi):.1e}"
    )
    ours_c = diagram["correlation"].values.flat[chosen[:map_points]]
    print(
        f"dblquad at {map_points} points: c* off by {np.max(np.abs(mapped - ours_c)):.1e}; "
        f"{min(seconds):.3g} to {max(seconds):.3g} s for a point"
    )
    return [
        ("our diagram, warm (q*, χ, c*, ξ, errors)", warm, 1.0),
        ("our diagram, first call with compilation", cold, cold / warm),
        ("our diagram without correlations: q*, χ, λ, ξ_q, errors", short, short / warm),
        (f"quad, q* and χ only (from {points} points)", slow, slow / warm),
        (
            f"the same with dblquad for c* (from {map_points})",
            slow + slow_map,
            (slow + slow_map) / warm,
        ),
        ("Gauss-Hermite 128, q* and χ only", fast, fast / warm),
    ]


def sector_seconds(repeats):
    """A 256×256 diagram by sector of O(4): first call, and warm."""
    phi = theory.radial("tanh")

    def build(weight_variance, bias_variance):
        return theory.layer(phi, weight_variance, bias_variance, components=4)

    axes = {
        "weight_variance": np.linspace(0.5, 4.0, 256),
        "bias_variance": np.linspace(0.0, 0.5, 256),
    }
    start = time.perf_counter()
    theory.sector_diagram(build, axes)
    cold = time.perf_counter() - start
    return cold, timed(lambda: theory.sector_diagram(build, axes), repeats)[0]
