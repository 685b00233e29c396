"""How tests compile what runs once."""

import functools

import equinox as eqx

from theory.numerics import hasty_options

hastily = functools.partial(eqx.filter_jit, compiler_options=hasty_options())
"""`eqx.filter_jit` that compiles in a third of the time."""
