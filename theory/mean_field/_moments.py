"""Second moments of n inputs in a network, and the observables computed from them.

The theory propagates these moments through the description; a finite network measures the same
moments over its units. Every observable is therefore written once, here, as a function of
`Moments`, and applies to both.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.numerics import (
    Array,
    as_real,
    exponent,
    largest_exponent,
    of_one_kind,
    put,
    shown,
    times_power,
    xp,
)


class Moments(eqx.Module):
    """Moments over the units of one layer, for n inputs and units of k real components.

    Convention: u_a is the vector of a unit's k components for input a; E averages over units.
    """

    covariance: Float[Array, "*batch n n k k"]
    """E u_a u_bᵀ."""
    separation: Float[Array, "*batch n n k k"]
    """E (u_a − u_b)(u_a − u_b)ᵀ / 2, kept alongside the covariance because it has full relative
    accuracy in 1 − c, which the covariance loses."""
    tangent: Float[Array, "*batch n n k k"]
    """E t_a t_bᵀ. Perturb every input by the same small vector, orthogonal to all inputs; t_a is
    the resulting perturbation at input a, divided by its scale:
    exp((log_gain_a + log_gain_b)/2) is factored out of this matrix. The diagonal measures the
    slope χ, the other entries the slope of the correlation map."""
    log_gain: Float[Array, "*batch n"]
    """log of the scale of E|t_a|²/k that was factored out of `tangent` at layer boundaries."""

    @property
    def whole_tangent(self) -> Float[Array, "*batch n n k k"]:
        """`tangent` with its scale.

        Slopes must be read from this: after a `Repeat`, `tangent` alone has lost its size.
        """
        return self.tangent * self._scale

    @property
    def _scale(self) -> Float[Array, "*batch n n 1 1"]:
        log = (self.log_gain[..., :, None] + self.log_gain[..., None, :]) / 2
        return xp.exp(log)[..., None, None]

    def whole_tangent_error(self, error: "Moments") -> Float[Array, "*batch n n k k"]:
        """The error of `whole_tangent`, from the errors of these moments."""
        doubt = (error.log_gain[..., :, None] + error.log_gain[..., None, :]) / 2
        doubt = xp.expm1(doubt)[..., None, None]
        return self._scale * (error.tangent + doubt * (xp.abs(self.tangent) + error.tangent))


class PreActivation(eqx.Module):
    """Centred Gaussian moments, as after an `Affine`."""

    value: Moments
    error: Moments


class PostActivation(eqx.Module):
    """Moments that need not be Gaussian, with the mean: after a nonlinearity, and of inputs."""

    value: Moments
    error: Moments
    mean: Float[Array, "n k"]


def check_moments(moments: Any) -> None:
    """Raise a `TypeError` unless they are moments."""
    hint = " (pass its `.value`)" if isinstance(moments, PreActivation | PostActivation) else ""
    if not isinstance(moments, Moments):
        raise TypeError(
            "`moments`: must be Moments, as from theory.given_moments or theory.propagate "
            f"(`.value`); got {shown(moments)}{hint}"
        )


def gram_matrix(a: Float[Array, "n width k"]) -> Float[Array, "n n k k"]:
    """E u_a u_bᵀ over the units of a layer, safe for inputs of any scale."""
    power = largest_exponent(a, (1, 2))
    unit = times_power(a, -power)
    product = xp.einsum("aui,buj->abij", unit, unit, precision="highest") / a.shape[1]
    power = power[..., None]
    return times_power(product, power + xp.swapaxes(power, 0, 1))


def check_signals(name: str, signals: Array) -> None:
    """Raise a `ValueError` that names the field unless it has shape [inputs, width, components]."""
    if signals.ndim != 3:
        raise ValueError(
            f"`{name}`: must have the shape [inputs, width, components], the last 1 for real "
            f"units; got {list(signals.shape)}"
        )


def check_finite(name: str, signals: Array) -> None:
    """Raise a `ValueError` that names the field unless all entries are finite, or traced."""
    if not isinstance(signals, Tracer) and not np.all(np.isfinite(signals)):
        raise ValueError(f"`{name}`: must be finite; got an infinite or undefined entry")


def signal_moments(signals: Float[Array, "n width k"]) -> Moments:
    """Compute the covariance and separation of given signals, with isotropic unit tangents.

    Parameters
    ----------
    signals
        Shape [inputs, width, components].
    """
    signals = as_real("signals", signals)
    check_signals("signals", signals)
    n, _, k = signals.shape
    # Upper triangle only: in wide layers every difference is a pass over memory.
    rows, columns = np.triu_indices(n, 1)
    difference = signals[rows] - signals[columns]
    power = largest_exponent(difference, (1, 2))
    unit = times_power(difference, -power)
    square = xp.einsum("pui,puj->pij", unit, unit, precision="highest")
    square = times_power(square / (2 * signals.shape[1]), 2 * power)
    separation = np.zeros((n, n, k, k), signals.dtype)
    separation = put(put(separation, (rows, columns), square), (columns, rows), square)
    tangent, log_gain = _isotropic(n, k, signals.dtype), xp.zeros(n, signals.dtype)
    return of_one_kind(Moments(gram_matrix(signals), separation, tangent, log_gain))


def given_moments(
    covariance: Float[Array, "n n k k"], separation: Float[Array, "n n k k"] | None = None
) -> Moments:
    """Build moments from a given covariance, with isotropic unit tangents.

    Parameters
    ----------
    covariance
        E u_a u_bᵀ, shape [inputs, inputs, components, components].
    separation
        E (u_a − u_b)(u_a − u_b)ᵀ / 2, of the same shape. Pass it if 1 − c is known more accurately
        than the covariance can represent; it follows from the covariance by default.

    Raises
    ------
    ValueError
        If an argument does not contain real numbers, or has another shape.
    """
    covariance = _as_table("covariance", covariance)
    n, _, k, _ = covariance.shape
    apart: Any = separation if separation is None else _as_table("separation", separation)
    if apart is None:
        own = xp.einsum("aaij->aij", covariance)
        cross = covariance + xp.swapaxes(covariance, -1, -2)
        apart = (own[:, None] + own[None] - cross) / 2
    tangent, log_gain = _isotropic(n, k, covariance.dtype), xp.zeros(n, covariance.dtype)
    return of_one_kind(Moments(covariance, apart, tangent, log_gain))


def _as_table(name: str, value: Any) -> Array:
    array: Any = as_real(name, value)
    shape = array.shape
    if len(shape) != 4 or shape[0] != shape[1] or shape[2] != shape[3]:
        raise ValueError(
            f"`{name}`: must have the shape [inputs, inputs, components, components]; got "
            f"{list(shape)}"
        )
    return array.astype(jnp.result_type(float)) if array.dtype.kind in "iu" else array


def _isotropic(n: int, k: int, dtype: Any) -> Float[Array, "n n k k"]:
    return xp.broadcast_to(xp.eye(k, dtype=dtype), (n, n, k, k))


def per_component(matrix: Float[Array, "*batch k k"]) -> Float[Array, "*batch"]:
    """tr(·)/k."""
    return xp.trace(matrix, axis1=-2, axis2=-1) / matrix.shape[-1]


def length(moments: Moments) -> Float[Array, "*batch n"]:
    """The lengths q_a = E|u_a|²/k.

    Parameters
    ----------
    moments
        Moments of any number of layers or networks.
    """
    check_moments(moments)
    return xp.diagonal(per_component(moments.covariance), axis1=-2, axis2=-1)


def overlap(moments: Moments) -> Float[Array, "*batch n n"]:
    """The overlaps q^{ab} = E u_a·u_b/k.

    Parameters
    ----------
    moments
        As in `length`.
    """
    check_moments(moments)
    return per_component(moments.covariance)


def distance(moments: Moments) -> Float[Array, "*batch n n"]:
    """The distances E|u_a − u_b|²/(2k).

    Parameters
    ----------
    moments
        As in `length`.
    """
    check_moments(moments)
    return per_component(moments.separation)


def correlation(moments: Moments) -> Float[Array, "*batch n n"]:
    """The correlations c_ab = E u_a·u_b / √(E|u_a|² E|u_b|²); NaN where a length is zero.

    Convention: average moments over networks first. The mean of a ratio is not the ratio of the
    means.

    Parameters
    ----------
    moments
        As in `length`.
    """
    check_moments(moments)
    q = length(moments)
    half = exponent(q) // 2
    unit = times_power(q, -2 * half)
    size = xp.sqrt(unit[..., :, None] * unit[..., None, :])
    top = times_power(overlap(moments), -half[..., :, None] - half[..., None, :])
    return top / xp.where(size > 0, size, xp.nan)


def participation_ratio(moments: Moments) -> Float[Array, "*batch"]:
    """The participation ratio (tr C)²/(n tr C²) of the overlaps C of n inputs.

    It is the fraction of the n directions that the inputs fill: 1/n if all inputs coincide, 1 if
    they are orthogonal and of equal length. For two inputs of equal length it is 1/(1 + c²). NaN
    if all lengths are zero.

    Convention: average moments over networks first, as for `correlation`.

    Parameters
    ----------
    moments
        As in `length`.
    """
    check_moments(moments)
    q = length(moments)
    power = -largest_exponent(q, -1)
    unit = times_power(q, power)
    square = times_power(overlap(moments), power[..., None]) ** 2
    size = q.shape[-1] * xp.sum(square, axis=(-2, -1))
    return xp.sum(unit, axis=-1) ** 2 / xp.where(size > 0, size, xp.nan)


def log_tangent(moments: Moments) -> Float[Array, "*batch n"]:
    """log of the mean square of the tangent per real component, from the input to here."""
    size = xp.diagonal(per_component(moments.tangent), axis1=-2, axis2=-1)
    return moments.log_gain + xp.log(size)


def growth(moments: Moments) -> Float[Array, "layers n"]:
    """The factor per layer of the squared tangent.

    Convention: its limit at the fixed point is the slope χ.

    Parameters
    ----------
    moments
        Moments with a leading depth axis.
    """
    check_moments(moments)
    log = log_tangent(moments)
    # After a jump of φ all of them are infinite.
    return xp.where(xp.isposinf(log[1:]), xp.inf, xp.exp(log[1:] - log[:-1]))
