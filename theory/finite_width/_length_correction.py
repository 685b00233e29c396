"""The first correction in 1/N to the length, and its fluctuations.

Notation: Q_l is the variance of the pre-activations of layer l given the previous layer, which
fluctuates between networks; q_l its limit; E Q_l = q_l + M_l/N and Var Q_l = V_l/N up to
O(1/N²); G(q) = E φ(√q ζ)². Weights that are not Gaussian give a pre-activation the fourth
cumulant C_l/N = κ σ_w⁴ E φ⁴/N, with κ the excess kurtosis of an entry (Edgeworth). This adds
C/(24 N) E (φ²)'''' = C G''(q)/(6 N) to E φ².
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from theory.description import (
    Affine,
    Componentwise,
    Part,
    Pointwise,
    Reading,
    along_depth,
    check_part,
    check_read_in,
    interpret,
)
from theory.gaussian import gaussian_expectation
from theory.numerics import (
    Array,
    Estimate,
    as_estimate,
    cast,
    check_length,
    check_order,
    check_positive,
    hasty_jit,
    needs_float64,
)


class LengthCorrection(eqx.Module):
    """The length of one input after every `Affine`, in networks of finite width."""

    length: Estimate
    """q_l, at infinite width."""
    correction: Estimate
    """M_l: the mean over networks is q_l + M_l/N."""
    variance: Estimate
    """V_l: given the previous layer, the length has mean Q_l, whose variance over networks is
    V_l/N. The measured mean square has variance (V_l + 2 q_l²)/N, since N units sample Q_l."""


class _State(eqx.Module):
    """Moments of the signal that an `Affine` acts on, values and errors.

    Its mean square is q + M/N, with variance V/N over networks. The last entry is the mean fourth
    power.
    """

    value: Float[Array, " 4"]
    error: Float[Array, " 4"]


class _PreActivation(_State):
    """The same for pre-activations: q, M, V and C."""

    @property
    def units(self) -> _State:
        """The signal for a further `Affine`: N Gaussian units sample their variance."""
        (q, m, v, _), (error, *others, _) = self.value, self.error
        value = jnp.stack([q, m, v + 2 * q**2, 3 * q**2])
        wrong = jnp.stack([error, others[0], others[1] + 4 * q * error, 6 * q * error])
        return _State(value, wrong)


class _FiniteWidth(Reading[_State]):
    order: int = eqx.field(static=True)

    def affine(self, node: Affine, state: _State):
        law = node.weights
        if not law.family.independent or law.components != 1:
            raise TypeError(
                "`network`: the correction is for independent weights between units of one "
                f"component; got {law.family.name} ones of {law.components}"
            )
        if isinstance(state, _PreActivation):
            state = state.units
        powers = law.variance ** jnp.array([1.0, 1.0, 2.0, 2.0])
        scale = powers * jnp.array([1.0, 1.0, 1.0, law.family.excess_kurtosis])
        bias = node.bias_variance * jnp.array([1.0, 0.0, 0.0, 0.0])
        rounding = 4 * jnp.finfo(scale.dtype).eps * scale * jnp.abs(state.value)
        state = _PreActivation(scale * state.value + bias, scale * state.error + rounding)
        return state, state

    def pointwise(self, node: Pointwise, state: _State):
        phi = node.activation
        if not isinstance(phi, Componentwise):
            raise TypeError(f"`network`: φ must act on one component; got {phi.name}")
        (q, m, v, c), errors = state.value, state.error
        wider = v + c / 3
        root = jnp.sqrt(jnp.where(q > 0, q, 1))

        def moments(z):
            # Derivatives of G by q are expectations with Hermite polynomials, valid at any kink.
            x, square = z / root, phi(z) ** 2
            two, four = x**2 - 1, x**4 - 6 * x**2 + 3
            return jnp.stack([square, square**2, square * two / 2, square * four / 4])

        found = gaussian_expectation(moments, q, kinks=phi.kinks, scale=phi.scale, order=self.order)
        power = root ** jnp.array([0.0, 0.0, -2.0, -4.0])
        g, fourth, first, second = found.value * power
        own = found.error * power
        mean = first * m + second * wider / 2
        value = jnp.stack([g, mean, fourth - g**2 + first**2 * v, fourth])
        error = jnp.stack(
            [
                own[0] + jnp.abs(first) * errors[0],
                jnp.abs(first) * errors[1]
                + jnp.abs(m) * own[2]
                + (jnp.abs(second) * (errors[2] + errors[3] / 3) + jnp.abs(wider) * own[3]) / 2,
                own[1] + 2 * g * own[0] + 2 * jnp.abs(first) * v * own[2] + first**2 * errors[2],
                own[1],
            ]
        )
        dead = q > 0
        return _State(jnp.where(dead, value, 0), jnp.where(dead, error, 0)), None

    def normalise(self, node: Any, state: _State):
        raise TypeError("`network`: the correction is for plain layers; got a Normalise")

    def noise(self, node: Any, state: _State):
        raise TypeError("`network`: the correction is for plain layers; got a Noise")

    def add(self, skip: _State, branch: _State):
        raise TypeError("`network`: the correction is for a chain of layers; got a Residual")

    def through_time(self, step, state: _State, steps: int):
        raise TypeError("`network`: the correction is for fresh weights; got a Recurrent")


def length_correction(
    network: Part, length: Any, *, order: int = 64, tolerance: Any = 1e-8
) -> LengthCorrection:
    """Mean and variance of the length in networks of width N, to first order in 1/N.

    From one layer to the next, with F = σ_w² G + σ_b²:

        V' = σ_w⁴ Var φ(z)² + F'(q)² V,     M' = F'(q) M + F''(q) (V + C/3)/2,

    C' = κ σ_w⁴ E φ(z)⁴, where κ is 0 for Gaussian weights and 3/p − 3 for sparse ones.

    Parameters
    ----------
    network
        Affine maps with Gaussian or sparse weights (Gaussian ones for the input) and
        nonlinearities, with one component per unit and all hidden layers of one width N.
    length
        The length of the input, |x|²/N_in, which does not fluctuate.
    order
        Nodes per panel of the quadrature.
    tolerance
        Relative error beyond which a number is INACCURATE.

    Returns
    -------
    LengthCorrection
        With a leading axis over the affine maps.

    Accuracy
    --------
    `error` bounds quadrature and rounding, to first order. It does not include the omitted terms,
    of order (depth/N)².

    Raises
    ------
    TypeError
        If the network has other parts.
    ValueError
        If the length is not one finite number of at least 0.

    References
    ----------
    Yaida 2020 (arXiv 1910.00019); Roberts, Yaida and Hanin 2022, chapter 4 (the four-point vertex
    V and the correction of the kernel). The term in C is derived here.
    """
    needs_float64("length_correction")
    check_part("network", network)
    check_read_in(network)
    check_length("length", length)
    check_order(order)
    check_positive("tolerance", tolerance)
    return _corrected(network, jnp.asarray(length, jnp.result_type(float)), order, tolerance)


@hasty_jit
def _corrected(network: Part, length: Array, order: int, tolerance: Any) -> LengthCorrection:
    start = length * jnp.array([1.0, 0.0, 0.0, 0.0])
    network = cast(network, start.dtype)
    _, notes = interpret(network, _FiniteWidth(order), _State(start, jnp.zeros(4)))
    found = along_depth(notes)
    parts = [
        as_estimate(
            found.value[:, i], found.error[:, i], tolerance, found.value[:, 0] ** (i // 2 + 1)
        )
        for i in range(3)
    ]
    return LengthCorrection(*parts)
