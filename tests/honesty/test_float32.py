"""A process that knows float32 alone: every function is right there, or says what to switch on."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from tests.documented import documented
from tests.honesty.campaign import Campaign
from tests.honesty.float32_walk import ANSWERED, REFUSED, erf_lengths

ROOT = Path(__file__).parents[2]
WITHOUT_ERRORS = {
    "autocorrelation correlation growth length overlap participation_ratio",  # read moments
    "step_growth",
    "describe generators plane_generator symmetry given_moments signal_moments",  # exact
    "activation affine componentwise feedforward layer radial recurrent repeat",  # descriptions
    "from_dict hidden_layer load_network save_network to_dict",
    "along_depth interpret",
    "onset_curvature onset_law",  # a formula of derivatives at 0
}


def walk(names):
    environment = {**os.environ, "JAX_ENABLE_X64": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.honesty.float32_walk", *names]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def judge(told):
    campaign = Campaign("float32 processes")
    for name, answer in told.items():
        if name in REFUSED:
            campaign.claim(
                name,
                str(answer),
                f"ValueError: `{asked(name)}`: needs float64; call "
                "jax.config.update('jax_enable_x64', True) first",
            )
        elif isinstance(answer, str):
            campaign.claim(name, answer, "a number")
        else:
            value, error, truth = answer
            campaign.claim(name, bool(np.isfinite(value) and np.isfinite(error)), True)
            campaign.number(name, value, error, value if truth is None else truth)
    campaign.check(most_unknown=0.0)


def asked(name):
    return "jacobian_factors" if name == "jacobian_spectrum" else name


def test_some_functions_are_right_or_refuse():
    judge(walk(["predict", "phase_diagram", "jacobian_spectrum", "spike_overlap"]))


@pytest.mark.slow
def test_every_function_is_right_or_refuses():
    judge(walk([*REFUSED, *ANSWERED]))


def test_no_function_is_left_out_of_the_walk():
    known = {*REFUSED, *ANSWERED, *" ".join(WITHOUT_ERRORS).split()}
    public = {name: fn for name, fn in documented().items() if inspect.isfunction(fn)}
    functions = {n.rpartition(".")[2] for n in public if n.startswith("theory.")}
    assert functions - known == set()
    others = {n.rpartition(".")[2] for n in public if n.startswith("sigprop.")}
    assert known - functions <= others


ERF = theory.activation("erf")
FEW = jnp.array([[[1.0], [2.0]], [[1.0], [-1.0]]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32])
@pytest.mark.parametrize("schedule", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_propagate_takes_every_precision_and_keeps_the_highest(dtype, schedule):
    body = theory.layer(ERF, jnp.array([1.5, 0.5], schedule), jnp.array([0.25, 0.5], schedule))
    network = theory.Chain((theory.affine(2.0), theory.Repeat(body, 2)))
    found = jax.eval_shape(lambda x: theory.propagate(network, x), FEW.astype(dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float64)}


def test_float32_inputs_do_not_cost_digits():
    network = theory.feedforward(ERF, 1.5, 0.25, depth=2)
    found = theory.propagate(network, np.asarray(FEW, np.float32))
    value, error = (theory.length(part)[-1, 1] for part in (found.value, found.error))
    assert abs(value - erf_lengths(1.5, 0.25, 1.5 * 1 + 0.25, 2)) <= error < 1e-13


@pytest.mark.parametrize("schedule", [jnp.float32, jnp.float64])
def test_a_simulation_is_in_the_precision_of_its_inputs(schedule):
    body = theory.layer(ERF, jnp.array([1.5, 0.5], schedule), jnp.array([0.25, 0.5], schedule))
    network = theory.Chain((theory.affine(2.0), theory.Repeat(body, 2)))
    draw = lambda x: sigprop.sample_network(network, x, key=jax.random.key(0), width=4)
    x = jnp.ones((1, 4, 1), jnp.float32)
    found = jax.eval_shape(draw, x)
    numbers, statuses = jnp.dtype(jnp.float32), jnp.dtype(jnp.int8)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {numbers, statuses}
    with pytest.raises(ValueError, match=r"`inputs`: must be float32 or .* got bfloat16"):
        draw(x.astype(jnp.bfloat16))
