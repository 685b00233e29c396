"""What may be one turn of a network."""

import jax

from theory.description._layers import is_deep
from theory.description._nodes import Chain, Part, Recurrent, check_part


def check_turn(body: Part) -> None:
    """Raise an error unless a description may be one turn, repeated without end.

    Raises
    ------
    ValueError
        If it is a whole network, as `feedforward` makes it: its first affine map is meant for
        inputs, and would act on pre-activations.
    TypeError
        If it is no part, or holds a `Recurrent`.
    """
    check_part("body", body)
    is_recurrent = lambda node: isinstance(node, Recurrent)
    if any(map(is_recurrent, jax.tree.leaves(body, is_leaf=is_recurrent))):
        raise TypeError(
            "`body`: must be one turn without a Recurrent; that of a recurrent network is the "
            "Recurrent's own `body` (theory.stationary_state)"
        )
    if isinstance(body, Chain) and is_deep(body):
        raise ValueError(
            "`body`: must be one layer, such as theory.layer; got a whole network, whose first "
            "Affine is for its inputs (theory.hidden_layer gives its layer)"
        )
