"""Several hosts that work together, and how one of them leaves."""

import os
import time

HEARTBEAT_SECONDS = 20
"""A host that was not heard of for so long is lost, and JAX ends the others."""
LINGER_SECONDS = 5
"""How long process 0 stays after a signal: JAX ends the others as soon as it is gone."""
_joined = False


def join_hosts(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Find the other hosts through `jax.distributed`, and leave signals to this program.

    Parameters
    ----------
    coordinator
        Host and port of process 0; by default JAX asks the pod or the Slurm step.
    processes, process
        Number of processes, and which one this is.

    Raises
    ------
    ValueError
        If they are not found.
    """
    global _joined
    import jax

    # JAX's service takes SIGTERM for itself, to let programs agree on a last step.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`distributed`: must find its hosts; got {reason}") from error
    _joined = True


def leave_hosts(code: int) -> None:
    """End the process without waiting for the other hosts, as JAX would; without any do nothing.

    Parameters
    ----------
    code
        The exit code.
    """
    if not _joined:
        return
    import jax

    if jax.process_index() == 0:
        time.sleep(LINGER_SECONDS)
    os._exit(code)
