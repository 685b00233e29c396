"""How long something takes."""

import time
from typing import Any

import jax
import numpy as np


def timed(fn, repeats):
    """The median of several timings in seconds, and the last result."""
    times: list[float] = []
    result: Any = None
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result
