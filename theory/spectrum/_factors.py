"""The random factors of an input-output Jacobian, read from the description.

Notation: J = ∏ W_l D_l with D_l the derivative of the l-th nonlinearity, a diagonal matrix of
slopes; m = M(λ) = Σ_k m_k/λ^k the moment function of JJᵀ and S its S-transform. At infinite
width the factors are free of each other, so all that matters of D is the law of D² over the
units, and all that matters of W its variance and whether its entries are independent or it is
orthogonal.

A residual branch that begins with fresh weights makes the factor 1 + a, with a = W' D W free of
all others; so it is one more layer, with an S-transform of its own (`_skip`). A branch
that begins with a nonlinearity has slopes D_l of the sum itself, the same units in all layers:
these factors are not free of each other.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.description import (
    Affine,
    Componentwise,
    Normalise,
    Part,
    Pointwise,
    Reading,
    Residual,
    Stacked,
    check_part,
    components,
    interpret,
    is_linear,
    is_simple,
    on_numpy,
)
from theory.gaussian import Resolution
from theory.mean_field import (
    MeanField,
    PostActivation,
    PreActivation,
    depth_of,
    given_moments,
    log_tangent,
    per_component,
)
from theory.numerics import (
    Array,
    as_number,
    cast,
    check_kind,
    check_length,
    check_order,
    compiled,
    each,
    hasty_options,
    inside_another,
    needs_float64,
    shown,
    xp,
)
from theory.spectrum._slopes import SlopeLaw, slope_law


class _Weights(eqx.Module):
    """Note of an affine layer."""

    log_variance: Float[Array, ""]
    independent: Float[Array, ""]
    """1 where the entries are, else 0."""


class _Scale(_Weights):
    """Note of what multiplies the whole layer by one number: like weights, but not fresh."""


class _Slopes(eqx.Module):
    """Note of a nonlinearity: the law of D², and the same by another rule at a length that is
    wrong by its error.
    """

    law: SlopeLaw
    check: SlopeLaw
    constant: bool = eqx.field(static=True)
    """D is the same for all units."""


class _Skip(eqx.Module):
    """Note of a sum."""

    one: Float[Array, ""]


class _Factors(Reading[Any]):
    """Mean-field lengths of one input, and what each leaf contributes to its Jacobian."""

    order: int = eqx.field(static=True)

    def affine(self, node: Affine, state: PreActivation | PostActivation):
        if node.width is not None:
            raise ValueError(
                "`network`: the spectrum is that of square layers; an Affine has the fixed "
                f"width {node.width}"
            )
        after, _ = MeanField().affine(node, state)
        variance = node.weights.variance
        independent = float(node.weights.family.independent)
        return after, _Weights(xp.log(variance), xp.full_like(variance, independent))

    def pointwise(self, node: Pointwise, state: PreActivation | PostActivation):
        after, _ = MeanField().pointwise(node, state)
        k = state.value.covariance.shape[-1]
        q = per_component(state.value.covariance[0, 0])
        error = per_component(state.error.covariance[0, 0])
        law = slope_law(node.activation, q, k, Resolution(self.order))
        # No node in common with the first rule, and shorter tails.
        other = Resolution(7 * self.order // 8, 2.6, 8.5)
        check = slope_law(node.activation, q + error, k, other, check=True)
        constant = isinstance(node.activation, Componentwise) and is_linear(node.activation)
        return after, _Slopes(law, check, constant)

    def normalise(self, node: Normalise, state: PreActivation | PostActivation):
        """1/σ, but for the one or two directions of the layer that it takes out."""
        after, _ = MeanField().normalise(node, state)
        shrunk = (log_tangent(after.value) - log_tangent(state.value))[0]
        return after, _Scale(shrunk, xp.zeros_like(shrunk))

    def noise(self, node: Any, state: Any):
        raise TypeError("`network`: the spectrum is that of layers without noise; got a Noise")

    def add(self, skip: Any, branch: Any):
        after, _ = MeanField().add(skip, branch)
        return after, _Skip(xp.ones((), jnp.result_type(float)))

    def through_time(self, step: Any, state: Any, steps: int):
        raise TypeError(
            "`network`: the Jacobian spectrum is that of a chain of layers, a product of free "
            "matrices; those of a Recurrent are one and the same, which is not predicted"
        )

    def boundary(self, state: PreActivation | PostActivation):
        return MeanField().boundary(state)

    def kept(self, before: Any, after: Any):
        return MeanField().kept(before, after)


SAFETY = 5.0
"""Errors are this many times the difference between the two rules."""


class JacobianFactors(eqx.Module):
    """What the spectrum of a Jacobian at infinite width depends on.

    Made by `jacobian_factors`. Leading axes over sweeps come from `jax.vmap`.
    """

    log_variance: Float[Array, "*batch"]
    """Σ log σ_w² over the weight matrices."""
    independent: Float[Array, "*batch"]
    """The number of weight matrices with independent entries, whose law does not matter beyond
    the variance; the others are orthogonal."""
    count: Float[Array, "*batch laws"]
    """How many layers have each law of D²."""
    law: SlopeLaw
    """The different laws, shape [laws, nodes]."""
    check: SlopeLaw
    """The same by another rule, and at lengths that are wrong by their error."""

    def repeated(self, depth: Any) -> "JacobianFactors":
        """The factors of `depth` such networks in a row, all at the same lengths.

        `depth` may be traced and is the way to sweep over depths: one layer at its fixed point,
        repeated.
        """
        times = as_number("depth", depth, "whole and at least 0")
        if not isinstance(times, Tracer) and not (0 <= times < np.inf and times == np.floor(times)):
            raise ValueError(
                f"`depth`: must be finite and at least 0, a whole number; got {shown(depth)}"
            )
        depth = xp.asarray(depth, self.count.dtype)
        return JacobianFactors(
            self.log_variance * depth,
            self.independent * depth,
            self.count * depth,
            self.law,
            self.check,
        )


def check_factors(factors: Any) -> None:
    """Raise a `TypeError` unless they are the factors of a Jacobian."""
    check_kind("factors", factors, JacobianFactors, "made by theory.jacobian_factors")


def work(factors: JacobianFactors, *points: Any) -> int:
    """How many numbers one look at the laws takes, at each of some points."""
    return math.prod((factors.law.square.size, *map(np.size, points)))


def mass_unresolved(factors: JacobianFactors) -> Float[Array, ""]:
    """Quantiles below this fraction are bounded from above at most."""
    law = factors.law
    return xp.max(law.mass_at_zero) + xp.sum(factors.count * law.mass_below)


def checked(factors: JacobianFactors) -> JacobianFactors:
    """The same, by the other rule."""
    return eqx.tree_at(lambda f: f.law, factors, factors.check)


def by_both(fn: Callable[[JacobianFactors], Any], factors: JacobianFactors) -> tuple[Any, Any]:
    """A function of the factors by one rule and by the other, compiled once."""
    nodes = max(factors.law.square.shape[-1], factors.check.square.shape[-1])
    laws = (factors.law.padded(nodes), factors.check.padded(nodes))
    stacked = jax.tree.map(lambda *tables: xp.stack(tables), *laws)
    found = each(lambda law: fn(eqx.tree_at(lambda f: f.law, factors, law)), stacked)
    one, other = (jax.tree.map(lambda a, i=i: a[i], found) for i in range(2))
    return one, other


def jacobian_factors(network: Part, length: Any, *, order: int = 128) -> JacobianFactors:
    """Read from a description what the spectrum of its Jacobian depends on.

    Convention: `network` may be any chain of Affine, Pointwise, Normalise, Repeat and Residual.
    Every leaf is one factor: `feedforward(φ, ..., depth=L)` is J = W_L D_L ⋯ W_1 D_1 W_0, with L
    nonlinearities and L + 1 weight matrices; `repeat(layer(φ, ...), L)` is W_L D_L ⋯ W_1 D_1,
    with L of each. All layers are square. A Residual is one factor 1 + a. Its branch holds at
    most one nonlinearity, behind fresh weights: z ↦ z + W' φ(W z).

    Parameters
    ----------
    network
        The description.
    length
        Per component, of what goes in: the input of a network that begins with an Affine,
        the pre-activations (at the fixed point: q*) of one that begins with a nonlinearity.
        Later lengths follow from mean-field theory.
    order
        Nodes per panel of the quadrature over the units. Shallow networks and orthogonal
        weights resolve the law of D² more finely, and need more.

    Raises
    ------
    TypeError
        If a residual branch begins with a nonlinearity (its slopes are those of the sum, whose
        units remember all layers before, and the factors are not free: see
        `residual_moments`), holds two of them, or another branch.
    ValueError
        If the length is negative or a layer has a width of its own; if `order` is not from 8
        to 1024.

    Notes
    -----
    Layers of the same length are joined, where lengths are known numbers and not traced.

    References
    ----------
    Voiculescu (1987), multiplication of certain non-commuting random variables, theorem 2.6.
    Pennington, Schoenholz and Ganguli (2017), arXiv 1711.04735, eqs. 12-16.
    """
    needs_float64("jacobian_factors")
    check_part("network", network)
    check_length("length", length)
    check_order(order)
    length = jnp.asarray(length, jnp.result_type(float))
    if inside_another((network, length)):
        return _joined_factors(_read(network, length, order))
    if is_simple(network, lengths=False) and depth_of(network) <= _FEW:
        read = lambda network, length: _joined_factors(_read(network, length, order))
        return on_numpy(read, network, length)
    return _joined_factors(compiled(_read, hasty_options)(network, length, order))


_FEW = 200
"""Layers up to which no program is compiled for them."""


def _joined_factors(notes: Any) -> JacobianFactors:
    # Factors that are free of each other commute as far as the spectrum goes: the notes of
    # equal layers need not be kept in order.
    weights, slopes, branches = _sorted_notes(notes)
    zero: Any = xp.zeros((), jnp.result_type(float))
    log_variance: Any = sum((xp.sum(note.log_variance) for note in weights), zero)
    independent: Any = sum((xp.sum(note.independent) for note in weights), zero)
    law, check = _joined([(note.law, note.check) for note in slopes], branches)
    count = xp.full(law.square.shape[0], 1.0, zero.dtype)
    if not any(isinstance(table, Tracer) for table in jax.tree.leaves(law)):
        first, numbers = _distinct(law)
        count = xp.asarray(numbers, zero.dtype)
        law, check = jax.tree.map(lambda table: table[first], (law, check))
    return JacobianFactors(log_variance, independent, count, law, check)


def _sorted_notes(notes: Any) -> tuple[list[_Weights], list[_Slopes], list[tuple]]:
    """Weights and slopes of layers without skip connection, and the pairs of laws (by both
    rules) of those with one.
    """
    weights: list[_Weights] = []
    slopes: list[_Slopes] = []
    branches: list[tuple[SlopeLaw, SlopeLaw]] = []

    def walk(notes):
        match notes:
            case _Weights():
                weights.append(notes)
            case _Slopes():
                slopes.append(notes)
            case Stacked():
                walk(notes.notes)
            case (branch, _Skip()):
                branches.append(_branch_laws(branch))
            case _:
                for note in notes:
                    walk(note)

    walk(notes)
    return weights, slopes, branches


def _branch_laws(notes: Any) -> tuple[SlopeLaw, SlopeLaw]:
    """The laws of a layer 1 + a, by both rules, from the notes of its branch."""
    is_note = lambda note: isinstance(note, _Weights | _Slopes | _Skip | Stacked)
    found = jax.tree.leaves(notes, is_leaf=is_note)
    weights = [note for note in found if isinstance(note, _Weights)]
    constant = [note for note in found if isinstance(note, _Slopes) and note.constant]
    slopes = [note for note in found if isinstance(note, _Slopes) and not note.constant]
    if any(isinstance(note, _Skip | Stacked) for note in found) or len(slopes) > 1:
        raise TypeError(
            "`network`: a residual branch may hold one nonlinearity, no other branch and no "
            "Repeat, where the spectrum is to be predicted"
        )
    fresh = [isinstance(note, _Weights) and not isinstance(note, _Scale) for note in found]
    if any(note is slope for note in found[: fresh.index(True)] for slope in slopes):
        raise TypeError(
            "`network`: residual branches that begin with a nonlinearity are not free of each "
            "other, and their spectrum is not predicted; branches that begin with an Affine are"
        )
    one = xp.ones((*weights[0].independent.shape, 1), weights[0].independent.dtype)
    linear = SlopeLaw(one, one)
    pair = (slopes[0].law, slopes[0].check) if slopes else (linear, linear)
    variance = xp.exp(sum((note.log_variance for note in weights), xp.zeros(())))
    variance = math.prod((note.law.square[..., 0] for note in constant), start=variance)
    independent = sum((note.independent for note in weights), xp.zeros(()))
    # A branch that does nothing is one that does next to nothing.
    scaled = lambda law: xp.maximum(law.square * variance[..., None], 1e-200)
    one, other = (SlopeLaw(scaled(law), law.probability, independent) for law in pair)
    return one, other


def _joined(slopes: list[tuple], branches: list[tuple]) -> tuple[SlopeLaw, SlopeLaw]:
    """All laws by both rules, shape [laws, nodes]; without any, that of a linear layer."""
    if not slopes and not branches:
        one = xp.ones((1, 1), jnp.result_type(float))
        return SlopeLaw(one, one), SlopeLaw(one, one)

    def joined(laws):
        tables = [
            (
                law.square.reshape(-1, law.square.shape[-1]),
                law.probability.reshape(-1, law.square.shape[-1]),
            )
            for law in laws
        ]
        nodes = max(square.shape[-1] for square, _ in tables)
        padded = [SlopeLaw(*table).padded(nodes) for table in tables]
        law = jax.tree.map(lambda *all: xp.concatenate(all), *padded)
        if not branches:
            return law
        marks = [
            (xp.full(square.shape[0], -1.0) if law.branch is None else law.branch.reshape(-1))
            for law, (square, _) in zip(laws, tables, strict=True)
        ]
        return SlopeLaw(law.square, law.probability, xp.concatenate(marks))

    pairs = [*slopes, *branches]
    return joined([one for one, _ in pairs]), joined([other for _, other in pairs])


def _read(network: Part, length: Any, order: int) -> Any:
    """The notes of every leaf."""
    dtype = jnp.result_type(float)
    network, q = cast(network, dtype), xp.asarray(length, dtype)
    k = components(network)
    moments = given_moments((q * xp.eye(k, dtype=dtype))[None, None])
    zero = jax.tree.map(xp.zeros_like, moments)
    if begins_with_pointwise(network):
        state = PreActivation(moments, zero)
    else:
        state = PostActivation(moments, zero, xp.zeros((1, k), dtype))
    return interpret(network, _Factors(order), state)[1]


def begins_with_pointwise(part: Part) -> bool:
    """Whether what goes in are pre-activations."""
    leaf = lambda node: isinstance(node, Affine | Pointwise | Residual)
    return isinstance(jax.tree.leaves(part, is_leaf=leaf)[0], Pointwise | Residual)


def _distinct(law: SlopeLaw) -> tuple[np.ndarray, np.ndarray]:
    """Places of laws that differ by more than rounding, and how often each is there."""
    square, probability = np.asarray(law.square), np.asarray(law.probability)
    mean = lambda values: np.sum(probability * values, axis=1)
    branch = np.full(len(square), -1.0) if law.branch is None else np.asarray(law.branch)
    signature = np.stack([branch, mean(square), mean(square**2), mean(np.sqrt(square))], axis=1)
    # Sorted, equal laws are neighbours, save where the first moments of different ones agree.
    order = np.lexsort(np.round(signature, 12).T)
    first, numbers = [order[0]], [1]
    for i in order[1:]:
        same = all(
            np.allclose(table[i], table[first[-1]], rtol=1e-12, atol=1e-15)
            for table in (square, probability, branch)
        )
        if same:
            numbers[-1] += 1
        else:
            first.append(i)
            numbers.append(1)
    return np.array(first), np.array(numbers, float)
