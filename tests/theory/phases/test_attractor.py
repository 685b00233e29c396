"""Where lengths go: far, near critical, round and round; and the derivatives of all that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.compiling import hastily
from tests.tolerances import FOLD, SOLUTION
from theory import Phase, Status
from theory.description import directly
from theory.phases._attractor import attractor
from theory.phases._prediction import at_length, phase_of


@directly
def at(body):
    """The length side of `predict`."""
    reached = attractor(body)
    return at_length(reached, 1e-10), phase_of(reached, np.asarray(True), 1e-10)


def lengths(build, points):
    each = [at(build(*point)) for point in zip(*points, strict=True)]
    return jax.tree.map(lambda *parts: np.array(parts), *each)


def at_points(phi, points, **keywords):
    build = lambda w, b: theory.layer(phi, w, b, **keywords)
    return lengths(build, np.array(points, float).T)


def within(estimate, i, truth):
    """Whether the error holds, and is finite."""
    return abs(estimate.value[i] - truth) <= estimate.error[i] < np.inf


def test_relu_far_out_and_near_critical():
    """q* = σ_b²/(1 − σ_w²/2), and λ = χ = σ_w²/2."""
    near = [(2 - 1e-6, 1), (2 - 1e-12, 1), (2 - 1e-12, 0), (2 - 1e-15, 0), (2 - 1e-15, 0.1)]
    found, phase = at_points(theory.activation("relu"), [(1, 1e6), *near, (2, 0), (2, 0.1)])
    q, scale = found["length"], found["depth_scale_length"]
    for i, (w, b) in enumerate([(1, 1e6), *near[:3]]):
        gap = 1 - w / 2  # exact
        assert within(q, i, b / gap)
        assert within(scale, i, -1 / np.log1p(-gap))
    assert q.status[0] == Status.OK
    assert 1e-3 < scale.error[3] / scale.value[3] < 0.1
    # λ is known to 5e-15 only: 0 is a guess, and whether there is an end, too.
    assert q.value[4] == 0
    assert np.all(np.isinf(q.error[4:6]))
    assert np.all(q.status[4:6] == Status.INACCURATE)
    # Without rounding there is no doubt.
    assert (q.value[6], q.error[6], q.status[6]) == (1, 0, Status.OK)
    assert q.status[7] == Status.INFINITE
    assert list(phase[-3:]) == [Phase.DIVERGENT, Phase.CRITICAL, Phase.DIVERGENT]


def test_critical_erf_is_cut_off_nowhere():
    """σ_w² = (1 + ε)π/4 without bias: q* = ε/2 to first order, though λ − 1 is in its noise."""
    w = np.pi / 4
    found, phase = at_points(theory.activation("erf"), [(w * (1 + 1e-12), 0), (w, 0), (0.7, 0)])
    assert within(found["length"], 0, (w * (1 + 1e-12) / w - 1) / 2)
    assert found["length"].error[0] < 1e-14
    assert abs(found["length"].value[1]) <= found["length"].error[1] < 1e-13
    assert found["depth_scale_length"].status[1] == Status.INFINITE
    assert list(phase) == [Phase.CRITICAL, Phase.CRITICAL, Phase.ORDERED]


def test_a_quadrature_that_fails_is_no_critical_point():
    """q* = 1.3 and χ = 900 in closed form; 64 nodes cannot follow 34 radians per deviation."""
    steep = theory.componentwise(lambda z: jnp.sin(30 * z), scale=1 / 30, parity="odd")
    found, phase = at_points(steep, [(2, 0.3)])
    assert phase[0] == Phase.UNKNOWN
    assert found["slope"].status[0] != Status.OK
    assert abs(found["length"].value[0] - 1.3) <= found["length"].error[0]


BUMP = theory.radial(lambda r: r * jnp.exp(-(r**2)))


def test_unstable_points_are_not_passed_off_as_attractors():
    """q' = σ_w² q (1 + 4q)⁻⁵: a point, a cycle of two, and no order at all."""
    found, phase = at_points(BUMP, [(10, 0), (20, 0), (100, 0)], components=8)
    assert within(found["length"], 0, (10**0.2 - 1) / 4)
    assert list(phase) == [Phase.CHAOTIC, Phase.UNSETTLED, Phase.UNSETTLED]
    for name in ("length", "slope", "multiplier"):
        assert np.all(found[name].status[1:] == Status.NOT_CONVERGED)


def test_cycles_in_closed_form():
    at = hastily(
        jax.vmap(lambda w: theory.phases.length_cycle(theory.layer(BUMP, w, 0.0, components=8)))
    )
    weights = np.array([10.0, 20.0, 100.0])
    cycle = at(jnp.asarray(weights))
    assert list(cycle.period) == [1, 2, 0]
    for i, w in enumerate(weights[:2]):
        q = [1.0]
        for _ in range(3000):
            q.append(w * q[-1] * (1 + 4 * q[-1]) ** -5)
        ring = np.roll(q[-2:], -int(np.argmin(q[-2:])))[: i + 1]
        assert np.all(
            np.abs(cycle.length.value[i, : i + 1] - ring) <= cycle.length.error[i, : i + 1]
        )
        assert np.all(cycle.length.status[i, i + 1 :] == Status.ABSENT)
        rates = w * (1 + 4 * ring) ** -6 * (1 - 16 * ring)
        assert within(cycle.multiplier, i, np.prod(rates))
    # χ = w E(g'² + 7 (g/r)²)/8, with r² = q ρ², ρ² ~ χ²_8 and g' = (1 − 2r²) e^(−r²)
    t = 1 + 4 * ring
    slopes = 20 * (t**-4 - 4 * ring * t**-5 + 40 * ring**2 * t**-6)
    assert within(cycle.growth, 1, np.sqrt(np.prod(slopes)))
    assert cycle.growth.value[1] == pytest.approx(2.0, abs=5e-3)  # within: two digits
    assert np.all(cycle.length.status[2, 0] == Status.NOT_CONVERGED)


def test_a_residual_tanh_at_infinity():
    """χ = 1 + σ_w² E φ'² → 1, and the error holds what is left."""
    build = lambda w, b: theory.Residual(theory.layer(theory.activation("tanh"), w, b))
    found, phase = lengths(build, (jnp.array([1.0]), jnp.array([0.05])))
    assert phase[0] == Phase.DIVERGENT
    assert found["length"].status[0] == Status.INFINITE
    assert within(found["slope"], 0, 1.0)
    assert found["slope"].error[0] < 1e-5


def test_derivatives_in_the_symmetric_phase_and_at_infinity():
    """erf (.7, 0): λ = χ = 4 σ_w²/π and ∂q*/∂σ_b² = 1/(1 − λ); relu (2.5, .1): χ = σ_w²/2."""

    def numbers(name):
        def at(w, b):
            body = theory.layer(theory.activation(name), w, b)
            found = at_length(attractor(body), 1e-10)
            order = ("length", "slope", "multiplier", "depth_scale_length")
            return jnp.stack([found[name].value for name in order])

        return hastily(jax.jacfwd(at, (0, 1)))

    by_w, by_b = numbers("erf")(0.7, 0.0)
    rate = 0.7 * 4 / np.pi
    scale = 1.2732395447351628 / (rate * np.log(rate) ** 2)
    np.testing.assert_allclose(
        by_w, [0, 1.27323954474, 1.27323954474, scale], rtol=SOLUTION, atol=1e-25
    )
    # Those of χ and λ by mpmath, through q*.
    np.testing.assert_allclose(by_b[:3], [9.19689759, -16.39379, -32.78758], rtol=2e-6)
    by_w, _ = numbers("relu")(2.5, 0.1)
    np.testing.assert_allclose(by_w[1:3], [0.5, 0.5], rtol=FOLD)
