"""The first number: what a person waits for in a new process, over the time of `import jax`."""

import json
import os
import subprocess
import sys
import tempfile

_PYTHON = """
import json, sys, time
start = time.perf_counter()
import jax
ready = time.perf_counter()
import theory
jax.config.update("jax_enable_x64", True)
seen = {"import jax": ready - start, "import theory, on top": time.perf_counter() - ready}
import jax.numpy as jnp

def timed(name, call):
    start = time.perf_counter()
    jax.block_until_ready(jax.tree.leaves(call()))
    seen[name] = time.perf_counter() - start

def layer(name, *variances, **how):
    return theory.layer(theory.activation(name), *variances, **how)
"""
_PREDICTIONS = """
timed("predict, tanh", lambda: theory.predict(layer("tanh", 1.5, 0.05)))
timed("the same with other variances", lambda: theory.predict(layer("tanh", 1.6, 0.04)))
timed("then gelu", lambda: theory.predict(layer("gelu", 1.5, 0.05)))
timed("then relu", lambda: theory.predict(layer("relu", 1.5, 0.05)))
timed("then a residual tanh layer", lambda: theory.predict(layer("tanh", 1.5, 0.05, residual=True)))
"""
_SYMMETRIC = """
units = theory.layer(theory.radial("tanh"), 2.25, 0.05, components=3)
timed("predict, O(3)", lambda: theory.predict(units))
length = theory.predict(units).length
timed("then its sectors", lambda: theory.sectors(units, length))
"""
_PROPAGATION = """
network = theory.feedforward(theory.activation("tanh"), 1.5, 0.05, depth=20)
x = jnp.asarray([[[1.0], [0.5]], [[0.3], [1.0]]])
timed("propagate, tanh, 20 layers, two inputs", lambda: theory.propagate(network, x))
timed("propagate again", lambda: theory.propagate(network, x + 0.1))
"""
_CRITICAL = """
tanh = theory.activation("tanh")
timed("critical_points", lambda: theory.critical_points(tanh, 0.05))
"""
_QUANTILES = """
def quantiles():
    factors = theory.jacobian_factors(layer("tanh", 2.5, 0.05), 1.0).repeated(8)
    return theory.singular_value_quantiles(factors, jnp.linspace(0.1, 0.9, 9))

timed("jacobian_factors and nine quantiles", quantiles)
"""
_PARTS = (_PREDICTIONS, _SYMMETRIC, _PROPAGATION, _CRITICAL, _QUANTILES)
_POINT = ("--activation", "tanh", "--weight-variance", "1.5", "--bias-variance", "0.05")
_COMMANDS = {
    "sigprop --help": ("--help",),
    "sigprop predict": ("predict", *_POINT, "--json"),
    "sigprop phase-diagram, tanh": ("phase-diagram", "--activation", "tanh"),
    "sigprop phase-diagram, gelu": ("phase-diagram", "--activation", "gelu"),
}


def first_rows() -> list[tuple[str, float, float]]:
    """What, seconds of wall time, and their ratio to `import jax` in the same process or, for a
    command, in the process before."""
    rows = []
    jax = 0.0
    for part in _PARTS:
        seen = json.loads(_run([sys.executable, "-c", _PYTHON + part + "print(json.dumps(seen))"]))
        jax = seen["import jax"]
        skip = () if part is _PARTS[0] else ("import jax", "import theory, on top")
        rows += [
            (name, seconds, seconds / jax) for name, seconds in seen.items() if name not in skip
        ]
    with tempfile.TemporaryDirectory() as folder:
        for name, command in _COMMANDS.items():
            for how in ("", ", programs read from the cache"):
                if how and command[0] != "phase-diagram":
                    continue
                seconds = _timed_command(command, folder)
                rows.append((name + how, seconds, seconds / jax))
    return rows


def _run(command: list[str]) -> str:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def _timed_command(command: tuple[str, ...], folder: str) -> float:
    code = (
        "import sys, time; start = time.perf_counter(); from sigprop.commands import main; "
        "code = main(sys.argv[1:]); print(time.perf_counter() - start, file=sys.stderr)"
    )
    whole = [sys.executable, "-c", code, *command]
    if command[0] == "phase-diagram":
        whole += ["--output", os.path.join(folder, "out")]
    environment = {**os.environ, "SIGPROP_CACHE": folder}
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, check=True)
    return float(done.stderr.splitlines()[-1])
