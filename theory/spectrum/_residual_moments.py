"""Moments of the Jacobian of residual layers that begin with a nonlinearity.

Notation: J_l = 1 + W_l D_l, with χ = σ_w² E D_l² at the length of layer l; G = J Jᵀ up to a given
layer; ⟨·⟩ the normalised trace. D_l and D_m are slopes of the same units, whose pre-activations
z_m = z_l + (the output of the layers in between) are correlated: the layers are not free of each
other, and m_2 depends on E D_l² D_m².
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.description import (
    Affine,
    Chain,
    Componentwise,
    Part,
    Pointwise,
    Residual,
    check_no_jump,
    interpret,
)
from theory.gaussian import epsilon, gaussian_expectation, gaussian_pair_expectation
from theory.mean_field import MeanField, PreActivation, given_moments, per_component
from theory.numerics import (
    Array,
    as_estimate,
    cast,
    check_count,
    check_positive,
    compiled,
    needs_float64,
)
from theory.spectrum._jacobian_moments import SpectrumMoments


def residual_moments(
    layer: Part, length: Any, depth: int, *, tolerance: float = 1e-8
) -> SpectrumMoments:
    """Compute m_1 and m_2/m_1² of JJᵀ for `depth` layers z ↦ z + W φ(z) + b.

    m_1 = Π_l (1 + χ_l); m_2 follows from a recursion for ⟨f G h G⟩ with functions f and h of the
    units.

    Parameters
    ----------
    layer
        `theory.layer(φ, ..., residual=True)`, with units of one component.
    length
        Length q_0 > 0 of the pre-activations that enter.
    depth
        Number of layers, at least 1.
    tolerance
        Relative error of the ratio, and absolute error of log m_1, beyond which they are
        INACCURATE.

    Raises
    ------
    TypeError
        If the layer has another form.
    ValueError
        If the depth or the length is out of range.

    Notes
    -----
    If the layers were free of each other, E D_l² D_m² would be E D_l² E D_m². For six tanh layers
    with σ_w² = 1 and q_0 = 1, m_2/m_1² would then be 4.12 instead of 4.54.
    """
    needs_float64("residual_moments")
    layer = cast(layer, jnp.result_type(float))
    check_count("depth", depth)
    check_positive("length", length)
    check_positive("tolerance", tolerance)
    match layer:
        case Residual(branch=Chain(parts=(Pointwise(activation=Componentwise()), Affine()))):
            pass
        case _:
            raise TypeError(
                "`layer`: must be theory.layer(..., residual=True) with units of one component"
            )
    return _moments(layer, jnp.asarray(length, jnp.result_type(float)), depth, tolerance)


@compiled
def _moments(layer: Any, length: Array, depth: int, tolerance: float) -> SpectrumMoments:
    first, last = layer.branch.parts
    phi, law = first.activation, last.weights
    check_no_jump(phi)

    def step(state, _):
        q = per_component(state.value.covariance[0, 0])
        error = per_component(state.error.covariance[0, 0])
        return interpret(layer, MeanField(), state)[0], (q, error)

    moments = given_moments(length.reshape(1, 1, 1, 1))
    state = PreActivation(moments, jax.tree.map(jnp.zeros_like, moments))
    _, (q, q_error) = jax.lax.scan(step, state, None, length=depth)

    def square(z):
        return phi.with_slope(z)[1] ** 2

    how: dict[str, Any] = {"kinks": phi.kinks, "scale": phi.scale}
    mean = jax.lax.map(lambda q: gaussian_expectation(square, q, **how), q)
    fourth = jax.lax.map(lambda q: gaussian_expectation(lambda z: square(z) ** 2, q, **how), q)
    row, column = np.triu_indices(depth, 1)
    product = lambda u, v: square(u) * square(v)

    def pair(places):
        a, b = places
        return gaussian_pair_expectation(product, a, b, jnp.sqrt(jnp.minimum(a / b, 1.0)), **how)

    pairs = jax.lax.map(pair, (q[row], q[column]))
    slack = 1 + 5 * jnp.max(q_error / q) + 64 * depth * epsilon(q)

    def table(own, other):
        both = jnp.zeros((depth, depth), q.dtype).at[row, column].set(other)
        return both + both.T + jnp.diag(own)

    one = _recursion(mean.value, table(fourth.value, pairs.value), law)
    wrong = table(fourth.value + fourth.error, pairs.value + pairs.error) * slack**2
    other = _recursion((mean.value + mean.error) * slack, wrong, law)
    log, ratio = (jnp.abs(b - a) + 32 * depth * epsilon(a) for a, b in zip(one, other, strict=True))
    return SpectrumMoments(
        as_estimate(one[0], log, tolerance, jnp.ones_like(log)),
        as_estimate(
            jnp.stack([jnp.ones_like(log), one[1]]),
            jnp.stack([epsilon(q) * jnp.ones_like(log), ratio * (1 + one[1])]),
            tolerance,
        ),
    )


def _recursion(mean: Float[Array, " depth"], table: Float[Array, "depth depth"], law: Any):
    """Compute log m_1 and m_2/m_1².

    After any layer ⟨h G f G⟩/⟨G⟩² = ⟨fh⟩ + Σ_l b_l (⟨f⟩⟨h D_l²⟩ + ⟨h⟩⟨f D_l²⟩) + e ⟨f⟩⟨h⟩.
    """
    depth = len(mean)
    variance = law.variance

    def step(state, place):
        b, e, log = state
        chi = variance * mean[place]
        # ⟨D² G D² G⟩ and Σ b ⟨D² D_l²⟩
        linear = jnp.sum(b * table[place])
        whole = table[place, place] + 2 * mean[place] * linear + e * mean[place] ** 2
        # X = W D G D Wᵀ is free of the units: ⟨X²⟩ − ⟨X⟩².
        # Independent entries add ⟨D G D⟩² to the second moment, as in the Marchenko–Pastur law.
        own = whole if law.family.independent else whole - mean[place] ** 2
        spread = variance**2 * own
        e = e + 2 * variance * (linear + e * mean[place]) + spread
        b = (b * (1 + chi)).at[place].set(variance)
        grown = (1 + chi) ** 2
        return (b / grown, e / grown, log + jnp.log1p(chi)), None

    start = (jnp.zeros_like(mean), jnp.zeros_like(mean[0]), jnp.zeros_like(mean[0]))
    (b, e, log), _ = jax.lax.scan(step, start, jnp.arange(depth))
    return log, 1 + 2 * jnp.sum(b * mean) + e
