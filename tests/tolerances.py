"""How far a tested number may be from what it should be, and why.

Each is relative, or absolute for numbers of order one.
"""

from scipy import stats

# Rounding in double precision, whose unit is 2.2e-16.
ROUNDING = 1e-15
"""A few operations."""
LAYER = 1e-14
"""Tens of operations: one layer, one closed form."""
LAYERS = 1e-13
"""Hundreds of operations: some layers, a sum over the nodes of a rule."""
FOLD = 1e-12
"""Thousands of operations: tens of layers, a decomposition of a small matrix."""

# What is solved or expanded has the accuracy that was asked for, not that of its operations.
SOLUTION = 1e-10
"""A root, a fixed point or an expectation: the accuracy that the library promises."""
SLOPE = 1e-8
"""A derivative by central differences: the square root of a rounding."""

# Rounding in single precision, whose unit is 1.2e-7.
SINGLE = 1e-6
"""A few operations."""
SINGLE_LAYERS = 1e-5
"""Some layers, or a training step."""

LIMIT = 1e-3
"""What is reached in the limit alone: at a finite depth, distance or number of steps."""


def printed(decimals: int) -> float:
    """Half a unit of the last of the decimals in which a number was published."""
    return 0.5 * 10.0**-decimals


def sigmas(numbers: int = 1) -> float:
    """How many standard errors the worst of so many numbers may be off.

    If they are independent and normal, one of 10⁶ such tests fails by chance.
    """
    return float(stats.norm.isf(0.5e-6 / numbers))
