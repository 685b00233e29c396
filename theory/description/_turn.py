"""What may be one turn of a network."""

import jax

from theory.description._architecture import Affine, Chain, Part, Recurrent, Repeat, check_part


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
    if isinstance(body, Chain) and len(body.parts) > 1:
        first, second = body.parts[:2]
        if isinstance(first, Affine) and isinstance(second, Repeat):
            raise ValueError(
                "`body`: must be one turn, such as theory.layer; got a whole network, whose first "
                "Affine is for its inputs (its turns are `body.parts[1]`)"
            )
    is_recurrent = lambda node: isinstance(node, Recurrent)
    if any(map(is_recurrent, jax.tree.leaves(body, is_leaf=is_recurrent))):
        raise TypeError(
            "`body`: must be one turn without a Recurrent; that of a recurrent network is the "
            "Recurrent's own `body` (theory.stationary_state)"
        )
