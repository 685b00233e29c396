"""Speed as ratios, side by side in one run: the phase diagram, and the simulation.

    python scripts/benchmark.py [--points 24] [--map-points 2] [--repeats 5] [--only spectra]

First: what a person waits for in a new process, over the time of `import jax` there. The diagram:
q*, χ, c*, ξ of tanh on 64×64 points, σ_w² from .5 to 4 and σ_b² from .001 to .5,
against (a) a fixed-point loop with scipy's `quad` at each point and, for c*, with `dblquad`
(from c = 0, until c moves by less than 1e-8), both on a sample of the points, and (b) a
Gauss-Hermite grid of 128 nodes with Newton's method, for q* and χ. The simulation: seconds per
layer against the matrix product and the random numbers that it cannot do without. Wide: a layer of
a million units without weights against its random numbers, and the memory. Units:
networks of k components against the scalar one with as many real numbers, and a diagram of O(4).
Spectra: all singular values of deep products to full relative accuracy against the plain product
and one SVD, one matrix and many, with what was tried; the density at 100 depths. Sweep: ten
thousand small cells, and two devices against one. Training: a step of Adam against the matrix
products that it cannot do without, in the same shapes, and against the same network in PyTorch
where that is installed (`pip install torch==2.13.0`). Continuity: the alignment of 100 layers
against such a step, and against singular value decompositions in a loop.
"""

import argparse
import platform
import resource
import time

import jax
import numpy as np
from benchmarks.diagram import diagram_rows, sector_seconds
from benchmarks.first import first_rows
from benchmarks.simulation import simulation_row, units_rows, wide_seconds
from benchmarks.spectra import density_rows, spectra_rows
from benchmarks.sweeps import scaling, sweep_run
from benchmarks.training import continuity_rows, training_rows


def main(argv=None):
    parser = argparse.ArgumentParser(description="Speed as ratios, side by side in one run.")
    parser.add_argument("--points", type=int, default=24, help="points for scipy's quad")
    parser.add_argument("--map-points", type=int, default=2, help="points for scipy's dblquad")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=1_000_000, help="of the wide network")
    parser.add_argument("--depth", type=int, default=8, help="of the wide network, at least 2")
    parts = (
        "first",
        "diagram",
        "simulation",
        "wide",
        "units",
        "spectra",
        "sweep",
        "training",
        "continuity",
    )
    parser.add_argument("--only", choices=parts, help="one part instead of all")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    print(
        f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    wanted = parts if options.only is None else (options.only,)
    if "first" in wanted:
        print("\n| first call in a new process | seconds | ratio to `import jax` |")
        print("|---|---|---|")
        for what, seconds, ratio in first_rows():
            print(f"| {what} | {seconds:.3g} | {ratio:.2g} |")
    if "diagram" in wanted:
        rows = diagram_rows(options.points, options.map_points, options.repeats)
        print("\n| diagram 64×64, tanh | seconds | ratio |\n|---|---|---|")
        for what, seconds, ratio in rows:
            print(f"| {what} | {seconds:.3g} | {ratio:.3g} |")
    if "simulation" in wanted:
        print(
            "\n| width | explicit weights, µs per layer and network | random numbers | product "
            "| ratio to their sum | without weights |\n|---|---|---|---|---|---|"
        )
        for width, replicas in [(128, 64), (256, 32), (512, 16), (1024, 8)]:
            total, free, random, matrix, ratio = simulation_row(
                width, replicas, 50, options.repeats
            )
            print(
                f"| {width} | {total * 1e6:.0f} | {random * 1e6:.0f} | {matrix * 1e6:.0f} "
                f"| {ratio:.2f} | {free * 1e6:.0f} |"
            )
    if "wide" in wanted:
        layer, theirs, ours, whole = wide_seconds(options.width, options.depth, options.repeats)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"\n| width {options.width} | seconds per layer | ratio to jax.random.normal |\n"
            f"|---|---|---|\n| without weights | {layer:.3g} | {layer / theirs:.2f} |\n"
            f"| its Gaussian numbers, jax.random.normal | {theirs:.3g} | 1 |\n"
            f"| the same, ours | {ours:.3g} | {ours / theirs:.2f} |\n\n{options.depth} layers: "
            f"{whole:.3g} s; peak memory of this process {memory:.2f} GiB; one weight matrix "
            f"in float32: {options.width**2 / 2**28:.3g} GiB and "
            f"{theirs * options.width / 6:.3g} s of random numbers"
        )
    if "continuity" in wanted:
        ours, warm, training, numpy, difference = continuity_rows(100, 512, 256, options.repeats)
        print(
            f"\ncontinuity of 100 layers of 512×512: {ours:.3g} s, {ours / training:.2f} of a "
            f"training step with 256 inputs ({training:.3g} s); five steps later from there "
            f"{warm:.3g} s, {warm / training:.2f}; numpy.linalg.svd in a loop "
            f"{numpy:.3g} s, {numpy / ours:.0f} times as long; they differ by {difference:.1e}"
        )
    if "units" in wanted:
        print(
            "\n| 512 real numbers per layer | explicit weights, µs per layer and network "
            "| ratio to scalar | without weights | ratio |\n|---|---|---|---|---|"
        )
        rows = units_rows(512, 16, 50, options.repeats)
        for name, explicit, free in rows:
            ratios = explicit / rows[0][1], free / rows[0][2]
            print(
                f"| {name} | {explicit * 1e6:.0f} | {ratios[0]:.2f} | {free * 1e6:.0f} "
                f"| {ratios[1]:.2f} |"
            )
        cold, warm = sector_seconds(options.repeats)
        print(f"\nO(4), 256×256 points by sector: {warm:.2f} s warm, {cold:.1f} s at first")
    if "spectra" in wanted:
        print("\n| singular values, one core | seconds | ratio to plain |\n|---|---|---|")
        for what, seconds, ratio in spectra_rows(options.repeats):
            print(f"| {what} | {seconds:.3g} | {ratio:.3g} |")
        print("\n| density, 100 depths × 1000 points | first | warm | error |\n|---|---|---|---|")
        for what, cold, warm, error in density_rows(options.repeats):
            print(f"| {what} | {cold:.3g} | {warm:.3g} | {error:.1e} |")

    if "sweep" in wanted:
        runs = [sweep_run(None) for _ in range(options.repeats)]
        shares = [r.compute_seconds / (r.workers * r.seconds) for r in runs]
        best = runs[int(np.argsort([r.seconds for r in runs])[len(runs) // 2])]
        print(
            f"\nsweep of 10,000 cells of 4 networks: {best.seconds:.2f} s on {best.workers} cores, "
            f"{100 * np.median(shares):.0f} % of it in compiled programs, "
            f"{best.computed / best.seconds:.0f} networks a second"
        )
        one, two = scaling(options.repeats)
        print(f"two simulated devices against one: {one:.2f} s / {two:.2f} s = {one / two:.2f}")

    if "training" in wanted:
        print(
            "\n| 100 layers of 64, batch 256 | ms per step of Adam | its matrix products | ratio "
            "| PyTorch, ms | ratio |\n|---|---|---|---|---|---|"
        )
        for name, step, floor, other in training_rows(100, 64, 256, 10, options.repeats):
            torch = (
                "| not installed | |" if other is None else f"| {other:.1f} | {other / step:.1f} |"
            )
            print(f"| {name} | {step:.1f} | {floor:.1f} | {step / floor:.2f} {torch}")


if __name__ == "__main__":
    main()
