"""Gaussian expectations of functions with closed forms, smooth and not, declared and not."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import theory
from tests.honesty.campaign import Campaign
from theory import Status

# Functions of z and of two numbers a and b, and what is said about them: kinks and scale.
ONE = {
    "|z − a|": (lambda z, a, b: jnp.abs(z - a), (), 1.0),
    "|z − 1 − a|, declared at 1": (lambda z, a, b: jnp.abs(z - 1 - a), (1.0,), 1.0),
    "|z − .5|, declared": (lambda z, a, b: jnp.abs(z - 0.5), (0.5,), 1.0),
    "step at a": (lambda z, a, b: jnp.where(z > a, 1.0, 0.0), (), 1.0),
    "step at 1 + a, declared at 1": (lambda z, a, b: jnp.where(z > 1 + a, 1.0, 0.0), (1.0,), 1.0),
    "step at 1, declared": (lambda z, a, b: jnp.where(z > 1, 1.0, 0.0), (1.0,), 1.0),
    "exp(a z)": (lambda z, a, b: jnp.exp(a * z), (), 1.0),
    "cos(a z + b)": (lambda z, a, b: jnp.cos(a * z + b), (), 1.0),
    "erf(z + b)": (lambda z, a, b: jax.lax.erf(z + b), (), 1.0),
    "erf(30 z)²": (lambda z, a, b: jax.lax.erf(30 * z) ** 2, (), 1 / 30),
    "bump at 2": (lambda z, a, b: jnp.exp(-((z - 2) ** 2)), (2.0,), 1.0),
    "1/(1 + z²)": (lambda z, a, b: 1 / (1 + z * z), (), 1.0),
    "z⁸": (lambda z, a, b: z**8, (), 1.0),
}


def truth_of_one(name, q, a, b):
    q, a, b = mp.mpf(q), mp.mpf(a), mp.mpf(b)
    s = mp.sqrt(q)
    absolute = lambda k: (
        s * mp.sqrt(2 / mp.pi) * mp.exp(-k * k / (2 * q)) + k * mp.erf(k / (s * mp.sqrt(2)))
    )
    match name:
        case "|z − a|":
            return absolute(a)
        case "|z − 1 − a|, declared at 1":
            return absolute(mp.mpf(float(1 + a)))
        case "|z − .5|, declared":
            return absolute(mp.mpf("0.5"))
        case "step at a":
            return mp.ncdf(-a / s)
        case "step at 1 + a, declared at 1":
            return mp.ncdf(-mp.mpf(float(1 + a)) / s)
        case "step at 1, declared":
            return mp.ncdf(-1 / s)
        case "exp(a z)":
            return mp.exp(a * a * q / 2)
        case "cos(a z + b)":
            return mp.cos(b) * mp.exp(-a * a * q / 2)
        case "erf(z + b)":
            return mp.erf(b / mp.sqrt(1 + 2 * q))
        case "erf(30 z)²":
            return 2 / mp.pi * mp.asin(1800 * q / (1 + 1800 * q))
        case "bump at 2":
            return mp.exp(-4 / (1 + 2 * q)) / mp.sqrt(1 + 2 * q)
        case "1/(1 + z²)":
            return mp.sqrt(mp.pi / 2) / s * mp.exp(1 / (2 * q)) * mp.erfc(1 / mp.sqrt(2 * q))
        case "z⁸":
            return 105 * q**4
        case _:
            raise ValueError(name)


def numbers_of_one(name, rng):
    q = 10 ** rng.uniform(-8, 6)
    a, b = rng.choice([-1, 1]) * 10 ** rng.uniform(-9, 1) * np.sqrt(q), rng.normal() * 2
    if "declared at 1" in name:
        a = rng.choice([-1, 1]) * 10 ** rng.uniform(-7, -0.5)
    if name in ("exp(a z)", "cos(a z + b)"):
        a = min(10 ** rng.uniform(-2, 1) / np.sqrt(q), 1.0)
    return float(q), float(a), float(b)


@functools.cache
def by_library(name, pair=False):
    fn, kinks, scale = (TWO if pair else ONE)[name]

    def each(numbers):
        *point, a, b = numbers
        if pair:
            f = lambda u, v: fn(u, v, a, b)
            return theory.gaussian.gaussian_pair_expectation(f, *point, kinks=kinks, scale=scale)
        return theory.gaussian.gaussian_expectation(
            lambda z: fn(z, a, b), *point, kinks=kinks, scale=scale
        )

    return eqx.filter_jit(lambda numbers: jax.lax.map(each, tuple(numbers)))


def compare(campaign, name, numbers, truth, pair=False):
    found = by_library(name, pair)(jnp.asarray(numbers).T)
    for i, case in enumerate(numbers):
        with mp.workdps(40):
            exact = truth(name, *case)
        label = f"{name} {case!r}"
        if found.status[i] == Status.INFINITE:
            campaign.claim(label, True, exact > 1e300)
        else:
            # What is below the smallest normal number is 0.
            value, error = found.value[i], found.error[i]
            campaign.number(label, value, error, float(exact), truth_error=1e-307)


def singles(cases, seed=0, names=tuple(ONE)):
    campaign = Campaign("expectations of one variable")
    rng = np.random.default_rng(seed)
    for name in names:
        numbers = [numbers_of_one(name, rng) for _ in range(-(-cases // len(names)))]
        compare(campaign, name, numbers, truth_of_one)
    return campaign


# Functions of u and v, most of them of w = a u + b v.
TWO = {
    "|w|": (lambda u, v, a, b: jnp.abs(a * u + b * v), (), 1.0),
    "|u − v|": (lambda u, v, a, b: jnp.abs(u - v), (), 1.0),
    "max(u, v)": (lambda u, v, a, b: jnp.maximum(u, v), (), 1.0),
    "|u + v|": (lambda u, v, a, b: jnp.abs(u + v), (), 1.0),
    "step of w − .3": (lambda u, v, a, b: jnp.where(a * u + b * v > 0.3, 1.0, 0.0), (), 1.0),
    "sign(u − v) u": (lambda u, v, a, b: jnp.sign(u - v) * u, (), 1.0),
    "1/(1 + w²)": (lambda u, v, a, b: 1 / (1 + (a * u + b * v) ** 2), (), 1.0),
    "ridge": (lambda u, v, a, b: jnp.exp(-50 * (a * u + b * v) ** 2), (), 0.1),
    "cos w": (lambda u, v, a, b: jnp.cos(a * u + b * v), (), 1.0),
    "relu relu": (lambda u, v, a, b: jax.nn.relu(u) * jax.nn.relu(v), (), 1.0),
    "sign sign": (lambda u, v, a, b: jnp.sign(u) * jnp.sign(v), (), 1.0),
    "erf erf": (lambda u, v, a, b: jax.lax.erf(u) * jax.lax.erf(v), (), 1.0),
    "u²v²": (lambda u, v, a, b: (u * v) ** 2, (), 1.0),
}


def truth_of_two(name, qa, qb, c, a, b):
    qa, qb, c, a, b = map(mp.mpf, (qa, qb, c, a, b))
    cross = c * mp.sqrt(qa * qb)
    if name in ("|u − v|", "max(u, v)", "sign(u − v) u"):
        a, b = mp.mpf(1), mp.mpf(-1)
    if name == "|u + v|":
        a, b = mp.mpf(1), mp.mpf(1)
    s2 = a * a * qa + b * b * qb + 2 * a * b * cross
    s = mp.sqrt(s2)
    match name:
        case "|w|" | "|u − v|" | "|u + v|":
            return s * mp.sqrt(2 / mp.pi)
        case "max(u, v)":
            return s * mp.sqrt(2 / mp.pi) / 2
        case "step of w − .3":
            return mp.ncdf(-mp.mpf(0.3) / s)
        case "sign(u − v) u":
            return mp.sqrt(2 / mp.pi) * (qa - cross) / s
        case "1/(1 + w²)":
            return mp.sqrt(mp.pi / 2) / s * mp.exp(1 / (2 * s2)) * mp.erfc(1 / mp.sqrt(2 * s2))
        case "ridge":
            return 1 / mp.sqrt(1 + 100 * s2)
        case "cos w":
            return mp.exp(-s2 / 2)
        case "relu relu":
            angle = mp.acos(c)
            return mp.sqrt(qa * qb) / (2 * mp.pi) * (mp.sin(angle) + (mp.pi - angle) * c)
        case "sign sign":
            return 2 / mp.pi * mp.asin(c)
        case "erf erf":
            return 2 / mp.pi * mp.asin(2 * cross / mp.sqrt((1 + 2 * qa) * (1 + 2 * qb)))
        case "u²v²":
            return qa * qb * (1 + 2 * c * c)
        case _:
            raise ValueError(name)


def numbers_of_two(name, rng):
    qa, qb = 10 ** rng.uniform(-8, 6, size=2)
    if rng.random() < 0.3:
        qb = qa
    c = rng.choice([rng.uniform(-1, 1), 0.0, 1 - 10 ** rng.uniform(-14, -1)])
    c = c * rng.choice([-1, 1])
    a, b = rng.normal(size=2)
    if rng.random() < 0.3:
        b = -a * (1 + 10 ** rng.uniform(-8, 0)) * np.sqrt(qa / qb)
    if name == "cos w":
        a, b = a / np.sqrt(1 + qa), b / np.sqrt(1 + qb)
    return tuple(map(float, (qa, qb, c, a, b)))


def pairs(cases, seed=0, names=tuple(TWO)):
    campaign = Campaign("expectations of two variables")
    rng = np.random.default_rng(seed)
    for name in names:
        numbers = [numbers_of_two(name, rng) for _ in range(-(-cases // len(names)))]
        compare(campaign, name, numbers, truth_of_two, pair=True)
    return campaign


SOME_OF_ONE = ("|z − a|", "step at 1 + a, declared at 1", "erf(z + b)")
SOME_OF_TWO = ("|u − v|", "ridge")


@pytest.mark.parametrize(
    "cases, names",
    [(150, SOME_OF_ONE), pytest.param(10_000, tuple(ONE), marks=pytest.mark.slow)],
)
def test_one_variable(cases, names):
    singles(cases, names=names).check(most_unknown=0.05)


@pytest.mark.parametrize(
    "cases, names", [(60, SOME_OF_TWO), pytest.param(10_000, tuple(TWO), marks=pytest.mark.slow)]
)
def test_two_variables(cases, names):
    pairs(cases, names=names).check(most_unknown=0.1)
