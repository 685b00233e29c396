"""The random factors of an input-output Jacobian, read from the description.

Notation: J = ∏ W_l D_l, with D_l the derivative of the l-th nonlinearity, a diagonal matrix of
slopes; m = M(λ) = Σ_k m_k/λ^k the moment function of JJᵀ, and S its S-transform. At infinite
width the factors are free of each other. Of D only the law of D² over the units matters, and of W
only its variance and whether it is orthogonal or has independent entries.

A residual branch that begins with fresh weights gives the factor 1 + a, where a = W' D W is free
of all others; it is one more layer, with its own S-transform (`_skip`). A branch that begins with
a nonlinearity has the slopes D_l of the sum itself, whose units are the same in all layers: these
factors are not free of each other.
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
    """1 if the entries are independent, else 0."""


class _Scale(_Weights):
    """Note of a factor on the whole layer: like weights, but not fresh."""


class _Slopes(eqx.Module):
    """Note of a nonlinearity: the law of D², and the same for error estimates.

    The second law uses another rule, at a length displaced by its error.
    """

    law: SlopeLaw
    check: SlopeLaw
    constant: bool = eqx.field(static=True)
    """Whether D is the same for all units."""


class _Skip(eqx.Module):
    """Note of a sum."""

    one: Float[Array, ""]


class _Factors(Reading[Any]):
    """Mean-field lengths of one input, and the contribution of each leaf to its Jacobian."""

    order: int = eqx.field(static=True)

    def affine(self, node: Affine, state: PreActivation | PostActivation):
        if node.width is not None:
            raise ValueError(
                "`network`: the spectrum is for square layers; an Affine has the fixed "
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
        """1/σ; the one or two directions of the layer that it projects out do not matter."""
        after, _ = MeanField().normalise(node, state)
        shrunk = (log_tangent(after.value) - log_tangent(state.value))[0]
        return after, _Scale(shrunk, xp.zeros_like(shrunk))

    def noise(self, node: Any, state: Any):
        raise TypeError("`network`: the spectrum is for layers without noise; got a Noise")

    def add(self, skip: Any, branch: Any):
        after, _ = MeanField().add(skip, branch)
        return after, _Skip(xp.ones((), jnp.result_type(float)))

    def through_time(self, step: Any, state: Any, steps: int):
        raise TypeError(
            "`network`: the Jacobian spectrum is for a chain of layers, a product of free "
            "matrices; those of a Recurrent are all the same, which is not predicted"
        )

    def boundary(self, state: PreActivation | PostActivation):
        return MeanField().boundary(state)

    def kept(self, before: Any, after: Any):
        return MeanField().kept(before, after)


SAFETY = 5.0
"""Errors are this many times the difference between the two rules."""


class JacobianFactors(eqx.Module):
    """Everything that the spectrum of a Jacobian at infinite width depends on.

    Create it with `jacobian_factors`. `jax.vmap` adds leading axes over sweeps.
    """

    log_variance: Float[Array, "*batch"]
    """Σ log σ_w² over the weight matrices."""
    independent: Float[Array, "*batch"]
    """Number of weight matrices with independent entries, whose law does not matter beyond the
    variance; the others are orthogonal."""
    count: Float[Array, "*batch laws"]
    """Number of layers with each law of D²."""
    law: SlopeLaw
    """The distinct laws, shape [laws, nodes]."""
    check: SlopeLaw
    """The same by another rule, at lengths displaced by their errors."""

    def repeated(self, depth: Any) -> "JacobianFactors":
        """The factors of `depth` such networks in a row, all at the same lengths.

        Use it to sweep over depths: take one layer at its fixed point and repeat it. `depth` may
        be traced.
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
    """The number of terms in one evaluation of the laws at some points."""
    return math.prod((factors.law.square.size, *map(np.size, points)))


def mass_unresolved(factors: JacobianFactors) -> Float[Array, ""]:
    """For quantiles below this fraction there is at most an upper bound."""
    law = factors.law
    return xp.max(law.mass_at_zero) + xp.sum(factors.count * law.mass_below)


def checked(factors: JacobianFactors) -> JacobianFactors:
    """The factors by the other rule."""
    return eqx.tree_at(lambda f: f.law, factors, factors.check)


def by_both(fn: Callable[[JacobianFactors], Any], factors: JacobianFactors) -> tuple[Any, Any]:
    """Apply a function to the factors by both rules, compiled once."""
    nodes = max(factors.law.square.shape[-1], factors.check.square.shape[-1])
    laws = (factors.law.padded(nodes), factors.check.padded(nodes))
    stacked = jax.tree.map(lambda *tables: xp.stack(tables), *laws)
    found = each(lambda law: fn(eqx.tree_at(lambda f: f.law, factors, law)), stacked)
    one, other = (jax.tree.map(lambda a, i=i: a[i], found) for i in range(2))
    return one, other


def jacobian_factors(network: Part, length: Any, *, order: int = 128) -> JacobianFactors:
    """Derive the factors of a Jacobian from a description.

    Convention: `network` may be any chain of Affine, Pointwise, Normalise, Repeat and Residual.
    Every leaf is one factor: `feedforward(φ, ..., depth=L)` is J = W_L D_L ⋯ W_1 D_1 W_0, with L
    nonlinearities and L + 1 weight matrices; `repeat(layer(φ, ...), L)` is W_L D_L ⋯ W_1 D_1,
    with L of each. All layers are square. A Residual is one factor 1 + a. Its branch contains at
    most one nonlinearity, after fresh weights: z ↦ z + W' φ(W z).

    Parameters
    ----------
    network
        The description.
    length
        Length per component of the signal that enters: the input if the network begins with an
        Affine, the pre-activations (at the fixed point: q*) if it begins with a nonlinearity.
        Later lengths follow from mean-field theory.
    order
        Nodes per panel of the quadrature over the units, from 8 to 1024. Shallow networks and
        orthogonal weights resolve finer details of the law of D², and need more.

    Raises
    ------
    TypeError
        If a residual branch begins with a nonlinearity, or contains two of them or another
        branch. (In the first case the slopes are those of the sum, whose units remember all
        earlier layers, and the factors are not free: see `residual_moments`.)
    ValueError
        If the length is negative, a layer has a fixed width, or `order` is out of range.

    Notes
    -----
    Layers of equal length are merged, if lengths are known numbers and not traced.

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
"""Number of layers up to which no program is compiled for them."""


def _joined_factors(notes: Any) -> JacobianFactors:
    # Free factors commute as far as the spectrum is concerned: the order of the notes of equal
    # layers need not be kept.
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
    """Weights and slopes of layers without skip connection, and laws of layers with one.

    The laws are pairs, one by each rule.
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
    """The laws of a layer 1 + a by both rules, from the notes of its branch."""
    is_note = lambda note: isinstance(note, _Weights | _Slopes | _Skip | Stacked)
    found = jax.tree.leaves(notes, is_leaf=is_note)
    weights = [note for note in found if isinstance(note, _Weights)]
    constant = [note for note in found if isinstance(note, _Slopes) and note.constant]
    slopes = [note for note in found if isinstance(note, _Slopes) and not note.constant]
    if any(isinstance(note, _Skip | Stacked) for note in found) or len(slopes) > 1:
        raise TypeError(
            "`network`: a residual branch may contain one nonlinearity, no other branch and no "
            "Repeat, for a prediction of the spectrum"
        )
    fresh = [isinstance(note, _Weights) and not isinstance(note, _Scale) for note in found]
    if any(note is slope for note in found[: fresh.index(True)] for slope in slopes):
        raise TypeError(
            "`network`: residual branches that begin with a nonlinearity are not free of each "
            "other, and their spectrum is not predicted; let branches begin with an Affine"
        )
    one = xp.ones((*weights[0].independent.shape, 1), weights[0].independent.dtype)
    linear = SlopeLaw(one, one)
    pair = (slopes[0].law, slopes[0].check) if slopes else (linear, linear)
    variance = xp.exp(sum((note.log_variance for note in weights), xp.zeros(())))
    variance = math.prod((note.law.square[..., 0] for note in constant), start=variance)
    independent = sum((note.independent for note in weights), xp.zeros(()))
    # A branch that does nothing is replaced by one that does next to nothing.
    scaled = lambda law: xp.maximum(law.square * variance[..., None], 1e-200)
    one, other = (SlopeLaw(scaled(law), law.probability, independent) for law in pair)
    return one, other


def _joined(slopes: list[tuple], branches: list[tuple]) -> tuple[SlopeLaw, SlopeLaw]:
    """All laws by both rules, shape [laws, nodes]; if there are none, that of a linear layer."""
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
    """Whether the network takes pre-activations."""
    leaf = lambda node: isinstance(node, Affine | Pointwise | Residual)
    return isinstance(jax.tree.leaves(part, is_leaf=leaf)[0], Pointwise | Residual)


def _distinct(law: SlopeLaw) -> tuple[np.ndarray, np.ndarray]:
    """Indices of laws that differ by more than rounding, and the multiplicity of each."""
    square, probability = np.asarray(law.square), np.asarray(law.probability)
    mean = lambda values: np.sum(probability * values, axis=1)
    branch = np.full(len(square), -1.0) if law.branch is None else np.asarray(law.branch)
    signature = np.stack([branch, mean(square), mean(square**2), mean(np.sqrt(square))], axis=1)
    # Once sorted, equal laws are neighbours, unless the first moments of different ones agree.
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
