"""A sweep as data: a description with axes, and the address of everything it asks for."""

import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from sigprop.networks import units_of
from sigprop.storage import build, read_toml

if TYPE_CHECKING:
    from theory import Part

SCHEMA = 1
"""Of the store, and of what the numbers in it mean."""
AXES = (
    "activation",
    "weights",
    "residual",
    "depth",
    "width",
    "weight_variance",
    "bias_variance",
    "input_length",
    "input_correlation",
)
"""The fields that may hold several values, the slowest first: those that need another program
come before those that are numbers in it."""
OBSERVABLES = ("length", "correlation", "distance", "slope", "log_gain", "gradient_growth")
"""What may be measured, layer by layer."""
_FLOATS = ("weight_variance", "bias_variance", "input_length", "input_correlation")
_COUNTS = ("depth", "width")
_POINTS = 10**6
_STEP = 4000
"""The least work of a layer, in random numbers."""
CHUNK_WORK = 4e8
"""Random numbers in a chunk: about a second of one core."""
_FEWEST_CHUNKS = 64
_CHUNK_BYTES = 2**24
_MOST_REPLICAS = 64

Number: TypeAlias = float | int | str | Sequence[float] | Sequence[int] | np.ndarray
Text: TypeAlias = str | Sequence[str]


@dataclass(frozen=True)
class Sweep:
    """What is measured in networks of every combination of values.

    Every field named in `AXES` may hold one value or several; several are an axis. Several
    numbers are a list, an array, or a text "start:stop:count".

    Replica r of a cell depends on the values of its fields and on r alone: not on the axes, the
    number of replicas, the order of the work, the size of chunks, or the devices. Cells that
    differ in variances alone use the same random numbers, so that differences along such an
    axis have smaller errors than the cells.
    """

    activation: Text = "tanh"
    """A name for `theory.activation`; with `symmetry`, the profile of `theory.radial`."""
    weights: Text = "gaussian"
    """ "gaussian", "orthogonal" or "sparse:DENSITY"."""
    residual: bool | Sequence[bool] = False
    depth: Number = 50
    """Hidden layers behind the input layer."""
    width: Number = 128
    """Units per layer."""
    weight_variance: Number = 1.0
    bias_variance: Number = 0.0
    input_length: Number = 1.0
    """Length q of the inputs; of a data set, the mean over its images."""
    input_correlation: Number = 0.5
    """Of the two inputs of "gram"."""
    symmetry: str | None = None
    """ "O(k)", "U(m)" or "Sp(m)": units that rotate."""
    inputs: str = "gram"
    """ "gram" (two inputs of exactly the wanted length and correlation), "digits"
    (scikit-learn's), or a folder of IDX files."""
    input_count: int = 2
    """Images to take of a data set."""
    input_width: int = 64
    """Units of an input of "gram"."""
    observables: tuple[str, ...] = ("length", "correlation", "slope")
    """Of "length", "correlation", "distance", "slope", "log_gain" and "gradient_growth"."""
    layers: tuple[int, ...] | None = None
    """Layers to keep, from 0, negative ones counted from the last; None for all."""
    replicas: int = 16
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    explicit_weights: bool = True
    """See `sample_network`."""
    precision: str = "highest"
    """Of matrix products."""
    networks_at_once: int | None = None
    """Networks in one batch of the compiled program. Part of a cell's address, since compilers
    choose kernels by it. None is 1 on a CPU, and 32 on other devices."""

    def __post_init__(self):
        for name in AXES:
            object.__setattr__(self, name, _values(name, getattr(self, name)))
        observables = (self.observables,) if isinstance(self.observables, str) else self.observables
        object.__setattr__(self, "observables", tuple(observables))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        self._check()

    def _check(self) -> None:
        def need(good: Any, name: str, what: str) -> None:
            if not good:
                raise ValueError(f"`{name}`: must {what}; got {getattr(self, name)}")

        each = {name: self.values(name) for name in AXES}
        for name, values in each.items():
            need(values and len(set(values)) == len(values), name, "hold different values")
        for name in ("weight_variance", "bias_variance"):
            need(min(each[name]) >= 0, name, "be finite and at least 0")
        need(min(each["input_length"]) > 0, "input_length", "be finite and above 0")
        inside = all(-1 <= c <= 1 for c in each["input_correlation"])
        need(inside, "input_correlation", "be between -1 and 1")
        for name in _COUNTS:
            need(min(each[name]) >= 1, name, "be whole numbers of at least 1")
        for name, least in (("replicas", 1), ("input_count", 1), ("input_width", 1)):
            value = getattr(self, name)
            need(
                type(value) is int and value >= least,
                name,
                f"be a whole number of at least {least}",
            )
        need(0 <= self.seed < 2**32, "seed", f"be from 0 to {2**32 - 1}")
        need(self.dtype in ("float32", "float64"), "dtype", "be float32 or float64")
        known = bool(self.observables) and set(self.observables) <= set(OBSERVABLES)
        need(known, "observables", f"be some of {', '.join(OBSERVABLES)}")
        deepest = max(each["depth"])
        if self.layers is not None:
            inside = all(-deepest - 1 <= layer <= deepest for layer in self.layers)
            distinct = len(set(self.layers)) == len(self.layers) > 0
            need(
                inside and distinct, "layers", f"be different and from {-deepest - 1} to {deepest}"
            )
        if self.networks_at_once is not None:
            need(self.networks_at_once >= 1, "networks_at_once", "be at least 1")
        for name in ("input_length", "input_correlation"):
            single = self.inputs == "gram" or name == "input_length" or not self.is_axis(name)
            need(single, name, 'be one value unless the inputs are "gram"')
        need(self.symmetry is None or self.inputs == "gram", "inputs", "be gram with a symmetry")
        size = math.prod(len(values) for values in each.values())
        if size > _POINTS:
            raise ValueError(f"`sweep`: must have at most {_POINTS} points; got {size}")
        self._check_networks()

    def _check_networks(self) -> None:
        """That every kind of network can be described, and drawn as asked for."""
        import theory
        from theory.description import OrthogonalWeights, weight_family

        units = units_of(self.symmetry) if self.symmetry else {}
        for name in self.values("activation"):
            find = theory.radial if units else theory.activation
            try:
                find(name)
            except ValueError as error:
                message = str(error).replace("`name`", "`activation`")
                raise ValueError(message.replace("`profile`", "`activation`")) from error
        for word in self.values("weights"):
            family = weight_family(word)
            if isinstance(family, OrthogonalWeights) and units.get("algebra", "real") != "real":
                raise ValueError(f"`weights`: must be gaussian with {self.symmetry}; got {word}")
            if not (self.explicit_weights or family.rotation_invariant):
                raise ValueError(f"`explicit_weights`: must be true with {word} weights; got false")

    def is_axis(self, name: str) -> bool:
        """Whether a field holds several values."""
        return isinstance(getattr(self, name), tuple)

    def values(self, name: str) -> tuple:
        """The values of a field, one or several."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)

    @property
    def axes(self) -> dict[str, tuple]:
        """The fields that hold several values, the slowest first."""
        return {name: self.values(name) for name in AXES if self.is_axis(name)}

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each of `AXES` has."""
        return tuple(len(self.values(name)) for name in AXES)

    @property
    def points(self) -> int:
        """Points of the grid: the product of the axes."""
        return math.prod(self.shape)

    def point(self, index: int) -> dict[str, Any]:
        """The values of the fields in `AXES` at one point of the grid."""
        at = np.unravel_index(index, self.shape)
        return {name: self.values(name)[i] for name, i in zip(AXES, at, strict=True)}

    @property
    def components(self) -> int:
        """Real components of a unit."""
        return units_of(self.symmetry)["components"] if self.symmetry else 1

    @cached_property
    def kept_layers(self) -> tuple[int, ...]:
        """The layers that are kept, as labels: negative ones count from the last."""
        if self.layers is not None:
            return self.layers
        return tuple(range(max(self.values("depth")) + 1))

    def network(self, point: Mapping[str, Any]) -> "Part":
        """The description at a point of the grid; its variances may be traced."""
        import theory

        units = units_of(self.symmetry) if self.symmetry else {}
        name = point["activation"]
        return theory.feedforward(
            theory.radial(name) if units else theory.activation(name),
            point["weight_variance"],
            point["bias_variance"],
            depth=point["depth"],
            weights=point["weights"],
            residual=point["residual"],
            **units,
        )

    def signals(self, length: float, correlation: float) -> Any:
        """The inputs of a point of the grid, [inputs, width_in, components], in the dtype."""
        import jax
        import jax.numpy as jnp

        from sigprop.networks import digits_inputs, gram_inputs, idx_inputs, pair_gram

        # Networks of width N have the key folded with N: 0 is free.
        key = jax.random.fold_in(jax.random.key(self.seed), 0)
        if self.inputs == "gram":
            gram = pair_gram(length, correlation)
            width, k = self.input_width, self.components
            if width <= 2 * k:
                raise ValueError(f"`input_width`: must be above {2 * k}; got {width}")
            found = gram_inputs(key, gram, width, components=k)
        elif self.inputs == "digits":
            found, _ = digits_inputs(key, self.input_count, length=length)
        else:
            found, _ = idx_inputs(key, self.inputs, self.input_count, length=length)
        return jnp.asarray(found, self.dtype)

    @property
    def inputs_at_once(self) -> int:
        """How many inputs go through a network."""
        return 2 if self.inputs == "gram" else self.input_count

    def cells(self, axis: str) -> int:
        """How many numbers of a layer are along the last axis, "input" or "pair"."""
        n = self.inputs_at_once
        return n if axis == "input" else n * (n - 1) // 2

    def at_once(self) -> int:
        """Networks in one batch of the compiled program, on the devices that are here."""
        import jax

        if self.networks_at_once is not None:
            return self.networks_at_once
        return 1 if jax.default_backend() == "cpu" else 32

    def addresses(self, environment: Mapping[str, Any]) -> np.ndarray:
        """SHA-256 of everything that decides the networks of each point: [points, 32] bytes.

        The values of all fields but the number of replicas, and the `environment`.
        """
        content = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in (*AXES, "replicas", "networks_at_once", "inputs")
        }
        content["environment"] = dict(environment)
        common = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        found = np.empty((self.points, 32), np.uint8)
        for index in range(self.points):
            one = common.copy()
            one.update(json.dumps(self.point(index), sort_keys=True).encode())
            found[index] = np.frombuffer(one.digest(), np.uint8)
        return found

    def work(self, depth: int, width: int) -> float:
        """The cost of one network in random numbers."""
        from theory.description import ALGEBRAS

        units = units_of(self.symmetry) if self.symmetry else {}
        size = ALGEBRAS[units.get("algebra", "real")].size
        k, n = self.components, self.inputs_at_once
        # Without weights the QR factorisation of signals and tangents counts as more numbers.
        layer = width**2 * size if self.explicit_weights else width * k * (4 * n) ** 2
        backward = 3 if "gradient_growth" in self.observables else 1
        return float(max(layer, _STEP) * (depth + 1) * backward)

    def row_bytes(self) -> int:
        """What one network leaves behind."""
        cells = self.inputs_at_once * (self.inputs_at_once + 1) // 2
        size = 4 if self.dtype == "float32" else 8
        return max(1, len(self.kept_layers) * cells * size * len(self.observables))

    def chunk(self, networks: int | None = None) -> tuple[int, int]:
        """Points and replicas in a chunk of the store: about a second of one core, but so little
        that there are some for many devices; or as told.

        The replicas are a power of two, so that chunks of any two stores are nested.
        """
        depth, width = max(self.values("depth")), max(self.values("width"))
        fair = self.points * self.replicas / _FEWEST_CHUNKS
        wanted = networks or min(fair, CHUNK_WORK / self.work(depth, width))
        wanted = max(1, min(int(wanted), _CHUNK_BYTES // self.row_bytes()))
        most = min(_MOST_REPLICAS, 2 ** math.ceil(math.log2(self.replicas)))
        replicas = min(most, 2 ** int(math.log2(wanted)))
        return min(self.points, max(1, wanted // replicas)), replicas


def environment(sweep: Sweep) -> dict[str, Any]:
    """What decides the bits of a result beside the fields: versions, device, configuration, and
    the content of a data set."""
    import jax

    from theory.numerics import plain_options

    content = sweep.inputs
    if content != "gram":
        signals = np.asarray(sweep.signals(1.0, 0.0))
        content = hashlib.sha256(signals.tobytes()).hexdigest()
    config: Any = jax.config
    return {
        "schema": SCHEMA,
        "sigprop": version("sigprop"),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "platform": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
        "machine": platform.machine(),
        "x64": bool(config.jax_enable_x64),
        "matmul_precision": str(config.jax_default_matmul_precision or "default"),
        "random": str(config.jax_default_prng_impl),
        "random_partitionable": bool(config.jax_threefry_partitionable),
        "compiler": plain_options(),
        "networks_at_once": sweep.at_once(),
        "inputs": content,
    }


def _values(name: str, value: Any) -> Any:
    """The value of a field, or a tuple of them where there are several."""
    numeric = name in _FLOATS or name in _COUNTS
    kind = float if name in _FLOATS else int if name in _COUNTS else type(value)
    if numeric and isinstance(value, str):
        value = _range(name, value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, range)):
        return tuple(_one(name, kind if numeric else None, item) for item in value)
    return _one(name, kind if numeric else None, value)


def _one(name: str, kind: Any, value: Any) -> Any:
    if kind is None:
        wanted = bool if name == "residual" else str
        if type(value) is not wanted:
            what = "true or false" if wanted is bool else "a text"
            raise ValueError(f"`{name}`: must be {what}, or a list of them; got {value!r}")
        return value
    try:
        number = kind(value)
        good = math.isfinite(number) and number == value and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        good, number = False, None
    if not good:
        what = "finite numbers" if kind is float else "whole numbers"
        raise ValueError(f"`{name}`: must be {what}; got {value!r}")
    return number


def _range(name: str, text: str) -> list[Any]:
    try:
        start, stop, count = text.split(":")
        values = np.linspace(float(start), float(stop), int(count))
    except ValueError:
        raise ValueError(f"`{name}`: must be numbers or start:stop:count; got {text}") from None
    if name in _COUNTS:
        return [int(v) for v in np.unique(values.round())] if np.all(np.isfinite(values)) else [0]
    return values.tolist()


def read_sweep_file(path: str | PathLike[str]) -> Sweep:
    """A sweep from a TOML file, whose names are the fields of `Sweep`.

    Raises
    ------
    ValueError
        Names what cannot be read, an unknown field, or one out of range.
    """
    content = read_toml(path)
    try:
        return build(Sweep, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def union(sweeps: Sequence[Sweep]) -> Sweep:
    """The smallest sweep that holds all of these.

    Raises
    ------
    ValueError
        If they differ in more than axes and replicas.
    """
    first, *rest = sweeps
    changes: dict[str, Any] = {"replicas": max(s.replicas for s in sweeps)}
    for name in AXES:
        together = list(dict.fromkeys(v for s in sweeps for v in s.values(name)))
        if name in _FLOATS or name in _COUNTS:
            together.sort()
        if any(getattr(s, name) != getattr(first, name) for s in rest):
            changes[name] = tuple(together)
    for field in dataclasses.fields(Sweep):
        if field.name in AXES or field.name == "replicas":
            continue
        for other in rest:
            one, two = getattr(first, field.name), getattr(other, field.name)
            if one != two:
                raise ValueError(
                    f"`{field.name}`: must be the same in all sweeps; got {one}, {two}"
                )
    return dataclasses.replace(first, **changes)
