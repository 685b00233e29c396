"""Geometric continuity: how similar the weights of different layers are, compared with chance.

Notation: W_l the weights of layer l, which act on columns; v its right singular vectors, in the
space of its inputs; u the left ones, in the space of its outputs; s the singular values.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.alignment._singular_vectors import LeadingVectors, leading_vectors
from sigprop.networks import svd
from theory import Estimate, Status
from theory.numerics import as_array, as_real, check_kind, check_positive, shown


class Continuity(eqx.Module):
    """Alignments of all pairs of L layers, each with a bound on its error and a status.

    ABSENT: a layer has no such direction (its weights are zero, or singular values agree to
    rounding), or the two layers live in spaces of different dimensions. INVALID: weights are not
    finite. INACCURATE: the error is above the tolerance. See `neighbours` and `mean_alignment`.
    """

    right: Estimate
    """|⟨v_1, v_1'⟩| of any two layers, shape [L, L]."""
    left: Estimate
    """|⟨u_1, u_1'⟩|."""
    right_frame: Estimate
    """‖VᵀV'‖²/r, V the first r right singular vectors: the share of one span in the other."""
    left_frame: Estimate
    values: Float[np.ndarray, "layers rank"]
    """The leading singular values."""
    status: Any
    """Status of the leading direction of every layer, shape [L]."""
    found: tuple[LeadingVectors, ...]
    """The vectors, for the layers of each shape in turn."""
    rank: int = eqx.field(static=True)
    shapes: tuple[tuple[int, int], ...] = eqx.field(static=True)


class Spectra(eqx.Module):
    """Measures that need all singular values."""

    effective_rank: Estimate
    """exp(−Σ p log p), p = s²/Σ s² (Roy and Vetterli 2007), shape [L]."""
    right: Estimate
    """Σ_i (p_i + p_i')/2 |⟨v_i, v_i'⟩| of neighbours, shape [L − 1]."""
    left: Estimate


def continuity(
    weights: Any,
    rank: int = 1,
    *,
    tolerance: float = 1e-2,
    start: Continuity | None = None,
) -> Continuity:
    """Compute the alignment of the leading singular vectors of all layers.

    Parameters
    ----------
    weights
        [L, m, n], or a sequence of L matrices. Their shapes may differ: layers are then compared
        if their inputs, or outputs, have equal dimensions.
    rank
        Size r of the frames.
    tolerance
        Largest error of an alignment that is not INACCURATE. Leading vectors are computed to half
        of it, if rounding allows.
    start
        The result for the same layers some training steps earlier. The search for leading vectors
        starts there, which is faster if they have a gap.

    Returns
    -------
    Continuity
        Compare it with `cosine_null` and `overlap_null`.

    Raises
    ------
    ValueError
        If there is no matrix, one has no entries or is not real, or the rank is too large.

    Accuracy
    --------
    The errors of two directions are angles and add up; see `leading_vectors`.
    """
    check_positive("tolerance", tolerance)
    if start is not None:
        check_kind("start", start, Continuity, "a Continuity, of the same weights before")
    matrices = as_matrices(weights)
    kinds = list(dict.fromkeys(w.shape for w in matrices))
    groups = [[i for i, w in enumerate(matrices) if w.shape == kind] for kind in kinds]
    if len(kinds) == 1:
        stacks = [_stacked(weights, matrices)]
    else:
        stacks = [jnp.stack([matrices[i] for i in group]) for group in groups]
    before = [None] * len(kinds) if start is None else list(start.found)
    if len(before) != len(kinds):
        raise ValueError(
            f"`start`: must be of the same layers, of {len(kinds)} shapes; got {len(before)}"
        )
    found = [
        leading_vectors(stack, rank, tolerance=tolerance / 2, start=own)
        for stack, own in zip(stacks, before, strict=True)
    ]
    order = np.argsort(np.concatenate(groups))
    join = lambda name: np.concatenate([np.asarray(getattr(f, name)) for f in found])[order]
    whole = {n: join(n) for n in ("values", "error", "frame_error", "status", "frame_status")}
    shapes = tuple((int(w.shape[0]), int(w.shape[1])) for w in matrices)
    maps = {}
    for side, axis in (("right", 1), ("left", 0)):
        vectors = _padded([np.asarray(getattr(f, side)) for f in found])[order]
        alike = np.equal.outer([s[axis] for s in shapes], [s[axis] for s in shapes])
        first = np.abs(vectors[..., 0] @ vectors[..., 0].T)
        overlap = np.einsum("ldr,kds->lkrs", vectors, vectors, optimize=True)
        overlap = np.sum(overlap**2, axis=(2, 3)) / rank
        one = (first, whole["error"], whole["status"])
        many = (overlap, whole["frame_error"], whole["frame_status"])
        maps[side] = _all_pairs(*one, alike, tolerance)
        maps[f"{side}_frame"] = _all_pairs(*many, alike, tolerance)
    return Continuity(
        **maps,
        values=whole["values"],
        status=whole["status"],
        found=tuple(found),
        rank=rank,
        shapes=shapes,
    )


def as_matrices(weights: Any, name: str = "weights") -> list[Array]:
    """The layers, each as a real matrix."""
    wanted = f"`{name}`: must be an array [layers, m, n] or a sequence of matrices"
    if isinstance(weights, str | bytes | dict) or not isinstance(weights, Iterable):
        raise TypeError(f"{wanted}; got {shown(weights)}")
    if isinstance(weights, jax.Array | np.ndarray) and weights.ndim == 0:
        raise TypeError(f"{wanted}; got {shown(weights)}")
    layers = list(weights)
    if not layers:
        raise ValueError(f"`{name}`: must contain at least one matrix; got none")
    result = []
    for index, layer in enumerate(layers):
        matrix = jnp.asarray(as_real(name, layer, "be real matrices"))
        floating = jnp.issubdtype(matrix.dtype, jnp.floating)
        real = floating or jnp.issubdtype(matrix.dtype, jnp.integer)
        if matrix.ndim != 2 or matrix.size == 0 or not real:
            raise ValueError(
                f"`{name}`: must be real matrices; got shape {matrix.shape} and type "
                f"{matrix.dtype} in layer {index}"
            )
        wide = floating and jnp.finfo(matrix.dtype).bits >= 32
        result.append(matrix if wide else matrix.astype(jnp.float32))
    kinds = {m.dtype for m in result}
    return result if len(kinds) == 1 else [m.astype(jnp.result_type(*kinds)) for m in result]


def _stacked(weights: Any, matrices: list[Array]) -> Array:
    whole = isinstance(weights, jax.Array) and weights.ndim == 3
    return weights if whole and weights.dtype == matrices[0].dtype else jnp.stack(matrices)


def _padded(stacks: list[np.ndarray]) -> np.ndarray:
    size = max(s.shape[1] for s in stacks)
    return np.concatenate([np.pad(s, ((0, 0), (0, size - s.shape[1]), (0, 0))) for s in stacks])


def _all_pairs(value, error, status, alike, tolerance) -> Estimate:
    """A map over pairs of layers, from the errors and statuses of the layers."""
    total = error[:, None] + error[None]
    bad = lambda kind: (status == kind)[:, None] | (status == kind)[None]
    found = np.where(total <= tolerance, Status.OK, Status.INACCURATE)
    found = np.where(bad(Status.NOT_CONVERGED) & (total > tolerance), Status.NOT_CONVERGED, found)
    found = np.where(bad(Status.ABSENT) | ~alike, Status.ABSENT, found)
    found = np.where(bad(Status.INVALID), Status.INVALID, found).astype(np.int8)
    gone = (found == Status.ABSENT) | (found == Status.INVALID)
    # A layer is aligned with itself, whatever the error of its direction.
    value, total = np.where(gone, np.nan, np.minimum(value, 1)), np.where(gone, np.nan, total)
    return Estimate(jnp.asarray(value), jnp.asarray(total), jnp.asarray(found))


def neighbours(map_: Estimate) -> Estimate:
    """Select neighbouring layers l and l + 1 from a map of all pairs; shape [L − 1].

    Parameters
    ----------
    map_
        A field of `Continuity`, shape [L, L].
    """
    check_kind("map_", map_, Estimate, "an Estimate, such as the `right` of a Continuity")
    if np.ndim(map_.value) != 2:
        raise ValueError(f"`map_`: must have two axes over layers; got {np.ndim(map_.value)}")
    return jax.tree.map(lambda x: jnp.diagonal(x, offset=1), map_)


def mean_alignment(map_: Estimate) -> tuple[Estimate, int]:
    """The mean over neighbours with a known alignment, and their number.

    ABSENT if there are none: one layer, or no direction in any pair.

    Parameters
    ----------
    map_
        A field of `Continuity`, shape [L, L].
    """
    near = neighbours(map_)
    value, error, status = (np.asarray(x) for x in (near.value, near.error, near.status))
    good = np.isin(status, (Status.OK, Status.INACCURATE))
    count = int(good.sum())
    if count == 0:
        nothing = jnp.full((), jnp.nan)
        invalid = status.size > 0 and bool(np.all(status == Status.INVALID))
        kind = Status.INVALID if invalid else Status.ABSENT
        return Estimate(nothing, nothing, jnp.int8(kind)), 0
    kind = Status.OK if np.all(status[good] == Status.OK) else Status.INACCURATE
    found = (jnp.asarray(value[good].mean()), jnp.asarray(error[good].mean()), jnp.int8(kind))
    return Estimate(*found), count


def frobenius_cosines(matrices: Float[Array, "layers m n"]) -> Estimate:
    """⟨A_l, A_l'⟩/(‖A_l‖ ‖A_l'‖) of any two matrices: weights, updates, or gradients.

    If one matrix is randomly rotated relative to the other, from the left or from the right, the
    mean is 0. For independent Gaussian entries the deviation is 1/√(mn).

    Parameters
    ----------
    matrices
        L matrices of one shape.

    Returns
    -------
    Estimate
        Shape [L, L]. The error is due to rounding. ABSENT if a matrix is zero, INVALID if an
        entry is not finite.
    """
    return _frobenius_cosines(as_array("matrices", matrices, "[layers, m, n]"))


@jax.jit
def _frobenius_cosines(matrices: Array) -> Estimate:
    flat = matrices.reshape(len(matrices), -1)
    return _cosines(flat)


def gram_cosines(weights: Float[Array, "layers m n"]) -> tuple[Estimate, Estimate]:
    """Alignment of all singular vectors, right and left, which needs no gaps between the values.

    It is the cosine of the traceless parts of WᵀW and W'ᵀW' (right), and of WWᵀ and W'W'ᵀ (left).
    It weights ⟨v_i, v_j'⟩² with s_i² s_j'² for all i and j, so indices need not be paired. If one
    matrix is randomly rotated relative to the other, the mean is exactly 0 and the deviation
    √(2/((d − 1)(d + 2))), since traceless symmetric matrices are irreducible.

    Parameters
    ----------
    weights
        L matrices of one shape.

    Returns
    -------
    Estimate
        Both of shape [L, L]. ABSENT if all singular values of a layer are equal (or zero),
        INVALID if an entry is not finite.
    """
    return _gram_cosines(as_array("weights", weights, "[layers, m, n]"))


@jax.jit
def _gram_cosines(weights: Array) -> tuple[Estimate, Estimate]:
    size = jnp.max(jnp.abs(weights), axis=(1, 2), keepdims=True)
    unit = weights / jnp.where(size > 0, size, 1)

    def side(stack):
        d = stack.shape[2]

        def gram(w):
            square = jnp.matmul(w.T, w, precision="highest")
            centred = square - jnp.trace(square) / d * jnp.eye(d, dtype=w.dtype)
            floor = d * jnp.finfo(w.dtype).eps * jnp.trace(square) / math.sqrt(d)
            return jnp.where(jnp.linalg.norm(centred) <= floor, 0, centred).reshape(-1)

        return _cosines(jax.lax.map(gram, stack))

    return side(unit), side(jnp.swapaxes(unit, 1, 2))


def _cosines(flat: Float[Array, "layers size"]) -> Estimate:
    finite = jnp.all(jnp.isfinite(flat), axis=1)
    flat = jnp.where(finite[:, None], flat, 0)
    size = jnp.max(jnp.abs(flat), axis=1, keepdims=True)
    flat = flat / jnp.where(size > 0, size, 1)
    norm = jnp.linalg.norm(flat, axis=1, keepdims=True)
    unit = flat / jnp.where(norm > 0, norm, 1)
    value = jnp.matmul(unit, unit.T, precision="highest")
    error = jnp.full_like(
        value, 4 * jnp.finfo(flat.dtype).eps * np.sqrt(np.log2(flat.shape[1]) + 1)
    )
    both = lambda x: x[:, None] & x[None]
    status = jnp.where(both(norm[:, 0] > 0), Status.OK, Status.ABSENT)
    status = jnp.where(both(finite), status, Status.INVALID).astype(jnp.int8)
    gone = status != Status.OK
    return Estimate(jnp.where(gone, jnp.nan, value), jnp.where(gone, jnp.nan, error), status)


def spectra(weights: Float[Array, "layers m n"]) -> Spectra:
    """Effective ranks, and the σ²-weighted alignment of neighbours, from all singular values.

    Singular vectors are paired by index. If neighbouring values are close the pairing is
    arbitrary; `gram_cosines` avoids that. Chance gives the mean of `cosine_null` for square
    matrices.

    Parameters
    ----------
    weights
        L matrices of one shape.

    Accuracy
    --------
    The error of the effective rank is rounding. That of the alignment is the weight of singular
    values that agree to rounding; it is INACCURATE above a hundredth.
    """
    return _spectra(as_array("weights", weights, "[layers, m, n]"))


@jax.jit
def _spectra(weights: Array) -> Spectra:
    finite = jnp.all(jnp.isfinite(weights), axis=(1, 2))
    safe = jnp.where(finite[:, None, None], weights, 0)
    size = jnp.max(jnp.abs(safe), axis=(1, 2), keepdims=True)
    unit = safe / jnp.where(size > 0, size, 1)
    u, s, vt = jax.vmap(svd)(unit)
    total = jnp.sum(s**2, axis=1, keepdims=True)
    p = s**2 / jnp.where(total > 0, total, 1)
    eps = jnp.finfo(weights.dtype).eps
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=1)
    status = jnp.where(total[:, 0] > 0, Status.OK, Status.ABSENT)
    status = jnp.where(finite, status, Status.INVALID).astype(jnp.int8)
    rank = _known(jnp.exp(entropy), 8 * eps * s.shape[1] * jnp.exp(entropy), status)
    weight = (p[:-1] + p[1:]) / 2
    close = (s[:, :-1] - s[:, 1:]) <= _CLOSE * eps * s[:, :1]
    edge = jnp.zeros((len(s), 1), bool)
    lost = jnp.concatenate([close, edge], axis=1) | jnp.concatenate([edge, close], axis=1)
    unsure = jnp.sum(jnp.where(lost[:-1] | lost[1:], weight, 0), axis=1)
    worst = jnp.maximum(status[:-1], status[1:])

    def pair(a, b):
        value = jnp.sum(weight * jnp.abs(jnp.sum(a * b, axis=-1)), axis=1)
        kind = jnp.where((worst == Status.OK) & (unsure > 0.01), Status.INACCURATE, worst)
        return _known(value, unsure + 64 * eps, kind.astype(jnp.int8))

    ut = jnp.swapaxes(u, 1, 2)
    return Spectra(rank, pair(vt[:-1], vt[1:]), pair(ut[:-1], ut[1:]))


_CLOSE = 64.0
"""Singular values closer than this many eps of the largest count as equal."""


def _known(value: Array, error: Array, status: Array) -> Estimate:
    gone = (status == Status.ABSENT) | (status == Status.INVALID)
    return Estimate(jnp.where(gone, jnp.nan, value), jnp.where(gone, jnp.nan, error), status)


def rotation_drift(
    before: Any, after: Any, *, tolerance: float = 1e-2
) -> tuple[Estimate, Estimate]:
    """The angles, in radians, by which v_1 and u_1 of every layer have rotated, each shape [L].

    Directions have no sign: the angle is between 0 and π/2. For two independent directions in d
    dimensions it is close to π/2 − √(2/πd).

    Parameters
    ----------
    before, after
        The weights, as in `continuity`.
    tolerance
        Largest error of an angle that is not INACCURATE.

    Raises
    ------
    ValueError
        As `continuity`; or if the two do not have the same shapes.
    """
    old, new = as_matrices(before, "before"), as_matrices(after, "after")
    if [w.shape for w in old] != [w.shape for w in new]:
        raise ValueError("`after`: must have the shapes of `before`; got others")
    result = []
    found = [continuity([a, b], tolerance=tolerance) for a, b in zip(old, new, strict=True)]
    for side in ("right", "left"):
        each = [neighbours(getattr(f, side)) for f in found]
        joined = jax.tree.map(lambda *x: jnp.concatenate(x), *each)
        angle = jnp.arccos(jnp.minimum(joined.value, 1))
        result.append(Estimate(angle, joined.error, joined.status))
    return result[0], result[1]


def layer_remarks(found: Continuity, names: Sequence[str] | None = None) -> list[str]:
    """One sentence for every layer without a leading direction, and for incomparable layers.

    Parameters
    ----------
    found
        The result of `continuity`.
    names
        Names of the layers; by default they are numbered.
    """
    check_kind("found", found, Continuity, "a Continuity")
    count = len(found.shapes)
    several = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if names is not None and not (several and len(names) == count):
        raise ValueError(f"`names`: must be {count} texts, one for each layer; got {shown(names)}")
    names = [f"layer {i}" for i in range(count)] if names is None else list(names)
    lines = []
    for name, status, values in zip(names, np.asarray(found.status), found.values, strict=True):
        if status == Status.INVALID:
            lines.append(f"{name}: a weight is not finite")
        elif status == Status.ABSENT and values[0] == 0:
            lines.append(f"{name}: all weights are zero, there is no leading direction")
        elif status == Status.ABSENT:
            lines.append(
                f"{name}: the two largest singular values agree to rounding, {values[0]:.6g}: "
                "there is no leading direction"
            )
        elif status == Status.NOT_CONVERGED:
            lines.append(f"{name}: the leading direction did not converge")
    if len(found.shapes) == 1:
        lines.append("one layer has no neighbour")
    if len(set(found.shapes)) > 1:
        lines.append("layers of different shapes are compared if their dimensions agree")
    return lines
