"""One code for single points and for programs: NumPy if all numbers are known, otherwise JAX.

An XLA program for one point takes seconds to compile and a millisecond to run. So functions of
the theory accept both kinds of arrays and compute with the kind that they get.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray | np.generic
"""An array of either kind."""

_State = TypeVar("_State")


def traced(*trees: Any) -> bool:
    """Whether any array is a JAX array."""
    for tree in trees:
        if isinstance(tree, jax.Array):
            return True
        if isinstance(tree, np.ndarray | float | int | None):
            continue
        if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
            return True
    return False


def _any(args: list | tuple) -> bool:
    return any(isinstance(x, jax.Array) or (isinstance(x, list | tuple) and _any(x)) for x in args)


class _Namespace:
    """The functions of `jax.numpy`, replaced by NumPy's if all arrays are NumPy arrays."""

    def __getattr__(self, name: str) -> Any:
        of_jax, of_numpy = getattr(jnp, name), getattr(np, name)
        if not callable(of_numpy) or isinstance(of_numpy, type):
            found = of_jax
        else:

            def found(*args: Any, **kwargs: Any) -> Any:
                if _any(args):
                    return of_jax(*args, **kwargs)
                kwargs.pop("precision", None)  # NumPy has one
                return of_numpy(*args, **kwargs)

        setattr(self, name, found)
        return found


xp: Any = _Namespace()


def put(array: Any, index: Any, values: Any) -> Any:
    """Return the array with the values at `index` replaced."""
    if traced(array, values, index):
        return jnp.asarray(array).at[index].set(values)
    array = np.array(array)
    array[index] = values
    return array


def while_loop(
    unfinished: Callable[[_State], Any], advance: Callable[[_State], _State], state: _State
) -> _State:
    """`jax.lax.while_loop`."""
    now = state
    while not traced(now) and not isinstance(going := unfinished(now), jax.Array):
        if not going:
            return now
        now = advance(now)
    # The functions close over a traced value.
    return jax.lax.while_loop(unfinished, advance, jax.tree.map(jnp.asarray, state))


def scan(step: Callable, state: Any, rows: Any, length: int | None = None) -> tuple[Any, Any]:
    """`jax.lax.scan`."""
    if not traced(state, rows):
        count = len(jax.tree.leaves(rows)[0]) if length is None else length
        now, out = state, []
        for i in range(count):
            now, one = step(now, jax.tree.map(lambda row, i=i: row[i], rows))
            if traced(now, one):
                break
            out.append(one)
        else:
            return now, jax.tree.map(lambda *ones: np.stack(ones), *out)
    # The function may close over a traced value.
    return jax.lax.scan(step, jax.tree.map(jnp.asarray, state), rows, length=length)


def repeated(count: int, advance: Callable[[int, _State], _State], state: _State) -> _State:
    """`jax.lax.fori_loop` from 0 to `count`."""
    now = state
    for i in range(count):
        if traced(now):
            break
        now = advance(i, now)
    else:
        return now
    # The function may close over a traced value.
    return jax.lax.fori_loop(0, count, advance, jax.tree.map(jnp.asarray, state))


def only_if(condition: Any, fn: Callable[[], _State]) -> _State:
    """Call a function, or return zeros where the condition fails and a program can save time."""
    if not traced(condition):
        return fn()
    shapes = jax.eval_shape(fn)
    nothing = lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.cond(condition, fn, nothing)


def each(fn: Callable, *args: Any) -> Any:
    """`jax.vmap(fn)(*args)`."""
    if traced(*args):
        return jax.vmap(fn)(*args)
    count = len(jax.tree.leaves(args)[0])
    results = [fn(*jax.tree.map(lambda a, i=i: a[i], args)) for i in range(count)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


def complex_of(real: Any, imaginary: Any) -> Any:
    """`jax.lax.complex`, for arrays of any two shapes."""
    if traced(real, imaginary):
        return jax.lax.complex(*jnp.broadcast_arrays(jnp.asarray(real), jnp.asarray(imaginary)))
    real, imaginary = np.broadcast_arrays(real, imaginary)
    both = np.empty(real.shape, np.result_type(real, 1j))
    both.real, both.imag = real, imaginary
    return both


def running_max(x: Any) -> Any:
    """The running maximum."""
    return jax.lax.cummax(x) if isinstance(x, jax.Array) else np.maximum.accumulate(x)


def first_places(condition: Any, count: int) -> Any:
    """The first `count` places where a condition is true, padded with −1."""
    if traced(condition):
        return jnp.nonzero(condition, size=count, fill_value=-1)[0]
    found = np.full(count, -1)
    places = np.nonzero(condition)[0][:count]
    found[: places.size] = places
    return found


def stop_gradient(x: Any) -> Any:
    """`jax.lax.stop_gradient`."""
    return jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x


def of_one_kind(tree: _State) -> _State:
    """Convert all arrays to JAX arrays if one of them is."""
    return jax.tree.map(jnp.asarray, tree) if traced(tree) else tree


def barrier(tree: _State) -> _State:
    """`jax.lax.optimization_barrier`."""
    return jax.lax.optimization_barrier(tree) if traced(tree) else tree


def on_host(tree: Any) -> Any:
    """Convert to NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, tree)


def to_jax(tree: _State) -> _State:
    """Convert to JAX arrays."""
    known = np.ndarray | np.generic
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, known) else x, tree)
