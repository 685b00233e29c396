"""The exponent of generic perturbations at finite width."""

import numpy as np
import pytest

import theory
from theory import generic_exponent

TANH = theory.radial("tanh")


def simulated(k, gain, width, chains, steps=150, discard=50):
    """Mean and standard error, from the exact law of one unit given the sums over the last layer.

    Units are numbers over R, C or H: all that is known of a layer are the length q of the state,
    the overlap of the tangent with it, and none with the directions that the symmetry moves.
    What has mean zero by itself, innovations of growth and length, is taken out.
    """
    rng = np.random.default_rng([k, width])
    grid = np.linspace(0.02, 3.0, 600)
    tables = means(k, gain, grid)
    length_map, slope, tilt = (lambda q, t=t: np.interp(q, grid, t) for t in tables)
    q = 0.5
    for _ in range(200):
        q = length_map(q)
    rate = (length_map(q + 0.02) - length_map(q - 0.02)) / 0.04
    weight = np.log(slope(q + 0.02) / slope(q - 0.02)) / 0.04 / (1 - rate)

    q, along, total = np.full(chains, q), np.zeros(chains), np.zeros(chains)
    for step in range(steps):
        z, t = rng.standard_normal((2, chains, width, k))
        rho = along[:, None, None]
        t = rho * z + np.sqrt(1 - rho**2) * t
        z = np.sqrt(q)[:, None, None] * z
        r = np.linalg.norm(z, axis=2, keepdims=True)
        n, g = z / r, np.tanh(r)
        radial = np.sum(n * t, axis=2, keepdims=True) * n
        t = (1 - g**2) * radial + g / r * (t - radial)
        z = g * n
        mean = lambda x: gain**2 * np.mean(np.sum(x, axis=2), axis=1) / k
        after, all_growth, overlap = mean(z * z), mean(t * t), mean(z * t)
        # The units turned by i, or by i, j and k, on the right.
        grown = all_growth
        for turn in TURNS[k]:
            grown = grown - mean(t * (z @ turn.T)) ** 2 / after
        expected = slope(q) + along**2 * tilt(q)
        if step >= discard:
            total += np.log(grown) - (all_growth / expected - 1)
            total -= weight * (after - length_map(q))
        q, along = after, overlap / np.sqrt(after * grown)
    each = total / (2 * (steps - discard))
    return each.mean(), each.std(ddof=1) / np.sqrt(chains)


def means(k, gain, q):
    """The length map, χ and the growth's slope in ρ², by the midpoint rule over |z|/√q."""
    rho = (np.arange(3000) + 0.5) * 0.004
    density = rho ** (k - 1) * np.exp(-(rho**2) / 2)
    density /= density.sum()
    r = np.sqrt(q)[:, None] * rho
    g = np.tanh(r)
    a, b = 1 - g**2, g / r
    mean = lambda x: gain**2 / k * (x @ density)
    slope = mean(a**2 + (k - 1) * b**2)
    return mean(g**2), slope, mean(a**2 * rho**2) - slope


def right(i):
    """Multiplication of a quaternion by the unit i from the right, as a matrix."""
    a, b, c, d = np.eye(4)[i]
    return np.array([[a, -b, -c, -d], [b, a, d, -c], [c, -d, a, b], [d, c, -b, a]])


TURNS = {1: [], 2: [np.array([[0.0, -1.0], [1.0, 0.0]])], 4: [right(1), right(2), right(3)]}


@pytest.mark.parametrize("k, algebra", [(1, "real"), (2, "complex"), (4, "quaternion")])
def test_first_order_in_the_width(k, algebra):
    """Within the noise of the exact chain, which a coefficient that is 10 % off is not."""
    found = generic_exponent(TANH, 1.6**2, components=k, algebra=algebra)
    scaled = []
    for width in (64, 128):
        value, error = simulated(k, 1.6, width, chains={1: 2000, 2: 400, 4: 300}[k])
        scaled.append((width * (value - float(found.limit)), width * error))
    # Two widths take out the next order.
    coefficient = 2 * scaled[1][0] - scaled[0][0]
    error = np.hypot(2 * scaled[1][1], scaled[0][1])
    assert abs(coefficient - float(found.coefficient)) < 4 * error
    assert abs(coefficient - 1.1 * float(found.coefficient)) > 4 * error


def test_an_odd_function_is_radial_with_one_component():
    one = generic_exponent(theory.activation("tanh"), 2.0)
    two = generic_exponent(TANH, 2.0)
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_the_limit_is_half_log_chi():
    """χ by scipy's `quad` at the root of the length map that its `brentq` finds."""
    found = generic_exponent(TANH, 1.5**2)
    assert float(found.limit) == pytest.approx(0.5 * np.log(1.1393232249854865), rel=1e-9)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`components`: a unit must be one"):
        generic_exponent(TANH, 2.0, components=4)
    with pytest.raises(ValueError, match="`activation`: must be odd or radial"):
        generic_exponent(theory.activation("gelu"), 2.0)
