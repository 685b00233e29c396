"""What the symmetry protects in one network, forwards and backwards.

Forwards it is the identity J(x)·(Ax) = A f(x) for every generator A; backwards a conserved charge.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sigprop.networks import (
    Along,
    DrawnNetwork,
    Signals,
    outer_depth,
    singular_values,
    start_at,
)
from theory.description import interpret
from theory.mean_field import check_signals
from theory.numerics import (
    as_array,
    as_signals,
    cast,
    check_callable,
    check_kind,
    compiled,
    norm,
    one_program,
    plain_options,
)

_COPIES = 4
"""Number of evaluations, at inputs that differ by rounding."""
_NUDGE = 8.0
"""Their difference, in units of eps: about the rounding of the layers of a deep network."""
_SAFETY = 6.0
_FLOOR = 16.0
"""Smallest claim, in units of eps."""


class Certificate(eqx.Module):
    """The Goldstone identity of one function at one input, for each generator.

    Notation: f the function, J its Jacobian at x, A a generator that acts on every unit.
    """

    residual: Float[Array, " generators"]
    """|J(Ax) − A f(x)| / |A f(x)|: zero in exact arithmetic for an equivariant function."""
    claim: Float[Array, " generators"]
    """The residual that rounding alone explains, measured at inputs that differ by a few eps.
    Above 1 nothing can be claimed: the network amplifies its rounding errors too much."""
    holds: Bool[Array, " generators"]
    """residual <= claim."""
    gain: Float[Array, " generators"]
    """|J(Ax)|²/|Ax|²."""
    expected_gain: Float[Array, " generators"]
    """tr(AᵀAΣ_L)/tr(AᵀAΣ_0), with Σ the covariances of output and input units, times the ratio of
    widths: the gain of an equivariant function, independent of chaos and depth."""
    broken: Int[Array, ""]
    """Number of independent directions Ax: the Goldstone modes of this state."""


def certify(
    fn: Callable[[Float[Array, "n width k"]], Float[Array, "n width_out k"]],
    x: Float[Array, "1 width k"],
    generators: Float[Any, "generators k k"],
) -> Certificate:
    """Test one function for the identity that its symmetry implies.

    Parameters
    ----------
    fn
        Any function of inputs [n, width, k], such as a `DrawnNetwork`. Only forward derivatives
        are needed.
    x
        One input; its dtype is the precision that is tested.
    generators
        Antisymmetric matrices, as from `theory.phases.generators`.

    Accuracy
    --------
    `claim` is an estimate from four evaluations, not a bound. If a function violates the identity
    by more than rounding, all evaluations have the same residual, which is above the claim. If
    the claim is above 1 the test is inconclusive.

    References
    ----------
    Iqbal et al. 2026 (arXiv 2605.14685).
    """
    check_callable("fn", fn)
    x = as_signals("x", x)
    check_signals("x", x)
    return _certified(fn, x, _generators(generators, x))


@one_program(plain_options)
def _certified(fn: Callable, x: Array, a: Array) -> Certificate:
    dtype = x.dtype
    eps = float(jnp.finfo(dtype).eps)
    noise = jax.random.normal(jax.random.key(0), (_COPIES - 1, *x.shape), dtype)
    nudged = x[None] * (1 + _NUDGE * eps * noise)
    copies = jnp.concatenate([x[None], nudged])

    def rotated(generator: Array, z: Array) -> Array:
        return jnp.einsum("ij,nuj->nui", generator, z, precision="highest")

    def defect(x: Array, generator: Array) -> tuple[Array, Array, Array]:
        value, pushed = jax.jvp(fn, (x,), (rotated(generator, x),))
        expected = rotated(generator, value)
        return pushed - expected, pushed, expected

    each = jax.lax.map(lambda x: jax.lax.map(lambda g: defect(x, g), a), copies)
    defects, pushed, expected = (leaf.astype(jnp.result_type(float)) for leaf in each)
    end = _norm(expected[0])
    size = jnp.where(end > 0, end, 1.0)
    residual = _norm(defects[0]) / size
    centred = defects - jnp.mean(defects, axis=0, keepdims=True)
    spread = jnp.sqrt(jnp.sum((_norm(centred) / size[None]) ** 2, axis=0) / (_COPIES - 1))
    claim = _SAFETY * spread + _FLOOR * eps

    directions = jax.vmap(lambda g: rotated(g, x))(a).astype(jnp.result_type(float))
    start = _norm(directions)
    # If signals underflow nothing can be claimed.
    claim = jnp.where((end > 0) | (start == 0), claim, jnp.inf)
    start = jnp.where(start > 0, start, 1.0)
    values = singular_values(directions.reshape(len(a), -1))
    broken = jnp.sum(values > values[0] * eps * np.sqrt(x.size)) if len(a) else jnp.asarray(0)
    return Certificate(
        residual,
        claim,
        residual <= claim,
        (_norm(pushed[0]) / start) ** 2,
        (end / start) ** 2,
        broken,
    )


class _Rotated(Along[Signals]):
    """A finite network whose units are rotated by Σ θ_A A at every boundary, θ = 0."""

    angles: Float[Array, "*depth generators"]
    generators: Float[Array, "*depth generators k k"]

    def layers(self, depth: int) -> "_Rotated":
        if self.angles.ndim != 2:
            raise ValueError("`drawn`: charges need a network with one level of `Repeat`")
        return super().layers(depth)

    def at_boundary(self, state: Signals) -> Signals:
        rotation = jnp.einsum("g,gij->ij", self.angles, self.generators, precision="highest")
        rotated = jnp.einsum("ij,nuj->nui", rotation, state.values, precision="highest")
        return state.moved(state.values + rotated, state.tangents)

    def through_time(self, step, state: Signals, steps: int):
        raise TypeError(
            "`drawn`: charges are for layers with their own weights, not for a Recurrent"
        )


def backward_charges(
    drawn: DrawnNetwork,
    x: Float[Array, "1 width_in k"],
    gradient: Float[Array, "1 width_out k"],
    generators: Float[Any, "generators k k"],
) -> Float[Array, "depth generators"]:
    """The charges Q_A(l) = Σ_units ⟨∂loss/∂z_l, A z_l⟩ after every layer l of a `Repeat`.

    An equivariant network conserves them: every layer has the charge of the last one,
    Σ ⟨gradient, A z_L⟩.

    Parameters
    ----------
    drawn
        One network, with one level of `Repeat`.
    x
        Its input; the dtype is the precision of the calculation.
    gradient
        ∂loss/∂z_L at the output.
    generators
        Antisymmetric matrices, as from `theory.phases.generators`.

    Accuracy
    --------
    Rounding relative to |∂loss/∂z_l| |A z_l|, which chaos makes large backwards while the charge
    stays constant.

    References
    ----------
    Noether's argument: Q_A is the derivative of the loss with respect to a rotation of all units
    of layer l, which an equivariant network carries to its output. Iqbal et al. 2026
    (arXiv 2605.14685).
    """
    check_kind("drawn", drawn, DrawnNetwork, "a sigprop.networks.DrawnNetwork")
    x = as_signals("x", x)
    check_signals("x", x)
    gradient = as_array("gradient", gradient, "[inputs, width_out, components]")
    last = jax.eval_shape(drawn, x).shape
    if gradient.shape != last:
        raise ValueError(
            f"`gradient`: must have the shape {list(last)} of the last layer; "
            f"got {list(gradient.shape)}"
        )
    gradient = gradient.astype(x.dtype)
    return _charges(drawn, x, gradient, _generators(generators, x))


@compiled
def _charges(drawn: DrawnNetwork, x: Array, gradient: Array, a: Array) -> Array:
    network = cast(drawn.network, x.dtype)
    depth = outer_depth(network)
    at_every_layer = jnp.broadcast_to(a, (depth, *a.shape))

    def loss(angles):
        reading = _Rotated(drawn.reading, angles, at_every_layer)
        final, _ = interpret(network, reading, start_at(x))
        return jnp.sum(gradient * final.values)

    return jax.grad(loss)(jnp.zeros((depth, len(a)), x.dtype))


def _norm(signals: Float[Array, "*batch n width k"]) -> Float[Array, "*batch"]:
    return norm(signals, (-3, -2, -1))


def _generators(generators: Any, x: Array) -> Float[Array, "generators k k"]:
    a = as_array("generators", generators, "[generators, k, k]")
    k = x.shape[-1]
    if a.shape[1:] != (k, k):
        raise ValueError(
            f"`generators`: must be {k}x{k} matrices, one axis over generators; got shape "
            f"{list(a.shape)}"
        )
    return a.astype(x.dtype)
