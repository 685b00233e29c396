"""How large networks may be; importing it does not load JAX."""

MOST_WITH_MATRICES = 46_340
"""Most units of a layer with a weight matrix, which then has 2³¹ numbers."""
