"""Nonlinearities: a function together with what the Gaussian integrals must know of it."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.description import _functions as functions
from theory.description._closed_forms import ClosedForm, ErfForm, PiecewiseLinearForm, SinForm
from theory.description._files import defined_in, in_file
from theory.description._jumps import may_jump, steps_at
from theory.numerics import Array, as_kinks, shown, with_slope

Parity: TypeAlias = Literal["odd", "even"]

_UNIFORM = 1e9
"""The `scale` of a function with no feature near its kinks that distance would smooth out."""

_SAMPLE = (0.0, 0.15, 0.4, 0.7, 1.1, 1.9, 3.2, -0.15, -0.4, -0.7, -1.1, -1.9, -3.2)


class Componentwise(eqx.Module):
    """An activation φ applied to each real component on its own.

    Made by `activation` (from the table of names) or `componentwise` (from any function).
    """

    fn: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
    """φ, elementwise; its array leaves are parameters that can be swept and differentiated."""
    kinks: tuple[float, ...] = eqx.field(static=True)
    """Where φ or a derivative of it jumps, or a narrow feature away from 0 is centred."""
    scale: float = eqx.field(static=True)
    """The width of the features of φ around 0 and its kinks: 1 for tanh, 0.1 for tanh(10 z)."""
    parity: Parity | None = eqx.field(static=True)
    """Whether φ(-z) is -φ(z), φ(z), or neither."""
    name: str = eqx.field(static=True)
    """For text and file names."""
    closed_form_of: Callable[[Any], ClosedForm] | None = eqx.field(static=True, default=None)
    """Makes the closed form from `fn`, and so from the one copy of its parameters."""
    jumps: tuple[float, ...] = eqx.field(static=True, default=())
    """Where φ itself may jump: at ± those kinks where it does, or where nobody can tell yet."""
    features_known: bool = eqx.field(static=True, default=False)
    """Whether kinks and scale are all there is, as for named activations; others are searched."""
    source: str | None = eqx.field(static=True, default=None)
    """ "FILE.py:NAME" where it was read from there."""

    def __call__(self, z: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
        """φ(z), wherever the components of a unit are."""
        return self.fn(z)

    def with_slope(
        self, z: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """φ(z) and φ'(z)."""
        return with_slope(self.fn, z)

    def steps(self, dtype: Any) -> tuple[Float[Array, " jumps"], Float[Array, " jumps"]]:
        """φ(k + 0) − φ(k − 0) and the mean of the two, at every place of `jumps`."""
        return steps_at(self.fn, jnp.asarray(self.jumps, dtype))

    def push(
        self, z: Float[Array, "*units k"], tangents: Float[Array, "*units k m"]
    ) -> tuple[Float[Array, "*units k"], Float[Array, "*units k m"]]:
        """φ(z), and φ' times each of m tangents."""
        value, slope = self.with_slope(z)
        return value, slope[..., None] * tangents

    @property
    def places(self) -> tuple[float, ...]:
        """The kinks, as `Radial` names them."""
        return self.kinks

    @property
    def closed_form(self) -> ClosedForm | None:
        """The Gaussian moments of φ in closed form, where there is one."""
        return None if self.closed_form_of is None else self.closed_form_of(self.fn)


class Radial(eqx.Module):
    """An activation φ(z) = g(|z|) z/|z| of units z with several real components.

    It commutes with every rotation of the unit. Made by `radial`. For k = 1 it is the odd
    function with φ(z) = g(z) for z > 0.
    """

    profile: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
    """g, elementwise on lengths r ≥ 0, with g(0) = 0; its array leaves are parameters."""
    kinks: tuple[float, ...] = eqx.field(static=True)
    """Where g or a derivative of it jumps, in r > 0."""
    scale: float = eqx.field(static=True)
    """The width of the features of g around 0 and its kinks."""
    name: str = eqx.field(static=True)
    """For text and file names."""
    kinks_of: Callable[[Any], tuple[Float[Array, ""], ...]] | None = eqx.field(
        static=True, default=None
    )
    """Reads kinks that are parameters from the profile, and so from the one copy of them."""
    jumps: tuple[float, ...] = eqx.field(static=True, default=())
    """Where g itself may jump, in r > 0."""
    features_known: bool = eqx.field(static=True, default=False)
    """As for `Componentwise`."""
    source: str | None = eqx.field(static=True, default=None)
    """As for `Componentwise`."""

    @property
    def places(self) -> tuple[float | Float[Array, ""], ...]:
        """All kinks; those that are parameters are arrays and can be differentiated."""
        return self.kinks + (() if self.kinks_of is None else self.kinks_of(self.profile))

    def steps(self, dtype: Any) -> tuple[Float[Array, " jumps"], Float[Array, " jumps"]]:
        """g(k + 0) − g(k − 0) and the mean of the two, at every place of `jumps`."""
        return steps_at(self.profile, jnp.asarray(self.jumps, dtype))

    def __call__(self, z: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
        """φ(z), where `axis` holds the components of a unit."""
        return _turned_radially(self.profile, z, axis=axis)

    def gains(
        self, r: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """g'(r) and g(r)/r: the factors on tangents along z, and across."""
        value, slope = with_slope(self.profile, r)
        return slope, value / r

    def gains_at(
        self, z: Float[Array, "*units k"]
    ) -> tuple[Float[Array, "*units 1"], Float[Array, "*units 1"]]:
        """`gains` of every unit."""
        return self.gains(_norm(z))

    def push(
        self, z: Float[Array, "*units k"], tangents: Float[Array, "*units k m"]
    ) -> tuple[Float[Array, "*units k"], Float[Array, "*units k m"]]:
        """φ(z), and φ' times each of m tangents."""
        along, across = self.gains_at(z)
        n = (z / _norm(z))[..., None]
        radial = n * jnp.sum(n * tangents, axis=-2, keepdims=True)
        return across * z, across[..., None] * (tangents - radial) + along[..., None] * radial


def _norm(z: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*ones"]:
    """|z|, kept from zero so that g(r)/r is g'(0) there and derivatives are finite."""
    tiny = jnp.finfo(z.dtype).tiny
    if z.shape[axis] == 1:
        return jnp.maximum(jnp.abs(z), tiny**0.5)
    square = jnp.sum(z * z, axis=axis, keepdims=True)
    return jnp.sqrt(jnp.maximum(square, tiny))


@eqx.filter_custom_jvp
def _turned_radially(profile: Callable, z: Array, *, axis: int) -> Float[Array, "*shape"]:
    """g(|z|) z/|z|, with a derivative that takes one division and one evaluation of g.

    With one component it takes none, and no root.
    """
    r = _norm(z, axis)
    return profile(r) * jnp.sign(z) if z.shape[axis] == 1 else profile(r) / r * z


@_turned_radially.def_jvp
def _(primals, tangents, *, axis):
    (profile, z), (moved, t) = primals, tangents
    r = _norm(z, axis)
    value, slope = jax.jvp(profile, (r,), (jnp.ones_like(r),))
    rate = None
    if jax.tree.leaves(moved):
        rate = eqx.filter_jvp(lambda profile: profile(r), (profile,), (moved,))[1]
    if z.shape[axis] == 1:
        sign = jnp.sign(z)
        change = jnp.zeros_like(z) if t is None else slope * t
        return sign * value, change if rate is None else change + rate * sign
    inverse = 1 / r
    across = value * inverse
    change = jnp.zeros_like(z)
    if t is not None:
        bend = (slope - across) * inverse * inverse
        change = across * t + bend * jnp.sum(z * t, axis=axis, keepdims=True) * z
    return across * z, change if rate is None else change + rate * inverse * z


Activation: TypeAlias = Componentwise | Radial


def componentwise(
    fn: Callable[[Array], Array],
    *,
    kinks: Iterable[float | int] = (),
    scale: float | int = 1.0,
    parity: Parity | None = None,
    name: str | None = None,
) -> Componentwise:
    """Make an activation from any elementwise function.

    The quadrature takes what is declared here on trust where it cannot check it: an undeclared
    kink, or a narrow feature far from 0, costs most of the accuracy and is not always noticed.
    Spectra and products of saturated layers need φ' to relative accuracy in its tails, which
    JAX's own derivatives of tanh (1 − t²), sigmoid (s(1 − s)) and expm1 (e + 1) do not have:
    they end in zeros. Build on `activation("tanh")`, "sigmoid" and their like, which do, or give
    φ a derivative of its own:

        TANH = theory.activation("tanh")
        steep = theory.componentwise(lambda z: TANH(10 * z), scale=0.1, parity="odd")

        @jax.custom_jvp
        def logistic(z):
            return jax.nn.sigmoid(z)

        logistic.defjvps(lambda t, value, z: logistic(z) * logistic(-z) * t)

    Parameters
    ----------
    fn
        φ: a function from an array to one of the same shape and dtype, that JAX can trace and
        differentiate; or a module of this kind whose array leaves are its parameters.
    kinks
        Where φ or a derivative jumps, and the centres of narrow features away from 0 (3 for
        tanh(z - 3)).
    scale
        The width of the features of φ around 0 and the kinks, beyond which φ changes slowly:
        0.1 for tanh(10 z). Make it large (1e9) where the pieces between kinks are polynomials,
        and where the features do not die out, as for sin.
    parity
        "odd", "even" or None; checked on a few points.
    name
        For text and files; by default the name of `fn`.

    Raises
    ------
    ValueError
        If an argument is out of range; if `fn` is not elementwise, changes shape or dtype, or
        is not finite together with its derivative at ordinary points; if the parity is wrong.
        What needs numbers is not checked while a parameter of `fn` is traced.
    """
    return _componentwise("fn", fn, kinks, scale, parity, name)


def _componentwise(
    field: str, fn: Any, kinks: Any, scale: Any, parity: Any, name: Any
) -> Componentwise:
    """`field` is what the user calls the function."""
    if not callable(fn):
        raise ValueError(f"`{field}`: must be callable on an array; got {shown(fn)}")
    given = as_kinks(kinks)
    if any(isinstance(kink, Tracer) for kink in given):
        raise ValueError("`kinks`: must be known numbers; got some that JAX traces")
    places = tuple(sorted({float(kink) for kink in given}))
    if not (isinstance(scale, int | float | np.number) and 0 < scale < math.inf):
        raise ValueError(f"`scale`: must be a number in (0, inf); got {shown(scale)}")
    if parity not in ("odd", "even", None):
        raise ValueError(f'`parity`: must be "odd", "even" or None; got {shown(parity)}')
    if name is None:
        name = getattr(fn, "__name__", type(fn).__name__)
        name = "custom" if name == "<lambda>" else name
    if not isinstance(name, str) or not name:
        raise ValueError(f"`name`: must be a string that is not empty; got {shown(name)}")
    module = _as_module(fn)
    _check_shapes(field, module)
    _check_values(field, module, parity)
    jumps = may_jump(module, places)
    return Componentwise(module, places, float(scale), parity, name, jumps=jumps)


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
        One of `ACTIVATION_NAMES`; or "FILE.py:NAME", a function or an activation of your own. The
        file is run, and `save_network` can name it.
    parameters
        Scalars; they become array leaves, so that they can be swept and differentiated.

    Raises
    ------
    ValueError
        If the name is unknown, the activation has no such parameter, or it is not a finite
        real scalar.

    Accuracy
    --------
    φ and φ' are right to 8 eps, in float32 and in float64, also where φ is saturated; for
    gelu_tanh eps times twice its exponent is added. Relative to φ itself, and to φ' or, where
    gelu, gelu_tanh and silu have their minimum, to the terms that cancel there. What is below
    10⁴ times the smallest normal number may be lost. Higher derivatives keep their digits, too.

    References
    ----------
    Hendrycks and Gimpel (2016), Gaussian error linear units, section 2 (gelu, both forms).
    Klambauer et al. (2017), Self-normalizing neural networks, eq. 2 and section 2 (selu).
    """
    if in_file(name):
        for key in parameters:
            raise ValueError(f"`{key}`: a function in a file has no parameters here")
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
    fn = _as_module(row.fn(**values) if values else row.fn)
    return Componentwise(
        fn, row.kinks, row.scale, row.parity, name, row.closed_form_of, features_known=True
    )


def activation_in_file(target: str, folder: str | PathLike[str] = ".") -> Activation:
    """The activation, or function, that "FILE.py:NAME" names; relative files start in `folder`."""
    try:
        found = defined_in(target, folder)
    except ValueError as error:
        raise ValueError(f"`name`: {error}") from error
    if not isinstance(found, Componentwise | Radial):
        if not callable(found):
            raise ValueError(f"`name`: must name a function or an activation; got {shown(found)}")
        found = _componentwise("name", found, (), 1.0, None, None)
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
        g: a name of `activation`, of which r ≥ 0 is used ("relu" and "linear" then give the
        identity); "threshold", max(r - threshold, 0); or any elementwise function, for which
        see `componentwise`, also for what is asked of g' where g is saturated.
    kinks, scale, name
        For a function: as for `componentwise`.
    parameters
        For a name: as for `activation`; "threshold" has one, above 0 and 1 by default.

    Raises
    ------
    ValueError
        If g(0) is not 0, which would make φ discontinuous; and as `activation` and
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
            raise ValueError(f"`{min(parameters)}`: only a profile given by name has parameters")
        if not callable(profile):
            raise ValueError(f"`profile`: must be a name or a function; got {shown(profile)}")
        g = _componentwise("profile", profile, kinks, scale, None, name)
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
    """One activation; `fn` makes the function from the parameters where it has any."""

    fn: Callable[..., Any]
    kinks: tuple[float, ...]
    scale: float
    parity: Parity | None
    closed_form_of: Callable[[Any], ClosedForm] | None = None
    defaults: Mapping[str, float] = MappingProxyType({})


# The scales are the best of those tried, 0.2 to 3 and _UNIFORM, for nodes a + b = 3 scale sinh t
# with 24 to 48 points at lengths from 1e-2 to 1e6; within a factor of 1.5 they all serve.
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
    """The parameters of the activation, or radial profile, of that name."""
    return ("threshold",) if name == "threshold" else tuple(_TABLE[name].defaults)


class _Function(eqx.Module):
    """A plain function as a pytree without leaves, so that all leaves of φ are arrays."""

    fn: Callable[[Any], Any] = eqx.field(static=True)

    def __call__(self, z: Any) -> Any:
        return self.fn(z)


def _as_module(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return _Function(fn) if any(leaf is fn for leaf in jax.tree.leaves(fn)) else fn


def _parameter(name: str, value: Any) -> Float[Array, ""]:
    """A scalar parameter as an array; a Python number takes the default floating-point type."""
    if isinstance(value, Tracer):
        good = value.shape == ()
    else:
        host = np.asarray(value)
        good = host.shape == () and host.dtype.kind in "iuf" and bool(np.isfinite(host))
    if not good:
        raise ValueError(f"`{name}`: must be a finite real scalar; got {shown(value)}")
    dtype = jnp.result_type(value)
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jnp.asarray(value, dtype if floating else jnp.result_type(float))


def _check_shapes(field: str, fn: Callable[[Any], Any]) -> None:
    dtype = jnp.result_type(float)
    for shape in ((), (3,), (2, 3)):
        try:
            result = jax.eval_shape(lambda z: fn(z), jax.ShapeDtypeStruct(shape, dtype))
        except Exception as error:
            why = _failure(error, f"on an array of shape {shape}")
            raise ValueError(f"`{field}`: {why}") from error
        if not isinstance(result, jax.ShapeDtypeStruct):
            raise ValueError(f"`{field}`: must return one array; got {shown(result)}")
        if result.shape != shape:
            raise ValueError(
                f"`{field}`: must keep the shape of its argument; got {result.shape} for {shape}"
            )
        if result.dtype != dtype:
            raise ValueError(
                f"`{field}`: must keep the dtype of its argument; got {result.dtype} for {dtype}"
            )


@eqx.filter_jit
def _probe(fn: Callable[[Any], Any], z: Array) -> tuple[Array, Array, Array, Array]:
    """φ(z), φ'(z), φ of each element by itself, and φ(-z)."""
    value, slope = jax.jvp(lambda z: fn(z), (z,), (jnp.ones_like(z),))
    return value, slope, jax.vmap(lambda z: fn(z))(z), fn(-z)


def _check_values(field: str, fn: Callable[[Any], Any], parity: Parity | None) -> None:
    with jax.ensure_compile_time_eval():
        z = jnp.asarray(_SAMPLE, jnp.result_type(float))
        try:
            results = _probe(fn, z)
        except Exception as error:
            raise ValueError(f"`{field}`: {_failure(error, 'when differentiated')}") from error
        if any(isinstance(result, Tracer) for result in results):
            return  # a traced parameter of fn, or a traced value that it closes over
    value, slope, alone, mirrored = map(np.asarray, results)
    _require_finite(field, "fn", value)
    _require_finite(field, "the derivative of fn", slope[1:])
    tolerance = math.sqrt(np.finfo(value.dtype).eps) * np.max(np.abs(value))
    for i, point in enumerate(_SAMPLE):
        if not abs(value[i] - alone[i]) <= tolerance:
            raise ValueError(
                f"`{field}`: must act on each element alone, but at {point} it gives "
                f"{value[i]:.6g} among others and {alone[i]:.6g} alone"
            )
    if parity is not None:
        expected = -value if parity == "odd" else value
        for i, point in enumerate(_SAMPLE):
            if not abs(mirrored[i] - expected[i]) <= tolerance:
                raise ValueError(
                    f"`parity`: declared {parity}, but fn({point}) = {value[i]:.6g} and "
                    f"fn({-point}) = {mirrored[i]:.6g}"
                )


def _require_finite(field: str, what: str, values: np.ndarray) -> None:
    for point, value in zip(_SAMPLE[-len(values) :], values, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"`{field}`: {what} must be finite, but is {value} at {point}")


def _failure(error: Exception, when: str) -> str:
    first = (str(error).splitlines() or [""])[0][:120]
    return f"must be a function JAX can trace; {when} it raised {type(error).__name__}: {first}"
