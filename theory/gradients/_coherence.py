"""Similarity of the gradients of different layers at initialisation, at infinite width.

Notation: z_l are the pre-activations after layer l, h_l = φ(z_l), δ_l = ∂loss/∂z_l. The gradient
of the weights of layer l is G_l = Σ_a δ_l^a (h_{l−1}^a)ᵀ, summed over inputs a, so that

    ⟨G_l, G_m⟩ = Σ_ab (δ_l^a·δ_m^b) (h_{l−1}^a·h_{m−1}^b).

Both factors are averages over units, equal to their expectations at infinite width. With a skip
connection z_m = z_l + (fresh, independent) for l < m, hence E z_l z_m = E z_l z_l and, backwards,
E δ_l δ_m = E δ_m δ_m. Without one, backward signals of different layers are independent:
E δ_l δ_m = 0, whatever their activations share.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from theory.description import (
    Affine,
    Chain,
    Part,
    Pointwise,
    Repeat,
    Residual,
    along_depth,
    check_read_in,
    interpret,
)
from theory.mean_field import (
    MeanField,
    Moments,
    PostActivation,
    PreActivation,
    given_moments,
    input_state,
    per_component,
)
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    as_real,
    as_signals,
    cast,
    check_order,
    compiled,
    widest,
)


class Layers(eqx.Module):
    """The parts of a network whose gradients are compared."""

    head: Part
    repeat: Repeat
    pointwise: Pointwise
    """φ at the start of a layer, its array leaves along depth."""
    affine: Affine
    """The weights at its end, likewise."""
    residual: bool = eqx.field(static=True)
    tail: Pointwise | None
    """φ after the last layer, if the network ends with one."""


class Coherence(eqx.Module):
    """Overlaps of layers 1 … L of a network at n inputs, at infinite width."""

    cosine: Estimate
    """⟨G_l, G_m⟩/(‖G_l‖ ‖G_m‖) of the gradients, shape [L, L]."""
    forward: Float[Array, "layers layers n n"]
    """E h_{l−1}^a·h_{m−1}^b/k of the signals that the weights act on."""
    backward: Float[Array, "layers layers n n"]
    """E δ_l^a·δ_m^b/k, relative to its value for the first input at the last layer."""


def layers_of(network: Part) -> Layers:
    """Split a network into an affine layer, a `Repeat` of [residual] W φ, and φ or nothing.

    Raises
    ------
    TypeError
        If the network has another form.
    """
    found = None
    match network:
        case Chain(parts=(Affine() as head, Repeat() as loop)):
            found = _taken(head, loop, None)
        case Chain(parts=(Affine() as head, Repeat() as loop, Pointwise() as tail)):
            found = _taken(head, loop, tail)
        case _:
            pass
    if found is None:
        raise TypeError(
            "`network`: must be an Affine, then a Repeat of [Residual] (Pointwise, Affine), and "
            "then a Pointwise or nothing, as in theory.feedforward"
        )
    return found


def _taken(head: Affine, loop: Repeat, tail: Pointwise | None) -> Layers | None:
    body = loop.body
    residual = isinstance(body, Residual)
    match body.branch if isinstance(body, Residual) else body:
        case Chain(parts=(Pointwise() as first, Affine() as last)):
            return Layers(head, loop, first, last, residual, tail)
        case _:
            return None


def gradient_coherence(
    network: Part,
    inputs: Float[Array, "n width k"] | Moments,
    loss_gram: Float[Array, "n n"] | None = None,
    *,
    order: int = 64,
) -> Coherence:
    """Cosines of the gradients of all pairs of layers at initialisation.

    Convention: the layers are those of the `Repeat`; the first affine layer has another fan-in
    and is left out. The loss is linear in the output, with a gradient that is Gaussian and
    independent of the weights, as for a random read-out.

    Parameters
    ----------
    network
        An `Affine`, then a `Repeat` of [residual] W φ, then φ or nothing.
    inputs
        The inputs, or moments over their units.
    loss_gram
        E g^a·g^b of the gradients g^a of the loss at the outputs of inputs a and b, up to a
        factor. For a read-out layer these are the products e^a·e^b of its errors, p − y for
        cross-entropy. All ones by default.
    order
        Nodes per panel of the quadrature.

    Raises
    ------
    TypeError
        If the network has another form, or sparse weights that act on inputs.
    ValueError
        If `loss_gram` is not a symmetric [n, n] matrix of finite numbers.

    Accuracy
    --------
    The error is first order, from the moments. Means at finite width approach the limit as 1/N; a
    single network of N units fluctuates by O(1/√N), also if the limit is 0.

    References
    ----------
    Yang (2020), arXiv 2006.14548, proves the independence of forward and backward signals for a
    last layer that is Gaussian and independent. The products over two layers are derived here,
    and checked against closed forms for linear and relu networks and against simulation.
    """
    check_order(order)
    layers = layers_of(network)
    inputs = inputs if isinstance(inputs, Moments) else as_signals("inputs", inputs)
    inputs = cast(inputs, widest(network, inputs))
    if not isinstance(inputs, Moments):
        check_read_in(network)
    state: Any = given_state(inputs) if isinstance(inputs, Moments) else input_state(inputs)
    n = state.value.tangent.shape[1]
    gram = jnp.ones((n, n)) if loss_gram is None else jnp.asarray(as_real("loss_gram", loss_gram))
    gram = gram.astype(state.value.covariance.dtype)
    check_gram(gram, n)
    return _coherence(layers, state, gram, order)


@compiled
def _coherence(layers: Layers, state: PostActivation, gram: Array, order: int) -> Coherence:
    n, k = state.value.tangent.shape[1:3]
    first, _ = interpret(layers.head, MeanField(order), state)
    last, notes = interpret(layers.repeat, MeanField(order), first)
    before = _states(first, notes)

    eye = jnp.eye(k, dtype=gram.dtype)
    signal = (gram[:, :, None, None] * eye[None, None], jnp.zeros((n, n, k, k), gram.dtype))
    if layers.tail is not None:
        signal = _pulled(layers.tail, last, *signal, order)
    backward, log_size = _backward(layers, before, signal, order)
    forward, forward_error = _forward(layers, before, order)
    return _joined(layers, forward, forward_error, backward, log_size)


def given_state(moments: Moments) -> PostActivation:
    """The state of inputs with known moments."""
    n, k = moments.tangent.shape[:2]
    zero = jax.tree.map(jnp.zeros_like, moments)
    return PostActivation(moments, zero, jnp.zeros((n, k), moments.covariance.dtype))


def check_gram(gram: Array, n: int) -> None:
    """Raise a `ValueError` unless it is a symmetric [n, n] matrix of finite numbers."""
    if gram.shape != (n, n):
        raise ValueError(f"`loss_gram`: must have shape ({n}, {n}); got {list(gram.shape)}")
    if isinstance(gram, Tracer):
        return
    known = np.asarray(gram)  # inside `jax.jit` a JAX operation would be traced
    if not (np.all(np.isfinite(known)) and np.allclose(known, known.T)):
        raise ValueError("`loss_gram`: must be finite and symmetric; got another matrix")


def _states(first: PreActivation, notes: Any) -> PreActivation:
    """z_0 … z_{L−1}, along depth."""
    later = along_depth(notes)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), first, later)


def _pulled(node: Pointwise, at: PreActivation, signal: Array, error: Array, order: int):
    """E φ'(u_a) S_ab φ'(u_b) and its error.

    A backward signal passes φ as a tangent does, on any scale.
    """
    put = lambda moments, tangent: eqx.tree_at(lambda m: m.tangent, moments, tangent)
    state = PreActivation(put(at.value, signal), put(at.error, error))
    after, _ = MeanField(order).pointwise(node, state)
    return after.value.tangent, after.error.tangent


def _weighed(affine: Affine, matrix: Array, bound: bool = False) -> Array:
    """Σ_c e_cᵀ S e_c, times the variance of the weights."""
    table = jnp.asarray(affine.weights.table, matrix.dtype)
    table = jnp.abs(table) if bound else table
    moved = jnp.einsum("cji,...jk,ckl->...il", table, matrix, table, precision="highest")
    return affine.weights.entry_variance.astype(matrix.dtype) * moved


def _backward(layers: Layers, before: PreActivation, signal: Any, order: int):
    """E δ_l δ_lᵀ for l = 1 … L and its error, each divided by its size, and the log of the size."""
    numbers, structure = eqx.partition((layers.pointwise, layers.affine), eqx.is_array)

    def step(carry, here):
        (value, error), log = carry
        at, leaves = here
        pointwise, affine = eqx.combine(leaves, structure)
        weighed = _weighed(affine, value), _weighed(affine, error, bound=True)
        pulled, doubt = _pulled(pointwise, at, *weighed, order)
        if layers.residual:
            pulled, doubt = value + pulled, error + doubt
        size = jnp.max(jnp.abs(pulled))
        size = jnp.where(size > 0, size, 1.0)
        return ((pulled / size, doubt / size), log + jnp.log(size)), ((value, error), log)

    start = (signal, jnp.zeros((), signal[0].dtype))
    return jax.lax.scan(step, start, (before, numbers), reverse=True)[1]


def _forward(layers: Layers, before: PreActivation, order: int):
    """E h_l^a (h_m^b)ᵀ for all l ≤ m, and its error; zero below."""
    depth, n = before.value.covariance.shape[:2]
    nodes, structure = eqx.partition(layers.pointwise, eqx.is_array)
    rows, columns = jnp.triu_indices(depth)

    def pair(places):
        one, two = (jax.tree.map(lambda x, i=i: x[i], before) for i in places)
        # The activation is that of the later layer; activations that vary with depth do not occur.
        node = eqx.combine(jax.tree.map(lambda x: x[places[1]], nodes), structure)
        shared = layers.residual | (places[0] == places[1])
        after, _ = MeanField(order).pointwise(node, _both(one, two, shared))
        return after.value.covariance[:n, n:], after.error.covariance[:n, n:]

    found = jax.lax.map(pair, (rows, columns))
    shape = (depth, depth, *found[0].shape[1:])
    return tuple(jnp.zeros(shape, x.dtype).at[rows, columns].set(x) for x in found)


def _both(one: PreActivation, two: PreActivation, shared: Bool[Array, ""]) -> PreActivation:
    """The joint moments of layers l ≤ m: 2n Gaussian variables.

    If `shared`, the later layer is the earlier one plus independent terms; otherwise the two are
    independent.
    """
    own = lambda tensor: jnp.einsum("aaij->aij", tensor)

    def joined(a: Moments, b: Moments, errors: bool) -> Moments:
        covariance, mine, theirs = a.covariance, own(a.covariance), own(b.covariance)
        grown = theirs + mine if errors else theirs - mine
        cross = jnp.where(shared, covariance, 0)
        alone = (mine[:, None] + theirs[None]) / 2
        apart = jnp.where(shared, a.separation + grown[None] / 2, alone)
        transposed = lambda x: jnp.swapaxes(jnp.swapaxes(x, 0, 1), 2, 3)
        block = lambda p, q, r: jnp.concatenate(
            [jnp.concatenate([p, q], axis=1), jnp.concatenate([transposed(q), r], axis=1)]
        )
        whole = block(covariance, cross, b.covariance)
        separation = block(a.separation, apart, b.separation)
        flat = given_moments(whole)
        tangent = jnp.zeros_like(flat.tangent) if errors else flat.tangent
        return Moments(whole, separation, tangent, jnp.zeros_like(flat.log_gain))

    return PreActivation(joined(one.value, two.value, False), joined(one.error, two.error, True))


def _joined(layers: Layers, forward, forward_error, backward, log_size) -> Coherence:
    """Cosines from ⟨G_l, G_m⟩ = Σ_ab tr (E δ_l^a δ_m^bᵀ)ᵀ Σ_c e_c (E h^a h^bᵀ) e_cᵀ, l ≤ m."""
    signal, signal_error = backward
    depth = forward.shape[0]
    table = jnp.asarray(layers.affine.weights.table, forward.dtype)
    # With a skip connection the overlap of two layers is that of the later one.
    places = jnp.arange(depth)
    later = jnp.maximum(places[:, None], places[None])
    kept = jnp.ones((depth, depth)) if layers.residual else jnp.eye(depth)
    kept = kept.astype(forward.dtype)

    def total(forward, signal, table):
        product = functools.partial(jnp.einsum, precision="highest")
        lifted = product("cij,lmabjk,cok->lmabio", table, forward, table)
        return product("mabio,lmabio->lm", signal, lifted)

    inner = total(forward, signal, table)
    sizes = jnp.abs(table)
    doubt = total(forward_error, jnp.abs(signal), sizes)
    doubt = doubt + total(jnp.abs(forward), signal_error, sizes)
    own, own_doubt = jnp.diagonal(inner), jnp.diagonal(doubt) / jnp.diagonal(inner)
    # The overlap of layers l ≤ m is that of m; the norms contain the sizes of both.
    relative = jnp.exp((log_size[None] - log_size[:, None]) / 2)
    scale = relative * kept / jnp.sqrt(own[:, None] * own[None])
    upper = jnp.triu(inner * scale)
    cosine = upper + jnp.triu(upper, 1).T
    error = jnp.triu(doubt * scale)
    error = error + jnp.triu(error, 1).T
    error = error + jnp.abs(cosine) * (own_doubt[:, None] + own_doubt[None]) / 2
    error = jnp.where(jnp.eye(depth, dtype=bool), 0.0, error)
    estimate = as_estimate(cosine, error, 1e-8, jnp.ones_like(cosine))
    dead = ~jnp.isfinite(cosine)
    absent = jnp.where(dead, jnp.int8(Status.ABSENT), estimate.status)
    estimate = Estimate(jnp.where(dead, jnp.nan, cosine), jnp.where(dead, jnp.nan, error), absent)

    forward, signal = per_component(forward), per_component(signal)
    mirrored = jnp.swapaxes(jnp.swapaxes(forward, 0, 1), 2, 3)
    lower = jnp.tril(jnp.ones((depth, depth), bool), -1)[:, :, None, None]
    forward = jnp.where(lower, mirrored, forward)
    sized = signal * jnp.exp(log_size)[:, None, None]
    backward = sized[later] * kept[:, :, None, None] / signal[-1, 0, 0]
    return Coherence(estimate, forward, backward)
