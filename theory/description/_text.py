"""Descriptions as plain dictionaries and TOML files."""

import dataclasses
import inspect
import os
import secrets
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from theory.description._activations import Activation, Componentwise, Radial
from theory.description._builders import affine, feedforward, layer, recurrent, repeat
from theory.description._named_activations import (
    activation,
    activation_in_file,
    parameters_of,
    radial,
)
from theory.description._nodes import Part, Repeat, WeightLaw, check_part
from theory.description._python_files import defined_in, in_file
from theory.description._table import (
    at_layer,
    holds_tables,
    join,
    lists,
    plain,
    read_toml,
    together,
)
from theory.description._weights import WeightFamily
from theory.numerics import as_path, check_count, check_kind, shown

_NODES: dict[str, Any] = {kind.__name__.lower(): kind for kind in get_args(Part)}
_BUILDERS: dict[str, Callable[..., Part]] = {
    make.__name__: make for make in (affine, layer, feedforward, recurrent)
}
_PARTS = ("parts", "branch", "body")
"""The fields of nodes that hold parts."""
_FORMAT = 1
_SAME: Mapping[str, str] = MappingProxyType({})

Made = TypeVar("Made")


def to_dict(network: Part) -> dict[str, Any]:
    """Convert a description to a plain dictionary of numbers, words, lists and dictionaries.

    Every node becomes a dictionary with its type, in lower case, under "node", and its fields.
    Fields with their default value are left out. In the body of a `Repeat` a number applies to
    all layers; a list of `depth` numbers has one per layer.

    An activation is a name ("tanh"); a dictionary with its name and parameters, or with the name
    of its profile under "radial"; or, for a function read from a file,
    {"file": "FILE.py:NAME"}.

    Parameters
    ----------
    network
        The description.

    Raises
    ------
    TypeError
        If `network` is not a description.
    ValueError
        If it contains a function that was not read from a file, or traced numbers.

    Examples
    --------
    >>> import theory
    >>> theory.to_dict(theory.layer(theory.activation("tanh"), 1.5, 0.05))["parts"][0]
    {'node': 'pointwise', 'activation': 'tanh'}
    """
    check_part("network", network)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(network)):
        raise ValueError("`network`: must have known numbers; got traced ones")
    return _of_node(_on_host(network))


def from_dict(table: Mapping[str, Any], *, folder: str | PathLike[str] = ".") -> Part:
    """Build a description from a dictionary, as written by `to_dict`.

    Instead of a node, a dictionary may name a builder under "build": "affine", "layer",
    "feedforward" or "recurrent", with its arguments:
    ``{"build": "feedforward", "activation": "tanh", "weight_variance": 1.5, "depth": 50}``.

    Parameters
    ----------
    table
        The dictionary.
    folder
        Where relative file names start. Files that it names are run.

    Raises
    ------
    ValueError, TypeError
        If a field is wrong. The message gives the path of the field and its allowed range.

    Accuracy
    --------
    ``from_dict(to_dict(network))`` equals `network` bit for bit if its numbers have JAX's default
    floating-point type.
    """
    return _of_table(table, as_path("folder", folder), "")


def read_network(value: Any, *, name: str, folder: str | PathLike[str] = ".") -> Part:
    """Return the network in a configuration field.

    The field contains a part, its dictionary as in `to_dict`, or the name of its file as in
    `load_network`.

    Parameters
    ----------
    name
        The field. Errors name it, followed by the path within the dictionary.
    folder
        Where relative file names start.

    Raises
    ------
    ValueError, TypeError
        If the field does not contain a network.

    Examples
    --------
    >>> import theory
    >>> theory.description.read_network({"build": "affine"}, name="description")
    Traceback (most recent call last):
    ValueError: `description.weight_variance`: must be given; got none
    """
    if isinstance(value, Mapping):
        return _of_table(value, folder, name)
    if not isinstance(value, str):
        check_kind(name, value, Part, "a description, its table or the name of its file")
        return value
    try:
        return load_network(str(Path(folder, value)))
    except (ValueError, TypeError) as error:
        text = str(error).removeprefix("`network`: ")
        raise type(error)(f"`{name}`: {text}") from error


def save_network(network: Part, path: str | PathLike[str]) -> None:
    """Write a description to a TOML file, with the keys of `to_dict`.

    Python files that define its functions are named relative to the folder of the TOML file.

    Parameters
    ----------
    network
        The description.
    path
        The file; an existing one is replaced once everything is written.

    Raises
    ------
    TypeError, ValueError
        As `to_dict`, and if the file cannot be written.
    """
    import tomli_w

    target = as_path("path", path)
    if not target.name or target.is_dir():
        raise ValueError(f"`path`: must be a file, not a folder; got {path}")
    table = {"format": _FORMAT, **to_dict(network)}
    _make_relative(table, target.resolve().parent)
    text = tomli_w.dumps(table)
    # An existing file stays until everything is written.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise ValueError(f"`path`: must be writable; got {error.strerror} for {path}") from error
    finally:
        partial.unlink(missing_ok=True)


def load_network(path: str | PathLike[str]) -> Part:
    """Read a description from a TOML file, or from "FILE.py:NAME".

    Parameters
    ----------
    path
        The file. A Python file is run.

    Raises
    ------
    ValueError, TypeError
        If it cannot be read or does not contain a description, as `from_dict`.
    """
    if in_file(path):
        found = _named("network", defined_in, str(path))
        check_part(str(path), found)
        return found
    table = read_toml(path)
    try:
        return from_dict(table, folder=Path(path).parent)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_activation(value: Any, *, folder: str | PathLike[str] = ".") -> Activation:
    """Return the activation given by a name, "FILE.py:NAME" or a dictionary; see `to_dict`.

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    return _Reader(Path(folder)).activation(value, "")


def _of_table(table: Any, folder: str | PathLike[str], path: str) -> Part:
    values = plain(table, path)
    if isinstance(values, dict):
        version = values.pop("format", _FORMAT)
        if isinstance(version, bool) or version != _FORMAT:
            raise ValueError(f"`{join(path, 'format')}`: must be {_FORMAT}; got {shown(version)}")
    return _Reader(Path(folder)).part(values, path)


def _on_host(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, tree)


def _of_node(node: Any) -> dict[str, Any]:
    return {"node": type(node).__name__.lower(), **_fields_of(node)}


def _fields_of(node: Any) -> dict[str, Any]:
    if isinstance(node, Repeat):
        return {"depth": node.depth, "body": _of_layers(node)}
    found = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        is_array = isinstance(value, np.ndarray)
        if is_array or (value is not None and value != field.default):
            found[field.name] = _of_value(value)
    return found


def _of_value(value: Any) -> Any:
    if isinstance(value, Componentwise | Radial):
        return _of_activation(value)
    if isinstance(value, WeightLaw):
        return _fields_of(value)
    if isinstance(value, WeightFamily):
        return value.word
    if isinstance(value, eqx.Module):
        return _of_node(value)
    if isinstance(value, tuple):
        return [_of_value(member) for member in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _of_layers(node: Repeat) -> Any:
    leaves = jax.tree.leaves(node.body)
    same = all(np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)) for leaf in leaves)
    layer = lambda i: _of_node(jax.tree.map(lambda x: x[i], node.body))
    layers = [layer(0)] * node.depth if same else list(map(layer, range(node.depth)))
    return together(layers)


def _of_activation(phi: Activation) -> Any:
    if phi.source is not None:
        _check_unchanged(phi)
        return {"file": phi.source}
    fn, kind = (phi.profile, "radial") if isinstance(phi, Radial) else (phi.fn, "name")
    found: dict[str, Any] = {kind: phi.name}
    names = parameters_of(phi.name) if phi.features_known else ()
    found |= {name: float(getattr(fn, name)) for name in names if hasattr(fn, name)}
    made = _on_host(_Reader(Path()).activation(found, "")) if phi.features_known else None
    if jax.tree.structure(made) != jax.tree.structure(phi):
        raise ValueError(
            "`activation`: must be one from theory.activation, or read from a file with "
            f'theory.activation("FILE.py:NAME"), to be written down; got another function, '
            f"{phi.name}"
        )
    return phi.name if kind == "name" and not names else found


def _check_unchanged(phi: Activation) -> None:
    """Raise a `ValueError` unless an activation still equals what its file defines."""
    made = _on_host(activation_in_file(str(phi.source)))
    same = jax.tree.structure(made) == jax.tree.structure(phi)
    pairs = zip(jax.tree.leaves(made), jax.tree.leaves(phi), strict=False)
    if not (same and all(np.array_equal(one, other) for one, other in pairs)):
        raise ValueError(
            f"`activation`: must equal what {phi.source} defines, to be written down; got other "
            "parameters, or a file that has changed"
        )


def _make_relative(value: Any, folder: Path) -> None:
    """Name files relative to a folder."""
    for member in value.values() if isinstance(value, dict) else value:
        if isinstance(member, dict | list):
            _make_relative(member, folder)
    if isinstance(value, dict) and in_file(value.get("file")):
        file, _, name = value["file"].rpartition(":")
        value["file"] = f"{Path(os.path.relpath(file, folder)).as_posix()}:{name}"


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Builds descriptions from tables; `path` is the position in the whole table."""

    folder: Path

    def part(self, table: Any, path: str) -> Part:
        if not isinstance(table, Mapping):
            what = f"`{path}`" if path else "`table`"
            raise TypeError(f"{what}: must be a table of a part; got {shown(table)}")
        values = dict(table)
        known = {"node": _NODES, "build": _BUILDERS}
        which = [key for key in known if key in values]
        if len(which) != 1:
            words = "; ".join(f"{key} = {', '.join(names)}" for key, names in known.items())
            got = " and ".join(which) or "neither"
            raise ValueError(f"`{join(path, 'node')}`: must be one of {words}; got {got}")
        (key,) = which
        name = values.pop(key)
        make = known[key].get(name) if isinstance(name, str) else None
        if make is None:
            words = ", ".join(known[key])
            raise ValueError(f"`{join(path, key)}`: must be one of {words}; got {shown(name)}")
        _check_fields(make, values, path, key, name)
        if make is Repeat:
            return self.repeat(values, path)
        arguments = {
            field: self.value(field, value, join(path, field), key == "node")
            for field, value in values.items()
        }
        return _named(path, make, **arguments)

    def value(self, field: str, value: Any, path: str, of_node: bool) -> Any:
        if field == "activation":
            return self.activation(value, path)
        if field == "weights" and of_node:
            if not isinstance(value, Mapping):
                raise TypeError(f"`{path}`: must be a table with a variance; got {shown(value)}")
            _check_fields(WeightLaw, value, path, "the weights", "")
            for name, number in value.items():
                _check_single(number, join(path, name))
            return _named(path, WeightLaw, **value)
        if field in _PARTS and isinstance(value, Mapping):
            return self.part(value, path)
        if field in _PARTS and holds_tables(value):
            each = enumerate(value)
            return tuple(self.part(member, f"{path}[{i}]") for i, member in each)
        if not (of_node and field == "parts"):  # an empty one is refused by its node
            _check_single(value, path)
        return value

    def repeat(self, values: Mapping[str, Any], path: str) -> Part:
        depth, body = values["depth"], values["body"]
        _named(path, check_count, "depth", depth)
        where = join(path, "body")
        several = list(lists(body, where))
        for name, found in several:
            if len(found) != depth:
                raise ValueError(
                    f"`{name}`: must be one number, or one for each of {depth} layers; got "
                    f"{len(found)}"
                )
        if not several:
            return repeat(self.part(body, where), depth)
        layers = [self.part(at_layer(body, i), where) for i in range(depth)]
        kinds = {jax.tree.structure(layer) for layer in layers}
        if len(kinds) > 1:
            raise ValueError(f"`{where}`: only numbers may differ between layers; got other kinds")
        return Repeat(jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers), depth)

    def activation(self, value: Any, path: str) -> Activation:
        path = path or "activation"
        if in_file(value):
            return self.of_file(value, path)
        if isinstance(value, str):
            return _named(path, activation, value, fields={"name": ""})
        if not isinstance(value, Mapping):
            raise TypeError(f"`{path}`: must be a name or a table with one; got {shown(value)}")
        rest = dict(value)
        which = [key for key in ("name", "radial", "file") if key in rest]
        if len(which) != 1:
            got = ", ".join(value) or "none"
            raise ValueError(f"`{path}`: must have one of name, radial and file; got {got}")
        (key,) = which
        name = rest.pop(key)
        if not isinstance(name, str):
            raise ValueError(f"`{join(path, key)}`: must be a text; got {shown(name)}")
        if key == "name":
            return _named(path, activation, name, fields={"name": ""}, **rest)
        if key == "radial":
            return _named(path, radial, name, fields={"profile": ""}, **rest)
        for other in rest:
            raise ValueError(
                f"`{join(path, other)}`: a function in a file takes no parameters here"
            )
        return self.of_file(name, join(path, "file"))

    def of_file(self, target: str, path: str) -> Activation:
        return _named(path, activation_in_file, target, self.folder, fields={"name": ""})


def _check_single(value: Any, path: str) -> None:
    """Raise a `ValueError` if there is a number for each of several layers, and no `Repeat`."""
    if isinstance(value, list | tuple):
        raise ValueError(
            f"`{path}`: must be one value outside of a repeat; got a list of {len(value)}"
        )


def _check_fields(make: Any, values: Mapping[str, Any], path: str, key: str, name: str) -> None:
    """Raise a `ValueError` unless these are the arguments of a node or of a function."""
    known = inspect.signature(make).parameters
    for field in values:
        if field not in known:
            raise ValueError(
                f"`{join(path, field)}`: not a field of {name or key}, which has {', '.join(known)}"
            )
    for field, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and field not in values:
            raise ValueError(f"`{join(path, field)}`: must be given; got none")


def _named(
    path: str,
    make: Callable[..., Made],
    *args: Any,
    fields: Mapping[str, str] = _SAME,
    **kwargs: Any,
) -> Made:
    """Call make(…); errors give the whole path of a field, under its name in `fields`."""
    try:
        return make(*args, **kwargs)
    except (ValueError, TypeError) as error:
        text = str(error)
        if text.startswith("`"):
            field, _, rest = text[1:].partition("`")
            field = fields.get(field, field)
            where = join(path, field) if field else path
            raise type(error)(f"`{where}`{rest}") from error
        raise type(error)(f"`{path}`: {text}") from error
