"""Checks of the arguments of public functions; a bad one raises a one-line error.

A message names the argument, says what it must be, and ends with what was given. Traced numbers
pass unchecked: inside a compiled sweep a bad point becomes a status, not an exception.
"""

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from theory.numerics._arrays import Array
from theory.numerics._status import Estimate

MOST_NODES = 1024
"""Largest number of nodes per panel of a quadrature; beyond, the nodes alone take seconds."""
Tree = TypeVar("Tree")
_PLAIN = (str, bytes, bool, int, float, complex, list, tuple, np.generic, type(None))


def shown(value: Any) -> str:
    """Show a value on one line: plain ones as written, others by their type or shape."""
    if isinstance(value, Tracer):
        return "a traced value"
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        return f"an array of shape {list(value.shape)} and type {value.dtype}"
    if isinstance(value, np.ndarray | jax.Array | np.generic):
        return str(value)
    if not isinstance(value, _PLAIN):
        return type(value).__name__
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Give a field the name that the user knows, in errors raised inside.

    A function that passes its argument ``gain`` on as ``variance`` does so in
    ``renamed(variance="gain")``. An error that begins with no field gets that of ``anything``.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(with_names(str(error), names)) from error


def with_names(message: str, names: Mapping[str, str]) -> str:
    """The message with the field at its beginning renamed; see `renamed`."""
    message = " ".join(message.split())
    if not message.startswith("`"):
        return f"`{names['anything']}`: {message}" if "anything" in names else message
    field, _, rest = message[1:].partition("`")
    head = re.split(r"[.\[]", field, maxsplit=1)[0]
    return f"`{names.get(head, head)}{field[len(head) :]}`{rest}"


def check_kind(name: str, value: Any, kind: Any, must: str) -> None:
    """Raise a `TypeError` that names the argument unless it is an instance of that kind."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}`: must be {must}; got {shown(value)}")


def check_callable(name: str, value: Any, arguments: int = 1, of: str = "") -> None:
    """Raise a `TypeError` that names the argument unless it takes this many arguments."""
    many = of or ("an array" if arguments == 1 else f"{arguments} arrays")
    if callable(value) and not isinstance(value, type):
        try:
            signature = inspect.signature(value)
        except (TypeError, ValueError):  # no signature: not written in Python
            return
        try:
            signature.bind(*range(arguments))
        except TypeError:
            taken = ", ".join(signature.parameters) or "nothing"
            raise TypeError(
                f"`{name}`: must be a function of {many}; got one that takes {taken}"
            ) from None
        return
    raise TypeError(f"`{name}`: must be a function of {many}; got {shown(value)}")


def check_flag(name: str, value: Any) -> None:
    """Raise a `ValueError` that names the argument unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}`: must be True or False; got {shown(value)}")


def check_word(name: str, value: Any, words: Iterable[str]) -> None:
    """Raise a `ValueError` that names the argument unless it is one of these words."""
    known = tuple(words)
    if not (isinstance(value, str) and value in known):
        raise ValueError(f"`{name}`: must be one of {', '.join(known)}; got {shown(value)}")


def as_path(name: str, value: Any) -> Path:
    """A text or a path as a path, of a file that may or may not exist.

    Raises
    ------
    TypeError, ValueError
        If it is neither, is empty, or no file can have it. The message names the argument.
    """
    if not isinstance(value, str | PathLike):
        raise TypeError(f"`{name}`: must be a path; got {shown(value)}")
    text = os.fspath(value)
    try:
        if not isinstance(text, str) or not text.isprintable() or not text:
            raise ValueError("no printable text")
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # ValueError: NUL
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"`{name}`: must be a path that a file can have; got {reason}, {shown(text)}"
        ) from error
    return Path(text)


_LARGEST = 2**31 - 1
"""Largest number of steps of a compiled loop, and of entries of an axis."""


def check_count(name: str, value: Any, lowest: int = 1, highest: int | None = None) -> None:
    """Raise a `ValueError` that names the argument unless it is a whole number in a range."""
    if isinstance(value, Tracer):
        raise ValueError(
            f"`{name}`: must be a whole number that is known before compilation; got a "
            "traced one (it cannot be an axis of a diagram, nor an argument of jax.jit or "
            "jax.vmap)"
        )
    known = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if highest is None and known and value > _LARGEST:
        highest = _LARGEST
    if not known or value < lowest or (highest is not None and value > highest):
        allowed = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"`{name}`: must be a whole number {allowed}; got {shown(value)}")


def check_order(order: Any) -> None:
    """Raise a `ValueError` unless `order` is a valid number of nodes per panel."""
    check_count("order", order, 8, MOST_NODES)


def check_positive(name: str, value: Any) -> None:
    """Raise a `ValueError` that names the argument unless it is finite and > 0, or traced."""
    number = as_number(name, value, "finite and above 0")
    if not isinstance(number, Tracer) and not 0 < number < np.inf:
        raise ValueError(f"`{name}`: must be finite and above 0; got {shown(value)}")


def check_length(name: str, value: Any) -> None:
    """Raise a `ValueError` that names the argument unless it is one number >= 0, or traced."""
    number = as_number(name, value, "finite and at least 0")
    if not isinstance(number, Tracer) and not 0 <= number < np.inf:
        raise ValueError(f"`{name}`: must be finite and at least 0; got {shown(value)}")


def check_variance(name: str, value: Any) -> None:
    """Raise a `ValueError` that names the argument unless every entry is finite and >= 0."""
    array = as_real(name, value)
    if isinstance(array, Tracer):
        return
    array = np.asarray(array)
    if not np.all(np.isfinite(array) & (array >= 0)):
        bad = array[~(np.isfinite(array) & (array >= 0))].ravel()[0]
        raise ValueError(f"`{name}`: must be finite and at least 0; got {bad}")


def as_real(name: str, value: Any, must: str = "contain real numbers") -> Array:
    """Convert a number, a list or an array to an array; traced values pass unchanged.

    Raises
    ------
    ValueError
        If it contains anything but real numbers, such as None, text, complex numbers or True.
    TypeError
        If it is an `Estimate` (its value is meant).
    """
    if isinstance(value, Tracer):
        return value
    if isinstance(value, Estimate):
        raise TypeError(f"`{name}`: must {must}; got an Estimate (pass its `.value`)")
    if isinstance(value, list | tuple) and any(
        isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)
    ):
        return jnp.asarray(value)
    try:
        array: Any = value if isinstance(value, jax.Array) else np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.asarray(None)
    kind = getattr(array.dtype, "kind", "")  # keys have none
    # Half precision other than NumPy's counts as floating only for JAX.
    if kind not in "iuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"`{name}`: must {must}; got {shown(value)}")
    return array


def as_array(name: str, value: Any, shape: str) -> Array:
    """`as_real` for a floating-point array with the axes of a text such as "[layers, m, n]".

    No axis may be empty; whole numbers become floating-point ones.
    """
    must = f"be real numbers of shape {shape}"
    array = as_real(name, value, must)
    if array.ndim != shape.count(",") + 1 or 0 in array.shape:
        raise ValueError(f"`{name}`: must {must}; got {shown(value)}")
    array = jnp.asarray(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def as_number(name: str, value: Any, allowed: str) -> Array:
    """`as_real` for one number; `allowed` describes the allowed ones."""
    must = f"be one number, {allowed}"
    array = as_real(name, value, must)
    if not isinstance(array, Tracer) and array.ndim:
        raise ValueError(f"`{name}`: must {must}; got {shown(value)}")
    return array


def as_row(name: str, value: Any) -> Array:
    """`as_real` for one number or a row of them, as a row of floating-point numbers."""
    array = as_real(name, value, "be a number or a row of them")
    if isinstance(array, Tracer):
        return array
    if array.ndim > 1:
        raise ValueError(f"`{name}`: must be a number or a row of them; got {shown(value)}")
    array = array.reshape(-1)
    return array.astype(jnp.result_type(float)) if array.dtype.kind in "iu" else array


def in_shape_of(value: Any, found: Tree) -> Tree:
    """Undo `as_row` in a result: drop the axis if `value` is one number."""
    if isinstance(value, list | tuple) or np.ndim(value):
        return found
    return jax.tree.map(lambda leaf: leaf.reshape(()), found)


def as_kinks(kinks: Any) -> tuple:
    """Return places as a tuple, or raise a `ValueError` unless they are finite numbers."""
    message = f"`kinks`: must be a sequence of finite numbers; got {shown(kinks)}"
    if isinstance(kinks, str) or not isinstance(kinks, Iterable):
        raise ValueError(message)
    places = tuple(kinks)
    for place in places:
        try:
            number = as_number("kinks", place, "finite")
        except (TypeError, ValueError):
            raise ValueError(message) from None
        if not isinstance(number, Tracer) and not np.isfinite(number):
            raise ValueError(message)
    return places
