"""Factorisations of one matrix after the other."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Restrict LAPACK to one thread.

    Its own threads wait for each other by spinning, and an ensemble keeps the cores busy without
    them.
    """
    # jaxlib loads this at its first factorisation; only loaded libraries can be restricted.
    importlib.import_module("scipy.linalg.cython_lapack")
    with threadpool_limits(1, user_api="blas"):
        yield


def alone(fn: Callable) -> Callable:
    """Make `jax.vmap` call the function in turn on each entry of the batch, on a CPU.

    jaxlib below 0.11.2 splits a batch of factorisations over the threads of XLA and waits for
    them on one of these threads. As many independent batches as there are threads then deadlock:
    on two cores, two.
    """
    in_turn = jax.custom_batching.sequential_vmap(fn)
    call: Any = jax.custom_batching.custom_vmap(fn)

    @call.def_vmap
    def batch(size: int, batched: list, *args: Any) -> tuple[Any, Any]:
        del size
        axes = [0 if one else None for one in batched]
        # Asked of the device that runs the program: the process may have others.
        ways = {"cpu": jax.vmap(in_turn, axes), "default": jax.vmap(fn, axes)}
        out = jax.lax.platform_dependent(*args, **ways)
        return out, jax.tree.map(lambda _: True, out)

    return call


cholesky = alone(lambda x: jnp.linalg.cholesky(x))
eigh = alone(lambda x: tuple(jnp.linalg.eigh(x)))
eigvalsh = alone(lambda x: jnp.linalg.eigvalsh(x))
qr = alone(lambda x: tuple(jnp.linalg.qr(x)))
singular_values = alone(lambda x: jnp.linalg.svd(x, compute_uv=False))
solve = alone(lambda a, b: jnp.linalg.solve(a, b))
svd = alone(lambda x: tuple(jnp.linalg.svd(x, full_matrices=False)))
triangle = alone(lambda x: jnp.linalg.qr(x, mode="r"))


@alone
def solve_upper(r: jax.Array, x: jax.Array) -> jax.Array:
    """R⁻¹ X for upper triangular R."""
    return jax.lax.linalg.triangular_solve(r, x, left_side=True, lower=False)


@alone
def divide_upper(x: jax.Array, r: jax.Array) -> jax.Array:
    """X R⁻¹ for upper triangular R."""
    return jax.lax.linalg.triangular_solve(r, x, left_side=False, lower=False)


def upright(r: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R with a non-negative diagonal, and the signs that make it so."""
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return r * signs[:, None], signs
