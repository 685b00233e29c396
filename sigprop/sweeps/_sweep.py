"""A sweep as data: descriptions with axes, and the addresses of its results."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from msgspec import Meta

from sigprop.networks import MOST_LAYERS, MOST_UNITS, check_precision, units_of
from sigprop.storage import Count, check_fields, network_text
from sigprop.sweeps import _description
from sigprop.sweeps._own_observables import Absent, written
from sigprop.sweeps._ratios import PARTS, check_ratio
from sigprop.sweeps._values import COUNTS, SHORTHAND, VARIANCES, read_values
from theory import OBSERVABLES, Observable
from theory.description import weight_family, weight_laws
from theory.mean_field import chosen_observables
from theory.numerics import renamed, shown

if TYPE_CHECKING:
    from theory import Part

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
"""The fields that may have several values, slowest first: those that need another program come
before those that are numbers in it."""
_TAKEN = {*AXES, "point", "replica", "layer", "measured", "networks", "marker", "address"}
"""Names that an observable cannot have in a store or a summary."""
STRUCTURE = ("activation", "weights", "residual", "depth", "width")
"""The fields of a point that a program is compiled for, the slowest axes."""
_CHECKED = (
    "symmetry",
    "inputs",
    "input_count",
    "input_width",
    "layers",
    "replicas",
    "seed",
    "dtype",
    "explicit_weights",
    "precision",
    "networks_at_once",
)
"""The fields whose types fully specify their values."""
_POINTS = 10**6
_NETWORKS = 10**8
"""Most networks of a sweep."""
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
    """What to measure, in networks for every combination of values.

    Every field named in `AXES` may have one value or several; several values are an axis.
    Several numbers are a list, an array, or a text "start:stop:count".

    Replica r of a cell depends only on the values of its fields and on r: not on the axes, the
    number of replicas, the order of the work, the size of chunks, or the devices. Cells that
    differ only in variances use the same random numbers, so differences along such an axis have
    smaller errors than the cells.
    """

    activation: Text | None = None
    """A name for `theory.activation`, by default "tanh", or "FILE.py:NAME"; with `symmetry`, the
    profile of `theory.radial`."""
    weights: Text | None = None
    """ "gaussian" (the default), "orthogonal", or "sparse:DENSITY"."""
    residual: bool | Sequence[bool] | None = None
    depth: Number | None = None
    """Hidden layers after the input layer; 50 by default, unless there is a `description`."""
    width: Number = 128
    """Units per layer."""
    weight_variance: Number | None = None
    """σ_w², 1 by default; in a `description`, that of all hidden layers."""
    bias_variance: Number | None = None
    """σ_b², 0 by default; in a `description`, that of all hidden layers."""
    input_length: Number = 1.0
    """Length q of the inputs; for a data set, the mean over its images."""
    input_correlation: Number = 0.5
    """Correlation of the two inputs of "gram"."""
    symmetry: str | None = None
    """ "O(k)", "U(m)" or "Sp(m)": the symmetry of units that rotate."""
    description: Any = None
    """Any network, instead of activation, weights, residual and symmetry: a description, its
    dictionary (`theory.to_dict`), or its file (`theory.load_network`). Without `depth` it is the
    whole network; with `depth` it is one layer, after an `Affine` with the law of its last one."""
    leaves: Any = ()
    """Values of other numbers of a `description`, by their paths in its dictionary: a mapping such
    as {"parts[1].body.parts[0].activation.negative_slope": [0.1, 0.2]}."""
    inputs: str = "gram"
    """ "gram" (two inputs of exactly the given length and correlation), "digits" (those of
    scikit-learn), or a folder of IDX files."""
    input_count: Count = 2
    """Number of images from a data set."""
    input_width: Annotated[int, Meta(ge=1)] = 64
    """Number of units of an input of "gram"."""
    observables: tuple[str | Observable, ...] = ("length", "correlation", "slope")
    """Names from `theory.OBSERVABLES`, and from Python observables of your own, whose functions
    must be defined in a module by name."""
    layers: tuple[int, ...] | None = None
    """Layers to keep, from 0; negative ones count from the last. None for all."""
    replicas: Annotated[int, Meta(ge=1)] = 16
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    dtype: Literal["float32", "float64"] = "float32"
    explicit_weights: bool = True
    """See `sample_network`."""
    precision: str = "highest"
    """Precision of matrix products."""
    networks_at_once: Count | None = None
    """Networks in one batch of the compiled program. It is part of a cell's address, since
    compilers choose kernels by it. By default 1 on a CPU, and 32 on other devices."""

    def __post_init__(self):
        check_fields(self, *_CHECKED)
        check_precision(self.precision)
        put = lambda name, value: object.__setattr__(self, name, value)
        if self.description is not None:
            put("description", network_text(self.description))
            for name in ("activation", "weights", "residual", "symmetry"):
                if getattr(self, name) is not None:
                    got = getattr(self, name)
                    must = "must not be given with a description"
                    raise ValueError(f"`{name}`: {must}; got {shown(got)}")
        else:
            for name, value in SHORTHAND.items():
                put(name, value if getattr(self, name) is None else getattr(self, name))
        for name in AXES:
            put(name, read_values(name, getattr(self, name)))
        if self.weights is not None:
            # One word per law, since results are found by it.
            words = tuple(weight_family(word).word for word in self.values("weights"))
            put("weights", words if self.is_axis("weights") else words[0])
        leaves: Any = self.leaves.items() if isinstance(self.leaves, Mapping) else self.leaves
        try:
            if isinstance(leaves, str):
                raise TypeError
            pairs = [(str(path), value) for path, value in leaves]
        except (TypeError, ValueError):
            raise ValueError(
                f"`leaves`: must be a mapping from paths; got {shown(leaves)}"
            ) from None
        put("leaves", tuple((path, read_values("leaves", value)) for path, value in pairs))
        names = [
            o.name if o.name in OBSERVABLES else o for o in chosen_observables(self.observables)
        ]
        put("observables", tuple(names))
        self._check()

    def _check(self) -> None:
        def need(good: Any, name: str, what: str) -> None:
            if not good:
                raise ValueError(f"`{name}`: must {what}; got {shown(getattr(self, name))}")

        self._check_leaves()
        each = {name: self.values(name) for name in self.axis_names}
        for name, values in each.items():
            if not values or len(set(values)) != len(values):
                raise ValueError(f"`{name}`: must have different values; got {shown(values)}")
        for name in VARIANCES:
            lowest = min((value for value in each[name] if value is not None), default=0)
            need(lowest >= 0, name, "be finite and at least 0")
        need(min(each["input_length"]) > 0, "input_length", "be finite and above 0")
        inside = all(-1 <= c <= 1 for c in each["input_correlation"])
        need(inside, "input_correlation", "be between -1 and 1")
        for name, most in zip(COUNTS, (MOST_LAYERS, MOST_UNITS), strict=True):
            need(min(each[name]) >= 1, name, "be whole numbers of at least 1")
            need(max(each[name]) <= most, name, f"be at most {most}")
        need(self.input_width <= MOST_UNITS, "input_width", f"be at most {MOST_UNITS}")
        deepest = max(each["depth"])
        if self.layers is not None:
            inside = all(-deepest - 1 <= layer <= deepest for layer in self.layers)
            distinct = len(set(self.layers)) == len(self.layers) > 0
            need(
                inside and distinct, "layers", f"be different and from {-deepest - 1} to {deepest}"
            )
        for name in ("input_length", "input_correlation"):
            single = self.inputs == "gram" or name == "input_length" or not self.is_axis(name)
            need(single, name, 'be one value unless the inputs are "gram"')
        need(self.symmetry != "", "symmetry", "be O(k), U(m) or Sp(m)")
        rotates = self.components > 1 or self.symmetry is not None
        need(not rotates or self.inputs == "gram", "inputs", "be gram with a symmetry")
        size = math.prod(len(values) for values in each.values())
        if size > _POINTS:
            raise ValueError(f"`sweep`: must have at most {_POINTS} points; got {size}")
        most = _NETWORKS // size
        need(self.replicas <= most, "replicas", f"be at most {most} for {size} points")
        self._check_networks()
        self._check_observables()

    def _check_observables(self) -> None:
        for own in (o for o in self.observables if isinstance(o, Observable)):
            if own.name in _TAKEN or own.name.endswith("_standard_error"):
                raise ValueError(
                    f"`observables`: must have other names than fields; got {own.name}"
                )
            written(own)
            if not isinstance(own.of, Absent):
                own.check(self.inputs_at_once, self.components)
            if own.ratio_of_means and not isinstance(own.of, Absent):
                check_ratio(own, self.inputs_at_once, self.components)

    def _check_leaves(self) -> None:
        """Check that the numbers which vary exist."""
        if self.description is not None:
            places = [_description.places(self.description, name) for name in self.numbers]
            several = [path for paths in places for path in paths]
            for path in several:
                if several.count(path) > 1:
                    raise ValueError(
                        f"`leaves`: must not name a number that another field sets; got {path}"
                    )
        elif self.leaves:
            raise ValueError("`leaves`: must be given with a description; got none")

    def _check_networks(self) -> None:
        """Check that every kind of network can be described, and drawn as requested."""
        if self.description is None:
            for name in self.values("activation"):
                self._phi(name)
            families = {word: weight_family(word) for word in self.values("weights")}
        else:
            laws = weight_laws(self.network(self.point(0)))
            families = {law.family.word: law.family for law in laws}
        for word, family in families.items():
            if not (self.explicit_weights or family.rotation_invariant):
                raise ValueError(f"`explicit_weights`: must be true with {word} weights; got false")

    def is_axis(self, name: str) -> bool:
        """Whether a field has several values."""
        return isinstance(self._field(name), tuple)

    def values(self, name: str) -> tuple:
        """The values of a field, one or several."""
        value = self._field(name)
        return value if isinstance(value, tuple) else (value,)

    def _field(self, name: str) -> Any:
        if name == "depth" and self.depth is None:
            return self._own_depth
        return dict(self.leaves)[name] if name not in AXES else getattr(self, name)

    @cached_property
    def _own_depth(self) -> int:
        import jax
        import jax.numpy as jnp

        from sigprop.networks import measured_depth

        part = _description.built(self.description, {}, None)
        shape = (self.inputs_at_once, self.input_width, self.components)
        signals = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
        return measured_depth(part, signals)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """All possible axes: `AXES`, and the paths of `leaves` after the variances."""
        at = AXES.index("input_length")
        return (*AXES[:at], *(path for path, _ in self.leaves), *AXES[at:])

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers in the description that differ between networks of one program."""
        chosen = [name for name in VARIANCES if getattr(self, name) is not None]
        return (*chosen, *(path for path, _ in self.leaves))

    @property
    def axes(self) -> dict[str, tuple]:
        """The fields that have several values, the slowest first."""
        return {name: self.values(name) for name in self.axis_names if self.is_axis(name)}

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each of `axis_names`."""
        return tuple(len(self.values(name)) for name in self.axis_names)

    @property
    def points(self) -> int:
        """The number of points of the grid: the product of the axes."""
        return math.prod(self.shape)

    def point(self, index: int) -> dict[str, Any]:
        """The values of `axis_names` at one point of the grid."""
        at = np.unravel_index(index, self.shape)
        return {name: self.values(name)[i] for name, i in zip(self.axis_names, at, strict=True)}

    @cached_property
    def components(self) -> int:
        """Number of real components of a unit."""
        from theory.description import components

        if self.description is not None:
            return components(_description.built(self.description, {}, None))
        return units_of(self.symmetry)["components"] if self.symmetry else 1

    @cached_property
    def kept_layers(self) -> tuple[int, ...]:
        """The layers to keep, as labels: negative ones count from the last."""
        if self.layers is not None:
            return self.layers
        return tuple(range(max(self.values("depth")) + 1))

    def network(self, point: Mapping[str, Any]) -> "Part":
        """The description at a point of the grid; its numbers may be traced."""
        import theory

        if self.description is not None:
            numbers = {
                path: point[name]
                for name in self.numbers
                for path in _description.places(self.description, name)
            }
            depth = None if self.depth is None else point["depth"]
            return _description.built(self.description, numbers, depth)
        units = units_of(self.symmetry) if self.symmetry else {}
        return theory.feedforward(
            self._phi(point["activation"]),
            point["weight_variance"],
            point["bias_variance"],
            depth=point["depth"],
            weights=point["weights"],
            residual=point["residual"],
            **units,
        )

    def _phi(self, name: str) -> Any:
        from theory.description import in_file, read_activation

        radial = self.symmetry is not None and not in_file(name)
        return read_activation({"radial": name} if radial else name)

    def signals(self, length: float, correlation: float) -> Any:
        """The inputs of a point of the grid, [inputs, width_in, components], in the dtype."""
        import jax

        with jax.default_matmul_precision(self.precision):
            return self._signals(length, correlation)

    def _signals(self, length: float, correlation: float) -> Any:
        import jax
        import jax.numpy as jnp

        from sigprop.networks import digits_inputs, gram_inputs, idx_inputs, pair_gram

        # Networks of width N use the key folded with N, so 0 is free.
        key = jax.random.fold_in(jax.random.key(self.seed), 0)
        if self.inputs == "gram":
            gram = pair_gram(length, correlation)
            width, k = self.input_width, self.components
            if width <= 2 * k:
                raise ValueError(f"`input_width`: must be above {2 * k}; got {width}")
            with renamed(width="input_width", gram="input_width"):
                found = gram_inputs(gram, width, key=key, components=k)
        elif self.inputs == "digits":
            with renamed(count="input_count", length="input_length"):
                found, _ = digits_inputs(self.input_count, key=key, length=length)
        else:
            with renamed(path="inputs", count="input_count", length="input_length"):
                found, _ = idx_inputs(self.inputs, self.input_count, key=key, length=length)
        return jnp.asarray(found, self.dtype)

    @property
    def inputs_at_once(self) -> int:
        """The number of inputs to a network."""
        return 2 if self.inputs == "gram" else self.input_count

    @cached_property
    def records(self) -> tuple[Observable, ...]:
        """The observables as records."""
        return chosen_observables(self.observables)

    @cached_property
    def stored(self) -> tuple[Observable, ...]:
        """What is stored of each network: the observables; for ratios, lengths and overlaps."""
        kept: dict[str, Observable] = {}
        for record in self.records:
            parts = [OBSERVABLES[name] for name in PARTS] if record.ratio_of_means else [record]
            kept |= {part.name: part for part in parts}
        return tuple(kept.values())

    def record(self, name: str) -> Observable:
        """One of the observables."""
        return next(record for record in self.records if record.name == name)

    def cells(self, observable: Observable) -> int:
        """The number of values of an observable per layer."""
        return observable.cells(self.inputs_at_once, self.components)

    def fields(self) -> dict[str, Any]:
        """The fields as plain values; `from_fields` turns them back into a sweep."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        observables = [o if isinstance(o, str) else written(o) for o in self.observables]
        return {**plain, "observables": observables}

    def at_once(self, platform: str) -> int:
        """Networks in one batch of the compiled program on a platform."""
        if self.networks_at_once is not None:
            return self.networks_at_once
        return 1 if platform == "cpu" else 32

    def addresses(self, environment: Mapping[str, Any]) -> np.ndarray:
        """SHA-256 of everything that determines the networks of each point: [points, 32] bytes.

        That is its network as a dictionary, however it was specified; the values of all other
        fields except the number of replicas; and the `environment`.
        """
        apart = (
            *AXES,
            "symmetry",
            "description",
            "leaves",
            "replicas",
            "networks_at_once",
            "inputs",
        )
        content = {name: value for name, value in self.fields().items() if name not in apart}
        content["environment"] = dict(environment)
        common = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        import jax.numpy as jnp

        kinds: dict[tuple, Any] = {}
        real = np.dtype(jnp.result_type(float))
        found = np.empty((self.points, 32), np.uint8)
        for index in range(self.points):
            point = self.point(index)
            structure = tuple(point[name] for name in STRUCTURE)
            if structure not in kinds:
                kinds[structure] = self._numbered(point)
            network, numbers, places = kinds[structure]
            for name, paths in places.items():
                # As in the description: in the working precision, and without signed zeros.
                numbers |= dict.fromkeys(paths, float(np.asarray(point[name], real)) + 0.0)
            rest = {name: point[name] for name in ("width", "input_length", "input_correlation")}
            one = common.copy()
            one.update(json.dumps([network, numbers, rest], sort_keys=True).encode())
            found[index] = np.frombuffer(one.digest(), np.uint8)
        return found

    def _numbered(self, point: Mapping[str, Any]) -> tuple[Any, dict[str, Any], dict[str, list]]:
        """The networks of a structure: without numbers, with all of them at 1, and the `numbers`.

        The last item maps each of `numbers` to its paths.
        """
        ones = {**point, **dict.fromkeys(self.numbers, 1.0)}
        several = [ones, *({**ones, name: 2.0} for name in self.numbers)]
        table, (base, *others) = _description.numbered(map(self.network, several))
        moved = [[path for path in base if base[path] != other[path]] for other in others]
        return table, base, dict(zip(self.numbers, moved, strict=True))

    def work(self, depth: int, width: int) -> float:
        """The cost of one network in random numbers."""
        k, n, size = self.components, self.inputs_at_once, self._numbers_per_weight
        # Without weights the QR factorisation of signals and tangents counts as more numbers.
        layer = width**2 * size if self.explicit_weights else width * k * (4 * n) ** 2
        backward = 3 if any(record.gradients for record in self.records) else 1
        return float(max(layer, _STEP) * (depth + 1) * backward)

    @cached_property
    def _numbers_per_weight(self) -> int:
        from theory.description import ALGEBRAS, weight_laws

        laws = weight_laws(self.network(self.point(0)))
        return max((ALGEBRAS[law.algebra].size for law in laws), default=1)

    def row_bytes(self) -> int:
        """The number of bytes that one network occupies in the store."""
        cells = self.inputs_at_once * (self.inputs_at_once + 1) // 2
        cells = max(cells, *(self.cells(record) for record in self.stored))
        size = 4 if self.dtype == "float32" else 8
        return max(1, len(self.kept_layers) * cells * size * len(self.observables))

    def chunk(self, networks: int | None = None) -> tuple[int, int]:
        """Points and replicas in a chunk of the store.

        A chunk has the given number of networks; by default about a second of work of one core,
        but small enough that there are some for many devices. The replicas are a power of two, so
        that chunks of any two stores are nested.
        """
        depth, width = max(self.values("depth")), max(self.values("width"))
        fair = self.points * self.replicas / _FEWEST_CHUNKS
        wanted = networks or min(fair, CHUNK_WORK / self.work(depth, width))
        wanted = max(1, min(int(wanted), _CHUNK_BYTES // self.row_bytes()))
        most = min(_MOST_REPLICAS, 2 ** math.ceil(math.log2(self.replicas)))
        replicas = min(most, 2 ** int(math.log2(wanted)))
        return min(self.points, max(1, wanted // replicas)), replicas
