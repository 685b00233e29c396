"""Good command lines and files, small enough to be used many times, in a folder of their own.

In a case of `bad_input`, one word or one field of them is bad.
"""

import dataclasses
import datetime
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tomli_w

import theory
from sigprop.commands import _cli
from theory import Part

POINT = ("--activation", "erf", "--weight-variance", "1.5", "--bias-variance", "0.1")
LINES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("predict",): POINT,
    ("phase-diagram",): (
        *("--activation", "erf", "--weight-variance", "1,2", "--bias-variance", "0.1,0.2"),
        *("--output", "out"),
    ),
    ("compare",): (
        *(*POINT, "--depth", "1", "--widths", "8,16,32", "--replicas", "2"),
        *("--output", "out"),
    ),
    ("goldstone",): ("--depth", "20", "--width", "8", "--replicas", "2", "--output", "out"),
    ("spectrum",): (*POINT, "--depth", "1", "--width", "8", "--replicas", "2", "--output", "out"),
    ("demo",): ("--output", "out"),
    ("probe",): ("mine.py:net", "--inputs", "x.npy", "--output", "out"),
    ("train",): ("study.toml", "--output", "out"),
    ("continuity",): ("weights.npz", "--output", "out"),
    ("plan",): (*POINT, "--depth", "1", "--observable", "length", "--error", "0.1"),
    ("sweep", "run"): ("sweep.toml", "--output", "out.zarr"),
    ("sweep", "status"): ("store.zarr",),
    ("sweep", "merge"): ("store.zarr", "--output", "out.zarr"),
    ("sweep", "show"): ("store.zarr", "--output", "out"),
}
"""A good line of every command: words without options first."""

TEXTS = {
    "empty": "",
    "word": "nonsense",
    "None": "None",
    "True": "True",
    "minus one": "-1",
    "zero": "0",
    "half": "0.5",
    "nan": "nan",
    "inf": "inf",
    "huge": "1000000000000",
    "beyond 64 bits": "1" + 30 * "0",
    "huge real": "1e300",
    "hexadecimal": "0x10",
    "complex": "1j",
    "list": "1,2,3",
    "list below 0": "-1,2,3",
    "range": "1:2:3",
    "half a range": "1:2",
    "huge range": "1:2:100000000",
    "commas": ",,",
    "assignment": "depth=50",
    "lines": "one\ntwo",
    "escape": "a\x1b[31mb",
    "long": "x" * 5000,
    "letters": "ℕ→ℂ",
    "missing file": "no/such/file",
    "missing TOML": "no.toml",
    "missing Python": "no.py:x",
    "missing name": "mine.py:x",
    "exits": "exits.py:net",
    "broken Python": "broken.py:net",
    "tuple": "mine.py:pair",
    "integers": "mine.py:whole",
    "nothing": "mine.py:nothing",
    "a number": "mine.py:number",
    "folder": "folder",
    "folder.toml": "folder.toml",
    "empty.toml": "empty.toml",
    "broken.toml": "broken.toml",
    "binary.toml": "binary.toml",
    "empty.npy": "empty.npy",
    "objects.npy": "objects.npy",
    "damaged store": "damaged.zarr",
}

PYTHON = """
import jax.numpy as jnp

net = jnp.tanh
pair = lambda x: (x, x)
whole = lambda x: jnp.ones(3, int)
nothing = lambda x: x[:0]
number = 3
"""
SWEEP = {
    "activation": "erf",
    "depth": 1,
    "width": 4,
    "input_width": 4,
    "replicas": 2,
    "observables": ["length"],
}
STUDY = {
    "depth": 2,
    "features": 4,
    "learning_rates": [1e-3],
    "seeds": [0],
    "epochs": 1,
    "train_count": 4,
    "batch": 4,
    "records": 2,
    "architecture": [{"name": "a", "components": 1, "activation": "tanh"}],
}
TABLES: dict[str, Any] = {
    "text": "nonsense",
    "empty text": "",
    "NUL": "a\0b",
    "lines": "one\ntwo",
    "long text": "x" * 5000,
    "list": [],
    "list of texts": ["a", "b"],
    "ragged": [[1.0], [1.0, 2.0]],
    "list of tables": [{"a": 1}],
    "list of nan": [float("nan"), 1.0],
    "twice": [1, 1],
    "list of truth values": [True, False],
    "list below 0": [-1, -2],
    "table": {},
    "table with a number": {"a": 1},
    "name with NUL": {"a\0b": 1},
    "nan": float("nan"),
    "inf": float("inf"),
    "minus one": -1,
    "zero": 0,
    "half": 0.5,
    "huge": 10**12,
    "beyond 64 bits": 10**30,
    "huge real": 1e300,
    "true": True,
    "date": datetime.date(2020, 1, 1),
    "missing file": "no/such/file",
    "missing TOML": "no.toml",
    "folder": ".",
    "exits": "exits.py:net",
    "range": "1:2:3",
    "huge range": "1:2:100000000",
}


def prepare(folder: Path) -> None:
    """Write the files that lines and files name."""
    from sigprop.sweeps import read_sweep_file
    from sigprop.sweeps._sweep_store import create_store

    (folder / "mine.py").write_text(PYTHON)
    (folder / "exits.py").write_text("raise SystemExit(0)\n")
    (folder / "broken.py").write_text("net = (\n")
    (folder / "folder").mkdir()
    (folder / "folder" / "file").write_text("")
    (folder / "folder.toml").mkdir()
    (folder / "empty.toml").write_text("")
    (folder / "broken.toml").write_text("a = [\n")
    (folder / "binary.toml").write_bytes(b"\xff\xfe\0")
    (folder / "empty.npy").write_bytes(b"")
    np.save(folder / "x.npy", np.ones((2, 4)))
    np.save(folder / "objects.npy", np.array([None]), allow_pickle=True)
    np.savez(folder / "weights.npz", **{f"w{i}": np.eye(3) + i for i in range(3)})
    (folder / "sweep.toml").write_text(tomli_w.dumps(SWEEP))
    (folder / "study.toml").write_text(tomli_w.dumps(STUDY))
    for name in ("store.zarr", "damaged.zarr"):
        create_store(read_sweep_file(folder / "sweep.toml"), folder / name, chunk=(1, 1))
    (folder / "damaged.zarr" / "zarr.json").write_text("[]")


def lines() -> Iterator[tuple[str, str, str, list[str], tuple[str, ...]]]:
    """(command, field, kind, words, names that a refusal may have) of every option."""
    for command, good in LINES.items():
        app = _cli.app
        for word in command:
            app = app[word]
        for argument in app.assemble_argument_collection():
            option = argument.names[0]
            if option == "*":  # the network, whose options follow
                continue
            positional = argument.field_info.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            names = (option.removeprefix("--").upper(), option) if positional else (option,)
            if bool in (argument.hint, *get_args(argument.hint)):
                yield " ".join(command), option, "word", [*command, *good, f"{option}=x"], names
                continue
            for kind, text in TEXTS.items():
                if positional:
                    words = [text, *good[1:]]
                elif option in good:
                    at = good.index(option)
                    words = [*good[: at + 1], text, *good[at + 2 :]]
                else:
                    words = [*good, option, text]
                own = (*names, text) if positional and text else names  # a file says its own name
                yield " ".join(command), option, kind, [*command, *words], own
            if not positional:
                yield " ".join(command), option, "no value", [*command, *good, option], names


def files() -> Iterator[tuple[str, str, str, dict[str, Any], list[str], tuple[str, ...]]]:
    """(door, field, kind, table, words before the file, names) of every field of every file."""
    import sigprop
    from sigprop.experiments import Architecture, Study

    sweep, study, network = ["sweep", "run"], ["train"], ["predict", "--network"]
    for kind, value in TABLES.items():
        for field in [f.name for f in dataclasses.fields(sigprop.Sweep)] + ["nosuch"]:
            table = {**SWEEP, field: value}
            if field in ("description", "leaves"):
                table.pop("activation")
            if field == "leaves":
                table["description"] = {"build": "layer", "activation": "erf", "weight_variance": 1}
            yield "sweep file", field, kind, table, sweep, (f"`{field}",)
        for field in [f.name for f in dataclasses.fields(Study)] + ["architecture", "nosuch"]:
            field = "architecture" if field == "architectures" else field
            names = (f"`{field}", "`a") if field == "architecture" else (f"`{field}",)
            yield "study file", field, kind, {**STUDY, field: value}, study, names
        for field in [*(f.name for f in dataclasses.fields(Architecture)), "network", "nosuch"]:
            own = {"name": "a", "components": 1, "activation": "tanh", field: value}
            if field in ("network", "description"):
                own = {"name": "a", field: value}
            table = {**STUDY, "architecture": [own]}
            yield "study file", f"architecture.{field}", kind, table, study, (f"`{field}",)
        for where, field, table in network_tables(value):
            own = (field, *ELSEWHERE.get(where, ()))
            yield "network file", f"{where}.{field}", kind, table, network, own


NODES: dict[str, dict[str, Any]] = {
    "affine": {"weights": {"variance": 1.5}, "bias_variance": 0.1, "width": 3},
    "pointwise": {"activation": "erf"},
    "normalise": {"kind": "layer", "epsilon": 1e-5},
    "noise": {"variance": 0.1},
    "chain": {"parts": [{"node": "pointwise", "activation": "erf"}]},
    "residual": {"branch": {"node": "pointwise", "activation": "erf"}},
    "repeat": {"depth": 2, "body": {"node": "pointwise", "activation": "erf"}},
    "recurrent": {
        "steps": 2,
        "body": {"build": "layer", "activation": "erf", "weight_variance": 1},
    },
}
BUILDS: dict[str, dict[str, Any]] = {
    "affine": {"weight_variance": 1.5},
    "layer": {"activation": "erf", "weight_variance": 1.5},
    "feedforward": {"activation": "erf", "weight_variance": 1.5, "depth": 2},
    "recurrent": {"activation": "erf", "weight_variance": 1.5, "steps": 2},
}


ELSEWHERE = {
    "activation": ("activation",),
    "build recurrent": ("must contain one Repeat",),
    "node noise": ("a nonlinearity must act on Gaussian moments",),
}
"""What else a refusal may begin with: a value that is good in its field, of a network that
`predict` refuses whatever the value is."""


def network_tables(value: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(place, field, table) with this value in every field of every node and builder."""
    layer = {"build": "layer", "activation": "erf", "weight_variance": 1.5}
    for kind in get_args(Part):
        name = kind.__name__.lower()
        for field in [*(f.name for f in dataclasses.fields(kind)), "nosuch"]:
            own = {"node": name, **NODES[name], field: value}
            yield f"node {name}", field, {"node": "chain", "parts": [own, layer]}
    for name, arguments in BUILDS.items():
        make = getattr(theory, name)
        for field in [*inspect.signature(make).parameters, "nosuch"]:
            yield f"build {name}", field, {"build": name, **arguments, field: value}
    for field in [f.name for f in dataclasses.fields(theory.WeightLaw)] + ["nosuch"]:
        own = {"node": "affine", "bias_variance": 0.1, "weights": {"variance": 1.0, field: value}}
        yield "weights", field, {"node": "chain", "parts": [layer, own]}
    for name in ("name", "radial", "file"):
        yield "activation", name, {**layer, "activation": {name: value}}
    yield "activation", "slope", {**layer, "activation": {"name": "leaky_relu", "slope": value}}
    yield (
        "activation",
        "negative_slope",
        {
            **layer,
            "activation": {"name": "leaky_relu", "negative_slope": value},
        },
    )
    for field in ("node", "build"):
        yield "table", field, {field: value}
    yield "table", "format", {**layer, "format": value}
