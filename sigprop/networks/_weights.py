"""Random matrices drawn from the weight law of a description, and their products."""

import functools
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sigprop.networks._lapack import cholesky, qr, solve_upper, triangle, upright
from sigprop.networks._random import normal
from theory import GaussianWeights, OrthogonalWeights, Part, SparseWeights, WeightLaw
from theory.description import ALGEBRAS, AlgebraName
from theory.numerics import largest_exponent, times_power

_WELL = 0.1
"""Smallest sine between a unit vector and the previous ones for which scalar products alone give
the triangular factor."""


LARGEST_MATRIX = 2**20
"""Most entries of a layer for which weights are drawn by default."""


def needs_matrices(network: Part) -> bool:
    """Whether the law of some products is unknown, so that weights must be drawn."""
    is_law = lambda node: isinstance(node, WeightLaw)
    laws = filter(is_law, jax.tree.leaves(network, is_leaf=is_law))
    return not all(law.family.rotation_invariant for law in laws)


def draws_matrices(
    asked: bool | None, width: int, columns: int, network: Part | None = None
) -> bool:
    """Whether to draw weights: as requested, otherwise whichever way is cheaper.

    Up to 1024 units a matrix is cheap, and it is drawn. Beyond, it is not drawn if the number
    `columns` of vectors that it acts on is at most a quarter of the width, or if the matrix would
    fill gigabytes.
    """
    if asked is not None:
        return asked
    if network is not None and needs_matrices(network):
        return True
    if width**2 <= LARGEST_MATRIX:
        return True
    return 4 * columns > width and width**2 <= 2**8 * LARGEST_MATRIX


def draw_weights(
    law: WeightLaw, key: Key[Array, ""], fan_out: int, fan_in: int, dtype: Any
) -> Float[Array, "fan_out fan_in tables"]:
    """The real numbers w_a of w = Σ_a w_a e_a for every pair of units.

    Convention: variance σ_w²/fan_in per unit pair (see `WeightLaw`). Orthogonal weights are a
    Haar-distributed orthogonal, unitary or symplectic matrix (WW† = 1 over the algebra). A
    rectangular layer takes its leading rows or columns, scaled to the same second moment.

    References
    ----------
    Mezzadri 2007 (arXiv math-ph/0609050): Haar matrices from QR decompositions of Gaussian ones.
    """
    scale = jnp.sqrt(law.entry_variance / fan_in).astype(dtype)
    shape = (fan_out, fan_in, len(law.table))
    match law.family:
        case GaussianWeights():
            return scale * jax.random.normal(key, shape, dtype)
        case SparseWeights(density=p):
            there_key, key = jax.random.split(key)
            # One number for all tables: a weight is present or absent as a whole.
            there = jax.random.uniform(there_key, (fan_out, fan_in, 1), dtype) < p
            weights = jax.random.normal(key, shape, dtype) / jnp.sqrt(jnp.asarray(p, dtype))
            return scale * jnp.where(there, weights, 0)
        case OrthogonalWeights():
            q = _haar_block(law.algebra, key, fan_out, fan_in, dtype)
            # |entry|² of a Haar matrix of size `larger` has mean 1/larger.
            size = max(fan_out, fan_in) * q.shape[-1]
            return scale * jnp.sqrt(jnp.asarray(size, dtype)) * q
        case _:
            assert_never(law.family)


def _haar_block(
    algebra: AlgebraName, key: Key[Array, ""], fan_out: int, fan_in: int, dtype: Any
) -> Float[Array, "fan_out fan_in tables"]:
    """The leading rows or columns of a Haar matrix over an algebra."""
    larger, smaller = max(fan_out, fan_in), min(fan_out, fan_in)
    match algebra:
        case "real":
            q = _haar_frame(key, larger, smaller, dtype)[..., None]
        case "complex":
            q = _haar_unitary(key, larger, smaller, dtype)
        case "quaternion":
            q = _haar_symplectic(key, larger, smaller, dtype)
        case "dense":
            raise ValueError("`algebra`: must be real, complex or quaternion; got dense")
        case _:
            assert_never(algebra)
    if fan_out >= fan_in:
        return q
    conjugate = jnp.array([1, -1, -1, -1], dtype)[: q.shape[-1]]
    return jnp.swapaxes(q, 0, 1) * conjugate[None, None]


def _haar_frame(key: Key[Array, ""], rows: int, columns: int, dtype: Any) -> Array:
    """The first columns of a Haar-distributed orthogonal matrix."""
    return _orthonormal(jax.random.normal(key, (rows, columns), dtype))


def _haar_unitary(key: Key[Array, ""], rows: int, columns: int, dtype: Any) -> Array:
    """`_haar_frame` over the complex numbers; real and imaginary parts along the last axis."""
    re, im = jax.random.normal(key, (2, rows, columns), dtype)
    q = _orthonormal(jax.lax.complex(re, im))
    return jnp.stack([q.real, q.imag], axis=-1)


def _haar_symplectic(key: Key[Array, ""], rows: int, columns: int, dtype: Any) -> Array:
    """`_haar_frame` over the quaternions; a, b, c, d of a + bi + cj + dk along the last axis."""
    a, b, c, d = jax.random.normal(key, (4, rows, columns), dtype)
    one, other = jax.lax.complex(a, b), jax.lax.complex(c, d)
    # As 2×2 complex matrices. Their Gram–Schmidt process agrees with that of the quaternions, since
    # the second column of a quaternion is orthogonal to the first and of equal length.
    top = jnp.stack([one, other], axis=-1)
    bottom = jnp.stack([-other.conj(), one.conj()], axis=-1)
    pairs = jnp.stack([top, bottom], axis=1).reshape(2 * rows, 2 * columns)
    q = _orthonormal(pairs).reshape(rows, 2, columns, 2)[:, 0]
    return jnp.stack([q[..., 0].real, q[..., 0].imag, q[..., 1].real, q[..., 1].imag], axis=-1)


def _orthonormal(columns: Array) -> Array:
    """The Gram–Schmidt frame, which is uniformly distributed for Gaussian columns."""
    q, r = qr(columns)
    # Householder reflections give the diagonal of R signs or phases; move them back to Q.
    phase = jax.lax.sign(jnp.diagonal(r))
    return q * jnp.where(phase == 0, jnp.ones_like(phase), phase)[None]


def product(
    law: WeightLaw,
    key: Key[Array, ""],
    vectors: Float[Array, "fan_in k columns"],
    fan_out: int,
    *,
    explicit: bool = True,
    precision: str = "highest",
) -> Float[Array, "fan_out k_out columns"]:
    """W v for every column v, with one freshly drawn W that is then dropped.

    Without `explicit` W is never built: the products, and in reverse mode Wᵀ times the backward
    signals, are drawn from their law given everything known about W. The result is the same in
    law (not bit by bit), at a cost of fan_out · columns² instead of fan_out · fan_in.

    References
    ----------
    Bolthausen 2014, section 2 (conditioning on the products seen so far).
    """
    fan_in, _, columns = vectors.shape
    k_out = law.table.shape[1]
    if explicit:
        weights = draw_weights(law, key, fan_out, fan_in, vectors.dtype)
        lifted = lift(law, vectors, precision)
        out = jnp.matmul(weights.reshape(fan_out, -1), lifted, precision=precision)
        return out.reshape(fan_out, k_out, columns)
    x, rows, size = products_of(law, vectors, fan_out, precision)
    scale = jnp.sqrt(law.entry_variance / fan_in).astype(vectors.dtype)
    out = scale * jnp.asarray(_conditioned(rows, size, precision, x, key))
    return of_units(law, out, fan_out, columns)


def haar_size(law: WeightLaw) -> int:
    """The real dimension of the algebra of Haar weights, or 0 for Gaussian ones.

    Raises
    ------
    ValueError
        If the law of products with such weights is unknown.
    """
    match law.family:
        case GaussianWeights():
            return 0
        case OrthogonalWeights():
            return len(law.table)
        case SparseWeights():
            raise ValueError(
                "`explicit_weights`: must be True with sparse weights, whose products alone do "
                "not have a known law; got False"
            )
        case _:
            assert_never(law.family)


def products_of(
    law: WeightLaw, vectors: Float[Array, "fan_in k columns"], fan_out: int, precision: str
) -> tuple[Array, int, int]:
    """The columns that the weights act on, how many rows they then have, and their `images`.

    Haar weights act on columns of numbers of the algebra, each of D real numbers. Gaussian
    weights, which are free of each other, act on lifted columns of real numbers (encoded as 0).
    """
    size = haar_size(law)
    if size == 0:
        return lift(law, vectors, precision), fan_out, 0
    fan_in, k, columns = vectors.shape
    numbers = vectors.reshape(fan_in, k // size, size, columns)
    return jnp.swapaxes(numbers, 1, 2).reshape(fan_in * size, -1), fan_out * size, size


def of_units(law: WeightLaw, out: Array, fan_out: int, columns: int) -> Array:
    """The products as components of units, [fan_out, k_out, columns]."""
    k, size = law.table.shape[1], haar_size(law)
    if size == 0:
        return out.reshape(fan_out, k, columns)
    numbers = out.reshape(fan_out, size, k // size, columns)
    return jnp.swapaxes(numbers, 1, 2).reshape(fan_out, k, columns)


@functools.cache
def _from_the_right(size: int) -> np.ndarray:
    """Multiplication from the right by the units of an algebra, shape [D, D, D]."""
    bases = (algebra.basis for algebra in ALGEBRAS.values() if algebra.basis is not None)
    left = next(basis for basis in bases if len(basis) == size)
    # x u is the conjugate of ū x̄, and ū = −u except for 1
    conjugate = np.diag(np.append(1.0, -np.ones(size - 1)))
    return np.concatenate([left[:1], -conjugate @ left[1:] @ conjugate])


def images(x: Float[Array, "rows columns"], size: int) -> Float[Array, "rows images"]:
    """Every column of numbers of an algebra times each of its D units, side by side.

    Weights over the algebra act on all of them alike. As real columns they are orthogonal and of
    equal length, so Gram–Schmidt on all of them is Gram–Schmidt over the algebra.
    """
    if size < 2:
        return x
    rows, columns = x.shape
    table = jnp.asarray(_from_the_right(size), x.dtype)
    numbers = x.reshape(rows // size, size, columns)
    rotated = jnp.einsum("boi,uic->uocb", table, numbers, precision="highest")
    return rotated.reshape(rows, columns * size)


def lift(law: WeightLaw, vectors: Float[Array, "fan_in k columns"], precision: str) -> Array:
    """The vectors that the real numbers w_a multiply, [fan_in·tables, k_out·columns].

    Every vector is multiplied by each e_a, so that W v is one real matrix product.
    """
    fan_in, _, columns = vectors.shape
    table = jnp.asarray(law.table, vectors.dtype)
    tables, k_out, _ = table.shape
    lifted = jnp.einsum("aoi,uic->uaoc", table, vectors, precision=precision)
    return lifted.reshape(fan_in * tables, k_out * columns)


# W is Gaussian with unit variance, or √size times a block of a Haar matrix O of that size, a real
# matrix that commutes with multiplication from the right by numbers of its algebra. W is known by
# W X = A R, where X = Q R and A = W Q; X and everything made of it contain the `images` of columns.
# Notation: G are the backward signals, padded like Q by zeros to the size of O.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _conditioned(fan_out: int, haar: int, precision: str, x: Array, key: Array) -> Array:
    """`haar` is 0 for Gaussian weights, else the real dimension of the algebra."""
    x = images(x, haar)
    return _forward(fan_out, haar, precision, _factored(x, haar)[1], x, key)


def _forward(fan_out, haar, precision, r, x, key):
    a = _seen(fan_out, haar, x, key)
    if haar:
        # A is a frame already; its own triangle need not be divided out in a separate pass.
        r = solve_upper(factored(a)[1], r)
        r = r[:, ::haar] * jnp.sqrt(jnp.asarray(len(a), x.dtype))
    # Transposed: long rows multiply faster than long columns.
    return jnp.matmul(r.T, a.T[:, :fan_out], precision=precision).T


def _seen(fan_out: int, haar: int, x: Array, key: Array) -> Array:
    """Gaussian columns: A, or the columns whose Gram–Schmidt frame is A/√size."""
    rows = max(fan_out, len(x)) if haar else fan_out
    count = min(x.shape) // max(haar, 1)
    return images(normal(jax.random.fold_in(key, 0), (count, rows), x.dtype).T, haar)


def factored(x: Float[Array, "rows columns"]) -> tuple[Array, Array]:
    """Q and R of X = Q R, R upper triangular with a diagonal >= 0, from scalar products alone.

    If a column is nearly parallel to previous ones, all are multiplied by the inverse of a
    shifted Cholesky factor until none is. A zero column is zero in both Q and R.

    Accuracy
    --------
    R: rounding relative to the length of each column, as from Householder reflections. QᵀQ: some
    ten times rounding, and up to 300 times if columns are nearly parallel, that is rounding over
    the square of the smallest sine that is accepted. The columns may have any scales.

    References
    ----------
    Fukaya et al. 2020, algorithm 4.1 (shifted Cholesky QR).
    """
    power = largest_exponent(x, 0)
    q, r = _factored_units(times_power(x, -power))
    return q, times_power(r, power)


def _factored_units(x: Float[Array, "rows columns"]) -> tuple[Array, Array]:
    """`factored` for columns whose largest entry is near 1, or which are zero."""
    if x.shape[1] > x.shape[0]:
        q, r = qr(x)
        r, signs = upright(r)
        return q * signs[None], r
    columns, info = x.shape[1], jnp.finfo(x.dtype)
    shift = 100 * columns * jnp.asarray(info.eps, x.dtype)
    dot = functools.partial(jnp.matmul, precision="highest")
    unit = jnp.eye(columns, dtype=x.dtype)

    def measured(x):
        """Lengths of the columns, and their correlations with two Cholesky factors of them.

        The factors are without and with a shift.
        """
        gram = dot(x.T, x)
        length = jnp.sqrt(jnp.diagonal(gram))
        some = length > 0
        size = jnp.where(some, length, 1)
        both = some[:, None] & some[None]
        correlation = jnp.where(both, gram / (size[:, None] * size[None]), unit)
        factor = cholesky(correlation).T, cholesky(correlation + shift * unit).T
        return length, size, correlation, factor

    def divided(x, size, factor):
        """X F⁻¹ for columns divided by their lengths.

        It uses products, one of which corrects the other: after two nearly parallel columns X
        would not equal (X F⁻¹) F to rounding, and a triangular solve with so few columns costs
        more.
        """
        columns, inverse = x / size[None], solve_upper(factor, unit)
        first = dot(inverse.T, columns.T).T
        return first + dot(inverse.T, (columns - dot(first, factor)).T).T

    def poor(state):
        _, _, (*_, factor), step = state
        # The diagonal contains the sines; it is NaN where rounding has made a square negative.
        return ~jnp.all(jnp.diagonal(factor[0]) > _WELL) & (step < 8)

    def improve(state):
        x, r, (length, size, _, factor), step = state
        r = dot(factor[1] * length[None], r)
        x = divided(x, size, factor[1])
        return x, r, measured(x), step + 1

    start = (x, unit, measured(x), 0)
    x, r, (length, size, correlation, factor), _ = jax.lax.while_loop(poor, improve, start)
    # A column that no step has made independent lies in the span of the others to the last bit, as
    # with fewer live units than columns. The shift detects it, and must not affect the rest.
    new = jnp.square(jnp.diagonal(factor[1])) > 4 * shift
    last = cholesky(jnp.where(new[:, None] & new[None], correlation, unit)).T
    q = divided(jnp.where(new[None], x, 0), size, last)
    last = jnp.where(new[None], last, jnp.triu(dot(q.T, x / size[None])))
    return q, dot(last * length[None], r)


def _factored(x: Array, haar: int) -> tuple[Array, Array]:
    """Q and R of images, with zeros in Q for dependent columns.

    What rounding leaves of dependent columns would not commute with the algebra.
    """
    if haar > 1 and x.shape[1] > x.shape[0]:
        # More images than dimensions: use the unit vectors, which are images themselves.
        return jnp.eye(len(x), dtype=x.dtype), x
    power = largest_exponent(x, 0)  # one for all images of a column
    x = times_power(x, -power)
    q, r = _factored_units(x)
    if haar < 2:
        return q, times_power(r, power)
    new = jnp.diagonal(r) > 32 * jnp.finfo(x.dtype).eps * jnp.linalg.norm(x, axis=0)
    new = jnp.repeat(jnp.all(new.reshape(-1, haar), axis=1), haar)[None]
    q, r = _factored_units(jnp.where(new, x, 0))
    q = jnp.where(new, q, 0)
    r = jnp.where(new, r, jnp.matmul(q.T, x, precision="highest"))
    return q, times_power(r, power)


def _conditioned_forward(fan_out, haar, precision, x, key):
    x = images(x, haar)
    q, r = _factored(x, haar)
    out = _forward(fan_out, haar, precision, r, x, key)
    a = _seen(fan_out, haar, x, key)
    if haar:
        a = _orthonormal(a) * jnp.sqrt(jnp.asarray(len(a), x.dtype))
    if haar > 1:
        a = jnp.where(jnp.any(q != 0, axis=0)[None], a, 0)
    return out, (q, a, key)


def _conditioned_reverse(fan_out, haar, precision, known, g):
    q, a, key = known
    fan_in, unseen = q.shape[0], jax.random.fold_in(key, 1)
    dot = functools.partial(jnp.matmul, precision=precision)
    q = _padded(q, len(a)) if haar else q
    g = images(_padded(g, len(a)), haar)
    back = dot(q, dot(a.T, g))

    def outside(z):
        for _ in range(2):  # the second pass removes what rounding left
            z = z - dot(q, dot(q.T, z))
        return z

    if haar:
        # O maps the complement of Q to the complement of A/√size.
        size, seen = q.shape
        if size < seen + g.shape[1]:
            raise ValueError(
                f"`width`: must be at least {(seen + g.shape[1]) // haar} for backward signals "
                f"without explicit orthogonal weights; got {size // haar}"
            )
        rest = g - dot(a, dot(a.T, g)) / size
        frame = outside(images(normal(unseen, (size, g.shape[1] // haar), g.dtype), haar))
        frame = _orthonormal(frame) * jnp.sqrt(jnp.asarray(size, g.dtype))
        r = upright(triangle(rest))[0] if haar == 1 else _factored(rest, haar)[1]
        back = back + dot(frame, r)
    else:
        r, _ = upright(triangle(g))  # small changes of G then change the draw little
        back = back + outside(dot(normal(unseen, (fan_in, len(r)), g.dtype), r))
    return back[:fan_in, :: max(haar, 1)], None


def _padded(rows: Array, size: int) -> Array:
    return jnp.pad(rows, ((0, size - rows.shape[0]), (0, 0)))


_conditioned.defvjp(_conditioned_forward, _conditioned_reverse)
