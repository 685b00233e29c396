"""Activations by name: the table, and radial ones with these profiles."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.description import _nonlinearities as functions
from theory.description._activations import Activation, Componentwise, Parity, Radial
from theory.description._closed_forms import ClosedForm, ErfForm, PiecewiseLinearForm, SinForm
from theory.description._componentwise import as_module, checked_componentwise
from theory.description._python_files import defined_in, in_file
from theory.numerics import Array, shown

_UNIFORM = 1e9
"""The `scale` of a function without features near its kinks that distance would smooth."""


def activation(name: str, **parameters: Any) -> Any:
    """Look up an activation by name.

    ============  ==========================================  ==========================
    Name          φ(z)                                        Parameters
    ============  ==========================================  ==========================
    elu           z for z > 0, alpha (eᶻ - 1) otherwise       alpha = 1
    erf           erf(z)
    gelu          z (1 + erf(z/√2))/2
    gelu_tanh     z (1 + tanh(√(2/π)(z + 0.044715 z³)))/2
    hard_tanh     z clipped to [-1, 1]
    leaky_relu    z for z ≥ 0, negative_slope z otherwise     negative_slope = 0.01
    linear        z
    relu          z for z > 0, 0 otherwise
    selu          elu with alpha 1.67326, times 1.05070
    sigmoid       1/(1 + e⁻ᶻ)
    silu          z/(1 + e⁻ᶻ), also known as swish
    sin           sin(z)
    softplus      log(1 + eᶻ)
    tanh          tanh(z)
    ============  ==========================================  ==========================

    Parameters
    ----------
    name
        One of `ACTIVATION_NAMES`; or "FILE.py:NAME", a function or an activation defined in a
        Python file. The file is run; `save_network` can refer to it.
    parameters
        Scalars. They become array leaves, so they can be swept and differentiated.

    Raises
    ------
    ValueError
        If the name is unknown, if the activation has no such parameter, or if a parameter is not
        a finite real scalar.

    Accuracy
    --------
    φ and φ' are accurate to 8 eps, in float32 and in float64, also where φ is saturated. For
    gelu_tanh add eps times twice its exponent. The error is relative to φ itself and to φ';
    where gelu, gelu_tanh and silu have their minimum, it is relative to the terms that cancel
    there. Values below 10⁴ times the smallest normal number may be lost. Higher derivatives keep
    their digits, too.

    References
    ----------
    Hendrycks and Gimpel (2016), Gaussian error linear units, section 2 (gelu, both forms).
    Klambauer et al. (2017), Self-normalizing neural networks, eq. 2 and section 2 (selu).
    """
    if in_file(name):
        for key in parameters:
            raise ValueError(f"`{key}`: a function in a file takes no parameters here")
        return activation_in_file(name)
    if not isinstance(name, str) or name not in _TABLE:
        names = ", ".join(ACTIVATION_NAMES)
        raise ValueError(f"`name`: must be one of {names}; got {shown(name)}")
    row = _TABLE[name]
    for key in parameters:
        if key not in row.defaults:
            known = ", ".join(row.defaults) or "none"
            raise ValueError(f"`{key}`: not a parameter of {name}, which has: {known}")
    values = {k: _parameter(k, parameters.get(k, v)) for k, v in row.defaults.items()}
    fn = as_module(row.fn(**values) if values else row.fn)
    return Componentwise(
        fn, row.kinks, row.scale, row.parity, name, row.closed_form_of, features_known=True
    )


def activation_in_file(target: str, folder: str | PathLike[str] = ".") -> Activation:
    """Load the activation or function "FILE.py:NAME"; relative paths start in `folder`."""
    try:
        found = defined_in(target, folder)
    except ValueError as error:
        raise ValueError(f"`name`: {error}") from error
    if not isinstance(found, Componentwise | Radial):
        if not callable(found):
            raise ValueError(f"`name`: must name a function or an activation; got {shown(found)}")
        found = checked_componentwise("name", found, (), 1.0, None, None)
    file, _, name = target.rpartition(":")
    return dataclasses.replace(found, source=f"{Path(folder, file).resolve()}:{name}")


def radial(
    profile: str | Callable[[Array], Array],
    *,
    kinks: Iterable[float | int] = (),
    scale: float | int = 1.0,
    name: str | None = None,
    **parameters: Any,
) -> Radial:
    """Make a radial activation φ(z) = g(|z|) z/|z| from its profile g.

    Parameters
    ----------
    profile
        g: a name that `activation` knows, of which r ≥ 0 is used ("relu" and "linear" then give
        the identity); "threshold", max(r - threshold, 0); or any elementwise function. See
        `componentwise` for what is required of a function, including g' where g is saturated.
    kinks, scale, name
        For a function, as in `componentwise`.
    parameters
        For a name, as in `activation`. "threshold" has one parameter, `threshold`, positive and
        1 by default.

    Raises
    ------
    ValueError
        If g(0) is not 0, which would make φ discontinuous; otherwise as `activation` and
        `componentwise`.

    References
    ----------
    Iqbal et al. 2026 (arXiv 2605.14685), for g = tanh.
    """
    if isinstance(profile, str) and profile == "threshold":
        unknown = set(parameters) - {"threshold"}
        if unknown:
            raise ValueError(f"`{min(unknown)}`: not a parameter of threshold")
        at = _parameter("threshold", parameters.get("threshold", 1.0))
        if not isinstance(at, Tracer) and not at > 0:
            raise ValueError(f"`threshold`: must be above 0; got {float(at):.6g}")
        g, where = functions.Threshold(at), _threshold_place
        return Radial(g, (), _UNIFORM, "threshold", where, features_known=True)
    if isinstance(profile, str):
        if profile not in _TABLE:
            names = ", ".join((*ACTIVATION_NAMES, "threshold"))
            raise ValueError(f"`profile`: must be one of {names}; got {shown(profile)}")
        g = activation(profile, **parameters)
    else:
        if parameters:
            raise ValueError(f"`{min(parameters)}`: only a profile given by name takes parameters")
        if not callable(profile):
            raise ValueError(f"`profile`: must be a name or a function; got {shown(profile)}")
        g = checked_componentwise("profile", profile, kinks, scale, None, name)
    with jax.ensure_compile_time_eval():
        origin = g.fn(jnp.zeros((), jnp.result_type(float)))
    if not isinstance(origin, Tracer) and abs(float(origin)) > 0:
        raise ValueError(f"`profile`: must be 0 at r = 0; got {float(origin):.6g}")
    positive = lambda places: tuple(k for k in places if k > 0)
    jumps, known = positive(g.jumps), g.features_known
    return Radial(g.fn, positive(g.kinks), g.scale, g.name, jumps=jumps, features_known=known)


def _threshold_place(profile: functions.Threshold) -> tuple[Float[Array, ""], ...]:
    return (profile.threshold,)


def _leaky_relu_form(fn: functions.LeakyRelu) -> ClosedForm:
    return PiecewiseLinearForm(fn.negative_slope)


def _relu_form(fn: Any) -> ClosedForm:
    return PiecewiseLinearForm(jnp.asarray(0.0))


def _linear_form(fn: Any) -> ClosedForm:
    return PiecewiseLinearForm(jnp.asarray(1.0))


def _erf_form(fn: Any) -> ClosedForm:
    return ErfForm()


def _sin_form(fn: Any) -> ClosedForm:
    return SinForm()


class _Row(NamedTuple):
    """One activation; `fn` builds the function from the parameters if it has any."""

    fn: Callable[..., Any]
    kinks: tuple[float, ...]
    scale: float
    parity: Parity | None
    closed_form_of: Callable[[Any], ClosedForm] | None = None
    defaults: Mapping[str, float] = MappingProxyType({})


# The scales are the best of those tried, 0.2 to 3 and _UNIFORM, for nodes a + b = 3 scale sinh t
# with 24 to 48 points at lengths from 1e-2 to 1e6. Any within a factor of 1.5 serves as well.
_TABLE = {
    "elu": _Row(functions.Elu, (0.0,), 2.0, None, None, {"alpha": 1.0}),
    "erf": _Row(functions.erf, (), 0.7, "odd", _erf_form),
    "gelu": _Row(functions.gelu, (), 1.2, None),
    "gelu_tanh": _Row(functions.gelu_tanh, (), 1.3, None),
    "hard_tanh": _Row(jax.nn.hard_tanh, (-1.0, 1.0), _UNIFORM, "odd"),
    "leaky_relu": _Row(
        functions.LeakyRelu, (0.0,), _UNIFORM, None, _leaky_relu_form, {"negative_slope": 0.01}
    ),
    "linear": _Row(jax.nn.identity, (), _UNIFORM, "odd", _linear_form),
    "relu": _Row(jax.nn.relu, (0.0,), _UNIFORM, None, _relu_form),
    "selu": _Row(functions.selu, (0.0,), 2.0, None),
    "sigmoid": _Row(functions.sigmoid, (), 1.5, None),
    "silu": _Row(functions.silu, (), 2.0, None),
    "sin": _Row(jnp.sin, (), _UNIFORM, "odd", _sin_form),
    "softplus": _Row(functions.softplus, (), 2.0, None),
    "tanh": _Row(functions.tanh, (), 1.0, "odd"),
}

ACTIVATION_NAMES: tuple[str, ...] = tuple(sorted(_TABLE))
"""The names that `activation` knows."""


def parameters_of(name: str) -> tuple[str, ...]:
    """The parameters of the activation, or radial profile, of this name."""
    return ("threshold",) if name == "threshold" else tuple(_TABLE[name].defaults)


def _parameter(name: str, value: Any) -> Float[Array, ""]:
    """Convert a scalar parameter to an array; Python numbers take the default float type."""
    if isinstance(value, Tracer):
        good = value.shape == ()
    else:
        host = np.asarray(value, object) if isinstance(value, list | tuple) else np.asarray(value)
        good = host.shape == () and host.dtype.kind in "iuf" and bool(np.isfinite(host))
    if not good:
        raise ValueError(f"`{name}`: must be a finite real scalar; got {shown(value)}")
    dtype = jnp.result_type(value)
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jnp.asarray(value, dtype if floating else jnp.result_type(float))
