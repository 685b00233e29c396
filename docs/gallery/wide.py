"""1/N corrections from width 100 to a million, and random recurrent networks.

python docs/gallery/wide.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sigprop
import theory

TANH = theory.activation("tanh")
BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
WEIGHTS, BIAS, DEPTH = 1.5, 0.0, 12
WIDTHS = (100, 200, 400, 1000, 10_000, 100_000, 1_000_000)
STYLE = {"ms": 3.5, "mfc": "white", "lw": 0, "elinewidth": 0.8}


def fit(widths, mean, error):
    """y + b/N + c/N² by weighted least squares: y and b with their errors, and χ² per degree."""
    scaled = min(widths) / np.asarray(widths, float)
    design = scaled[:, None] ** np.arange(3)
    weight = 1 / error**2
    normal = np.einsum("wi,wl,wj->lij", design, weight, design)
    right = np.einsum("wi,wl,wl->li", design, weight, mean)
    found = np.linalg.solve(normal, right[..., None])[..., 0]
    spread = np.sqrt(np.diagonal(np.linalg.inv(normal), axis1=1, axis2=2))
    chi = np.sum(weight * (mean - design @ found.T) ** 2, axis=0) / max(len(widths) - 3, 1)
    units = np.array([1, min(widths)])
    return (found[:, :2] * units).T, (spread[:, :2] * units).T, chi


def observe(units):
    """Length, correlation and slope per layer at every width: mean and standard error."""
    network = theory.feedforward(TANH, WEIGHTS, BIAS, depth=DEPTH)
    x = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), 64, key=jax.random.key(0))
    expected = theory.propagate(network, x)
    names = {name: theory.OBSERVABLES[name] for name in ("length", "correlation", "slope")}
    found = {name: [] for name in names}
    for width in WIDTHS:
        samples = sigprop.sample_ensemble(
            network,
            x.astype(jnp.float32),
            width=width,
            replicas=max(units // width, 8),
            explicit_weights=False,
        ).samples
        for name, observable in names.items():
            each = sigprop.comparison.contributions(observable, samples).mean(axis=2)
            found[name].append((each.mean(axis=0), each.std(axis=0, ddof=1) / len(each) ** 0.5))
    exact = {n: np.asarray(o.values(expected.value)).mean(axis=1) for n, o in names.items()}
    correction = theory.finite_width.length_correction(network, 1.0)
    return {n: np.moveaxis(np.array(v), 1, 0) for n, v in found.items()}, exact, correction


def corrections(panels, units):
    """Intercepts and slopes in 1/N against theory; a table is printed."""
    found, exact, correction = observe(units)
    inverse = 1 / np.array(WIDTHS, float)
    print("observable  largest |z| of intercepts  of slopes  mean chi^2 per degree of freedom")
    for name, (mean, error) in found.items():
        (limit, slope), (limit_error, slope_error), chi = fit(WIDTHS, mean, error)
        z = np.abs(limit - exact[name]) / limit_error
        of_slopes = "-"
        if name == "length":
            theirs = np.asarray(correction.correction.value)
            of_slopes = f"{np.max(np.abs(slope - theirs) / slope_error):.2f}"
            panels[1].plot(theirs, color=BLACK, label="theory, $M_l$")
            layers = np.arange(len(theirs))
            panels[1].errorbar(layers, slope, slope_error, fmt="o", color=BLUE, **STYLE)
            wrong = np.max(np.abs(slope - 1.03 * theirs) / slope_error)
            print(f"(a slope 3 % wrong: |z| = {wrong:.1f})")
        print(f"{name:12s}{np.max(z):8.2f}{of_slopes:>28s}{np.mean(chi):12.2f}")
        if name == "length":
            for layer, color, marker in ((2, GREEN, "^"), (4, BLUE, "o"), (12, VERMILLION, "s")):
                shift = mean[:, layer] - exact[name][layer]
                panels[0].plot(
                    inverse, theirs[layer] * inverse, color=color, label=rf"$M_l/N$, $l={layer}$"
                )
                panels[0].errorbar(
                    inverse, shift, error[:, layer], fmt=marker, color=color, **STYLE
                )
    panels[0].set(xlabel="$1/N$", ylabel=r"$\langle |z_l|^2\rangle/N-q_l$")
    panels[0].ticklabel_format(scilimits=(0, 0))
    panels[1].set(xlabel="layer $l$", ylabel=r"slope in $1/N$ of the length")


def exponents(panel, width, steps):
    """The largest exponents of one recurrent network at every gain."""
    gains = np.linspace(0.6, 2.0, 15)
    fine = np.linspace(0.6, 2.0, 57)
    for bias, color, marker in ((0.0, BLUE, "o"), (0.1, VERMILLION, "s")):
        layer = jax.tree_util.Partial(theory.layer, TANH, bias_variance=bias)
        state = lambda gain, layer=layer: (
            theory.phases.stationary_state(layer(gain**2)).exponent.value
        )
        panel.plot(fine, jax.lax.map(state, fine), color=color, label=rf"$\sigma_b^2={bias:g}$")
        start = jax.random.normal(jax.random.key(3), (1, 32, 1))
        x = jnp.concatenate([start, jnp.zeros((steps - 1, 32, 1))])

        def measure(gain, bias=bias, x=x):
            network = theory.recurrent(TANH, gain**2, bias, steps=steps)
            return sigprop.jacobians.sample_exponents(
                network, x, key=jax.random.key(4), width=width, count=1, explicit_weights=True
            )

        found = jax.lax.map(measure, gains)
        error = found.standard_error[:, 0]
        panel.errorbar(gains, found.values[:, 0], error, fmt=marker, color=color, **STYLE)
    panel.axhline(0, color="0.7", lw=0.6)
    panel.axvline(1, color="0.7", lw=0.6)
    panel.set(xlabel=r"$\sigma_w$", ylabel=r"largest exponent $\lambda$")


def autocorrelations(panel, width, replicas, steps):
    """C(t, s) from one time on, with a static bias and without, and with noise at every step."""
    for bias, noise, color, marker, text in (
        (0.0, 0.0, BLUE, "o", "no bias"),
        (0.1, 0.0, VERMILLION, "s", r"$\sigma_b^2=0.1$"),
        (0.1, 0.3, GREEN, "^", r"$\sigma_b^2=0.1$, noise $0.3$"),
    ):
        network = theory.recurrent(TANH, 2.25, bias, steps=steps)
        drives = jnp.eye(steps) * jnp.where(jnp.arange(steps) == 0, 1.0, noise)[:, None]
        x = sigprop.gram_inputs(drives, 4 * steps, key=jax.random.key(5))
        moments = jax.tree.map(lambda v: v[-1], theory.propagate(network, x).value)
        exact = np.asarray(theory.mean_field.autocorrelation(moments, steps))[0, 0]
        sample = sigprop.sample_ensemble(
            network, x, width=width, replicas=replicas, explicit_weights=False
        ).samples.moments
        each = sample.covariance[:, -1, :, :, 0, 0]
        at = steps // 2
        lags = np.arange(steps - at)
        panel.plot(lags, exact[at, at:], color=color, label=text)
        drawn = np.asarray(each)[:, at, at:]
        spread = drawn.std(axis=0, ddof=1) / replicas**0.5
        panel.errorbar(lags, drawn.mean(axis=0), spread, fmt=marker, color=color, **STYLE)
    panel.set(xlabel=r"time difference $\tau$", ylabel=rf"$C(t,t+\tau)$, $t={at + 1}$")


def main(
    output: str = "docs/figures/wide.png",
    units: int = 20_000_000,
    width: int = 500,
    steps: int = 400,
    replicas: int = 64,
) -> None:
    """Write the figure; `units` is the number of networks times their width."""
    jax.config.update("jax_enable_x64", True)
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    panels = figure.subplots(2, 2)
    corrections(panels[0], units)
    exponents(panels[1, 0], width, steps)
    autocorrelations(panels[1, 1], 4 * width, replicas, 24)
    for panel, letter in zip(panels.flat, "abcd", strict=True):
        panel.set_title(letter, loc="left", fontweight="bold", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=7)
    figure.savefig(output, dpi=200)


if __name__ == "__main__":
    main()
