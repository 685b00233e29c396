"""How large networks may be, known without JAX."""

MOST_WITH_MATRICES = 46_340
"""Units of a layer with a weight matrix, which then has 2³¹ numbers."""
