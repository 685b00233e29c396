"""Memory of a long session: each call has a nonlinearity that was never seen before."""

import functools
import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from theory.numerics import _compiled, compiled

STATUS = Path("/proc/self/statm")
needs_linux = pytest.mark.skipif(not STATUS.exists(), reason="reads memory from /proc")


def megabytes():
    gc.collect()
    return int(STATUS.read_text().split()[1]) * 4096 / 2**20


def unseen(number):
    return theory.componentwise(lambda z: jnp.tanh((0.5 + number / 1000) * z) + 0.1 * z)


def predict(number):
    theory.predict(theory.layer(unseen(number), 1.5, 0.05))


def diagram(number):
    build = lambda weight_variance: theory.layer(unseen(number), weight_variance, 0.05)
    theory.phase_diagram(build, {"weight_variance": np.linspace(1.0, 3.0, 4)})


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("call, calls", [(predict, 2000), (diagram, 200)])
def test_memory_is_flat_after_a_warm_up(call, calls):
    seen = []
    for number in range(calls):
        call(number)
        if number % (calls // 20) == 0:
            seen.append(megabytes())
    half = len(seen) // 2
    print(f"{calls} calls of {call.__name__}, MB: {[round(m) for m in seen]}")
    assert max(seen[half:]) < 1.03 * max(seen[: half + 1])


def test_programs_that_are_not_kept_are_freed(monkeypatch):
    few = functools.lru_cache(maxsize=2)(_compiled._program.__wrapped__)
    monkeypatch.setattr(_compiled, "_program", few)
    apply, client, x = compiled(lambda fn, x: fn(x)), jax.devices()[0].client, np.ones(2)
    live = lambda: gc.collect() * 0 + len(client.live_executables())
    before = live()
    for number in range(5):
        apply(lambda x, number=number: x + number, x)
    assert live() == before + 2
