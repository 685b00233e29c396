"""The command `probe`: load a network from a Python file, measure it, show the result."""

import math
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._output import BadInput, checked

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from sigprop.probes import Probe


def probe_network(
    target: str,
    inputs: str,
    input_count: int,
    input_width: int,
    layers: str | None,
    description: str | None,
    dtype: str,
    seed: int,
    output: Path | None,
    json: bool,
) -> int:
    """Probe an object of a Python file."""
    set_up()
    import jax

    import sigprop
    from sigprop.storage import provenance

    if not 0 <= seed < 2**32:
        raise BadInput(f"--seed: must be from 0 to {2**32 - 1}; got {seed}")
    folder = out.output_folder(output, "probe", ["probe"], ["probe"])
    path, names = load_names(target)
    fn = find_name(names, "TARGET", target.rpartition(":")[2], path)
    own_layers = None if layers is None else find_name(names, "--layers", layers, path)
    own_law = None if description is None else find_name(names, "--description", description, path)
    key = jax.random.key(seed)
    x = load_inputs(inputs, jax.random.fold_in(key, 0), input_count, input_width, dtype)
    try:
        with checked(fn="TARGET", x="inputs"):
            found = sigprop.probe(
                fn, x, layers=own_layers, description=own_law, key=jax.random.fold_in(key, 1)
            )
    except BadInput:
        raise
    except (Exception, SystemExit) as error:  # a user's function can fail in any way
        raise BadInput(f"TARGET: must take one input of {inputs}; {_one_line(error)}") from error
    dataset = probe_dataset(found)
    asked = {
        "target": target,
        "inputs": inputs,
        "input_count": len(x),
        "input_width": input_width,
        "layers": layers,
        "description": description,
        "dtype": dtype,
        "seed": seed,
    }
    origin = provenance(command="probe", **asked)
    files = out.store(dataset, lambda: probe_figure(dataset), folder, "probe", origin)
    tables = lambda: [*_tables(found, target), *found.notes]
    out.report(probe_as_json(found), files, asked, tables, folder, json)
    return 0


def load_names(target: str) -> tuple[Path, dict[str, Any]]:
    """The names that a Python file defines, from "FILE.py:NAME"."""
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise BadInput(f"TARGET: must be FILE.py:NAME with an existing file; got {target}")
    try:
        return path, runpy.run_path(str(path), run_name=path.stem)
    except (Exception, SystemExit) as error:  # a user's file can fail in any way
        raise BadInput(f"TARGET: {path} must run; {_one_line(error)}") from error


def find_name(names: dict[str, Any], option: str, name: str, path: Path) -> Any:
    """Return the object of that name."""
    if name not in names:
        raise BadInput(f"{option}: must be a name in {path}; got {name}")
    return names[name]


def load_inputs(source: str, key: Any, count: int, width: int, dtype: str) -> Any:
    """The inputs, one per row."""
    import jax.numpy as jnp

    import sigprop

    with checked(count="input-count", width="input-width"):
        if source == "digits":
            x = sigprop.digits_inputs(count, key=key, length=1.0)[0][..., 0]
        elif source == "gram":
            x = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), width, key=key)[..., 0]
        else:
            x = _load_array(source)[:count]
    return jnp.asarray(x, dtype)


def _load_array(source: str) -> np.ndarray:
    wanted = "--inputs: must be gram, digits, or a .npy file of numbers, its first axis over inputs"
    try:
        array = np.load(source, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{wanted}; got {source} ({_one_line(error)})") from error
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.kind not in "fiu"
        or array.ndim < 2
        or not array.size
    ):
        raise BadInput(f"{wanted}; got {source}")
    return array


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"got {type(error).__name__}: {text[:200]}"


def probe_dataset(found: "Probe") -> "xr.Dataset":
    """All results of a probe, by name."""
    import xarray as xr

    jacobian = found.jacobian
    numbers: dict[str, Any] = {
        "output_length": ("input", found.length),
        "output_correlation": (("input", "other_input"), found.correlation),
        "finite": ("input", found.finite),
        "log_singular_value": (("input", "index"), jacobian.log_singular_values),
        "log_singular_value_error": (("input", "index"), jacobian.error),
        "zeros": ("input", jacobian.zeros),
        "unresolved": ("input", jacobian.unresolved),
        "jacobian_status": ("input", jacobian.status),
    }
    if jacobian.estimate is not None:
        numbers["log_mean_square"] = ("input", jacobian.estimate.log_mean)
        error = jacobian.estimate.log_mean_standard_error
        numbers["log_mean_square_standard_error"] = ("input", error)
    coordinates: dict[str, Any] = {}
    if found.layers is not None:
        layers = found.layers
        coordinates["layer_name"] = ("layer", list(layers.names))
        numbers |= {
            "length": (("layer", "input"), layers.length),
            "correlation": (("layer", "input", "other_input"), layers.correlation),
            "zero_fraction": (("layer", "input"), layers.zeros),
        }
        if layers.log_gradient is not None:
            numbers["log_gradient"] = (("layer", "input"), layers.log_gradient)
    if found.check is not None:
        check = found.check
        numbers |= {
            "predicted_length": (("boundary", "input"), check.length),
            "predicted_length_error": (("boundary", "input"), check.length_error),
            "predicted_correlation": (("boundary", "input", "other_input"), check.correlation),
        }
        if check.layers:
            coordinates["boundary_layer"] = ("boundary", np.array(check.layers))
        if check.length_z is not None:
            numbers["length_z"] = (("boundary", "input"), check.length_z)
            pairs = ("boundary", "input", "other_input")
            numbers["correlation_z"] = (pairs, check.correlation_z)
            numbers["p_value"] = ((), check.p_value)
    data = {name: (dims, np.asarray(value)) for name, (dims, value) in numbers.items()}
    attributes = {
        "rows": jacobian.rows,
        "columns": jacobian.columns,
        "method": jacobian.method,
        "notes": "; ".join(found.notes),
    }
    return xr.Dataset(data, coordinates, attributes)


def probe_as_json(found: "Probe") -> dict[str, Any]:
    """The results as plain numbers; null if one is infinite or not a number."""
    import theory

    jacobian, layers, check = found.jacobian, found.layers, found.check
    result: dict[str, Any] = {
        "length": _plain(found.length),
        "correlation": _plain(found.correlation),
        "finite": [bool(value) for value in found.finite],
        "jacobian": {
            "rows": jacobian.rows,
            "columns": jacobian.columns,
            "method": jacobian.method,
            "log_singular_values": _plain(jacobian.log_singular_values),
            "error": _plain(jacobian.error),
            "zeros": [int(value) for value in jacobian.zeros],
            "unresolved": [int(value) for value in jacobian.unresolved],
            "status": [theory.Status(int(value)).name.lower() for value in jacobian.status],
        },
        "layers": None,
        "check": None,
        "notes": list(found.notes),
    }
    if layers is not None:
        gradient = layers.log_gradient
        result["layers"] = {
            "names": list(layers.names),
            "sizes": list(layers.sizes),
            "length": _plain(layers.length),
            "correlation": _plain(layers.correlation),
            "zeros": _plain(layers.zeros),
            "log_gradient": None if gradient is None else _plain(gradient),
        }
    if check is not None:
        result["check"] = {
            "layers": list(check.layers),
            "length": _plain(check.length),
            "length_error": _plain(check.length_error),
            "measured_length": _plain(check.measured_length),
            "length_z": None if check.length_z is None else _plain(check.length_z),
            "p_value": None if check.p_value is None else out.number(check.p_value),
            "networks": check.networks,
        }
    return result


def _plain(values: Any) -> Any:
    array = np.asarray(values)
    return [_plain(part) for part in array] if array.ndim else out.number(array)


def _tables(found: "Probe", target: str) -> list[Any]:
    items: list[Any] = []
    layers, jacobian, check = found.layers, found.jacobian, found.check
    if layers is not None:
        rows = out.table(
            f"{target}: means over inputs", "layer", "size", "length", "zeros", "log g²"
        )
        for i, name in enumerate(layers.names):
            gradient = "" if layers.log_gradient is None else _text(layers.log_gradient[i])
            numbers = (_text(layers.length[i]), _text(layers.zeros[i]), gradient)
            rows.add_row(name, str(layers.sizes[i]), *numbers)
        items.append(rows)
    shape = f"{jacobian.rows} x {jacobian.columns}, {jacobian.method}"
    rows = out.table(
        f"Jacobian ({shape})", "input", "largest log s", "smallest log s", "error", "zeros", "lost"
    )
    values = np.asarray(jacobian.log_singular_values)
    for i, own in enumerate(values[:16]):
        own_error = np.asarray(jacobian.error[i])
        known = np.isfinite(own)
        numbers = (own[known].max(), own[known].min(), own_error[known].max()) if any(known) else ()
        texts = [f"{value:.6g}" for value in numbers] or ["none"] * 3
        rows.add_row(str(i), *texts, str(jacobian.zeros[i]), str(jacobian.unresolved[i]))
    items.append(rows)
    if check is not None and check.p_value is not None:
        items.append(
            f"p = {float(check.p_value):.3g} among {check.networks} networks drawn from the "
            "description: the largest deviation of a length or a correlation, in any layer"
        )
    return items


def _text(values: Any) -> str:
    return f"{float(np.mean(np.asarray(values))):.4g}"


def probe_figure(dataset: "xr.Dataset") -> "Figure":
    """Lengths and gradients by layer, and singular values, of every input."""
    from matplotlib.figure import Figure

    from sigprop.figures import BLUE, VERMILLION, WIDTH, styled, write_caption

    points: dict[str, Any] = {"color": BLUE, "ls": "", "marker": "o", "ms": 2, "mew": 0}
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        lengths, gradients, values = figure.subplots(1, 3)
        if "length" in dataset:
            lengths.plot(dataset["length"], **points)
            if "boundary_layer" in dataset.coords:
                at = dataset["boundary_layer"]
                lengths.plot(at, dataset["predicted_length"], color=VERMILLION, lw=0.8)
        if np.any(dataset.get("length", np.zeros(1)) > 0):
            lengths.set_yscale("log")
        lengths.set(xlabel="layer", ylabel="length $q_l$")
        if "log_gradient" in dataset:
            logs = dataset["log_gradient"].values / math.log(10)
            gradients.plot(np.where(np.isfinite(logs), logs, np.nan), **points)
        gradients.set(xlabel="layer", ylabel=r"$\log_{10}\,|g_l|^2/|g_L|^2$")
        logs = dataset["log_singular_value"].values / math.log(10)
        index = np.arange(1, logs.shape[1] + 1)
        values.plot(index, np.where(np.isfinite(logs), logs, np.nan).T, **points)
        values.set(xlabel="index $i$", ylabel=r"$\log_{10}\,s_i$")
        for letter, panel in zip("abc", (lengths, gradients, values), strict=True):
            panel.set_title(f"({letter})", loc="left")
        write_caption(figure, _caption(dataset))
    return figure


def _caption(dataset: "xr.Dataset") -> str:
    inputs, shape = dataset.sizes["input"], f"{dataset.attrs['rows']} x {dataset.attrs['columns']}"
    text = (
        f"Points: one network at {inputs} inputs. (a) Mean square of every layer's outputs, "
        f"(b) squared gradient of a random linear loss, (c) singular values of the {shape} "
        "Jacobian."
    )
    if "boundary_layer" in dataset.coords:
        text += " Lines: mean-field theory of the description, one for each input."
    return text
