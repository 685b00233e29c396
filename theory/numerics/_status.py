"""A number with the error it carries and what is known of it."""

import enum
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from theory.numerics._arrays import Array, xp


class Status(enum.IntEnum):
    """What is known of a value; stored beside it as an int8 in arrays and data files.

    The order is part of the file format: new members go at the end.
    """

    OK = 0
    """The error is within the tolerance that was asked for."""
    INACCURATE = 1
    """A value is there, but its error is larger than the tolerance that was asked for."""
    INFINITE = 2
    """The quantity diverges: an infinite depth scale, a length without bound."""
    ABSENT = 3
    """There is no such point: no further fixed point, no non-trivial correlation."""
    NOT_CONVERGED = 4
    """The iteration stopped before it reached its tolerance; the error says how far."""
    INVALID = 5
    """The parameters of this point are outside their allowed range."""


class Estimate(eqx.Module):
    """A value, an estimate of its absolute error, and a `Status`, all of one shape.

    `error` is a promise: the true error is meant to be no larger. It is NaN where `value` is.
    """

    value: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    status: Int[Array, "*shape"]


def as_estimate(value: Any, error: Any, tolerance: Any, magnitude: Any = None) -> Estimate:
    """An `Estimate` with status OK where error <= tolerance · magnitude, else INACCURATE.

    `magnitude` is |value| unless it is given. A value of +∞ is INFINITE.
    """
    value, error = xp.asarray(value), xp.asarray(error)
    # Of a value that is there an error that is lost is not known to be finite.
    error = xp.where(xp.isnan(error) & xp.isfinite(value), xp.inf, error)
    magnitude = xp.abs(value) if magnitude is None else magnitude
    good = error <= tolerance * magnitude
    status = xp.where(good, np.int8(Status.OK), np.int8(Status.INACCURATE))
    endless = xp.isposinf(value)
    status = xp.where(endless, np.int8(Status.INFINITE), status)
    error = xp.where(endless, xp.nan, error)
    return Estimate(value, error, xp.broadcast_to(status, value.shape))


def replace_where(condition: Any, status: Status, tree: Any) -> Any:
    """A tree whose estimates say `status` where `condition` holds; other leaves stay.

    Their value is then infinite for INFINITE and NaN otherwise, their error NaN.
    `condition` may be a function of the estimate.
    """
    stand_in = xp.inf if status == Status.INFINITE else xp.nan

    def replaced(e: Any) -> Any:
        if not isinstance(e, Estimate):
            return e
        where: Any = condition(e) if callable(condition) else condition
        return Estimate(
            xp.where(where, stand_in, e.value),
            xp.where(where, xp.nan, e.error),
            xp.where(where, np.int8(status), e.status),
        )

    return jax.tree.map(replaced, tree, is_leaf=lambda e: isinstance(e, Estimate))


def choose(condition: Any, these: Any, those: Any) -> Any:
    """`these` where `condition` holds, else `those`; two trees of one structure."""
    return jax.tree.map(lambda a, b: xp.where(condition, a, b), these, those)
