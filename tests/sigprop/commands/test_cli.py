"""The command line: its contract for scripts, its answers to bad input, what it writes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread

import sigprop
import theory
from sigprop.commands import _cli, _output
from sigprop.commands._demo import demo
from sigprop.commands._network import Network
from sigprop.commands._requests import Run, axis_values
from sigprop.figures import _phase_diagram_figure, comparison_figure, phase_diagram_figure
from sigprop.sweeps._sweep_store import create_store
from tests.tolerances import FOLD, LIMIT, SINGLE, SLOPE, SOLUTION, printed
from theory import Phase, Stability, Status

ROOT = Path(__file__).parents[3]
# erf has closed forms, which compile fastest.
POINT = ["--activation", "erf", "--weight-variance", "2", "--bias-variance", "0.1"]
# Shapes that the tests share, so that each is compiled once.
AXES = ["--weight-variance", "1,1.5,2,2.5,3", "--bias-variance", "0,0.1,0.2"]
SMALL = ["--depth", "3", "--widths", "8,16,32", "--replicas", "60"]
RUN = Run((8, 16, 32), (200,), seed=0, dtype="float32")


@pytest.fixture(autouse=True)
def same_configuration(monkeypatch):
    """JAX as the command line configures it, so that the tests share what is compiled."""
    jax.config.update("jax_default_matmul_precision", "highest")
    monkeypatch.setattr(_output, "DPI", 120)  # drawing takes its time


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = _cli.main([str(part) for part in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def strict_json(text):
    def reject(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=reject)


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_figure(path):
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 500
    assert pixels[..., :3].std() > 0.05
    # Nothing touches the rim, where it would be cut off.
    for rim in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert np.all(rim[..., :3] == 1)


class TestPredict:
    def test_contract(self, command):
        code, out, err = command("predict", *POINT, "--json")
        found = strict_json(out)
        assert (code, err, out.count("\n")) == (0, "", 1)
        for name, value in {"length": 1.04625536012143254, "slope": 1.1183167661184481}.items():
            assert found[name]["value"] == pytest.approx(value, rel=SOLUTION)
            assert found[name]["status"] == "ok"
            assert 0 < found[name]["error"] <= 1e-10 * value
        assert 0 < found["correlation"]["value"] < 1
        slope = found["correlation_slope"]["value"]
        assert found["depth_scale_correlation"]["value"] == pytest.approx(
            -1 / np.log(slope), rel=FOLD
        )
        assert set(found["depth_scale_length"]) == {"value", "error", "status"}
        assert found["phase"] == "chaotic"
        assert found["parameters"]["weight_variance"] == 2

    def test_infinite_and_absent_are_null(self, command):
        argv = ["--activation", "relu", "--weight-variance", "2.5", "--bias-variance", "0.05"]
        code, out, _ = command("predict", *argv, "--json")
        found = strict_json(out)
        assert code == 0
        assert found["phase"] == "divergent"
        assert found["length"] == {"value": None, "error": None, "status": "infinite"}
        assert found["slope"]["value"] == pytest.approx(1.25, rel=SOLUTION)

    def test_table(self, command):
        code, out, _ = command("predict", *POINT)
        assert code == 0
        assert "chaotic" in out
        assert "1.04625536012" in out

    def test_as_a_program(self):
        argv = ["--activation", "linear", "--weight-variance", "0.5", "--bias-variance", "0.1"]
        done = subprocess.run(
            [sys.executable, "-m", "sigprop", "predict", *argv, "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert strict_json(done.stdout)["length"]["value"] == pytest.approx(0.2, rel=FOLD)

    def test_mistakes_as_a_program(self):
        done = subprocess.run(
            [sys.executable, "-m", "sigprop", "predict", *POINT, "--weight-varianc", "1"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert "--weight-varianc" in done.stderr


def replaced(option, value, argv):
    at = argv.index(option)
    return [*argv[: at + 1], value, *argv[at + 2 :]]


def test_help_and_mistakes_and_status_never_import_jax(tmp_path):
    store = tmp_path / "sweep.zarr"
    sweep = sigprop.Sweep(activation="erf", depth=2, width=8, weight_variance=(1.0, 2.0))
    create_store(sweep, store, chunk=(1, 1))
    code = """
import json, sys
sys.modules["jax"] = None
from sigprop.commands import main
for argv in json.loads(sys.argv[1]):
    print(main(argv), file=sys.stderr)
"""
    lines = [
        (["--help"], 0),
        (["predict", "--help"], 0),
        (["plan", "--help"], 0),
        (["sweep", "--help"], 0),
        (["predict", "--activation", "tanh"], 2),
        (["predict", *POINT, "--residul"], 2),
        (["compare", *POINT, "--depth", "0"], 2),
        (["compare", *POINT, "--depth", "3", "--widths", "8,16"], 2),
        (["phase-diagram", "--activation", "tanh", "--weight-variance", "3:1:5"], 2),
        (["plan", *POINT, "--observable", "length"], 2),
        (["sweep", "status", str(tmp_path / "absent.zarr")], 2),
        (["sweep", "status", str(store), "--json"], 0),
    ]
    argv = [sys.executable, "-c", code, json.dumps([line for line, _ in lines])]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes = [line for line in done.stderr.splitlines() if not line.startswith("sigprop: ")]
    assert codes == [str(wanted) for _, wanted in lines]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["networks"], found["done"], found["axes"]) == (32, 0, {"weight_variance": 2})


class TestNetworkFiles:
    """What a file describes is what the options build."""

    @pytest.fixture
    def files(self, tmp_path):
        erf = theory.activation("erf")
        text = "import jax\n\n\ndef mine(z):\n    return jax.scipy.special.erf(z)\n"
        (tmp_path / "own.py").write_text(text)
        layer = theory.layer(erf, 2.0, 0.1)
        theory.save_network(layer, tmp_path / "layer.toml")
        theory.save_network(theory.feedforward(erf, 2.0, 0.1, depth=3), tmp_path / "deep.toml")
        rotating = theory.layer(theory.radial("tanh"), 2.25, 0.0, components=3)
        theory.save_network(rotating, tmp_path / "rotating.toml")
        schedule = jax.vmap(lambda v: theory.layer(erf, v))(jnp.array([1.0, 2.0]))
        several = theory.Chain((theory.affine(1.0), theory.Repeat(schedule, 2)))
        theory.save_network(several, tmp_path / "schedule.toml")

    def test_predict(self, command, files):
        wanted = strict_json(command("predict", *POINT, "--json")[1])
        asked = wanted.pop("parameters")
        assert asked["activation"] == "erf"
        for name in ("layer.toml", "deep.toml"):
            code, out, err = command("predict", "--network", name, "--json")
            found = strict_json(out)
            parameters = found.pop("parameters")
            assert (code, err, found) == (0, "", wanted)
            assert theory.from_dict(parameters["description"]) is not None
        code, out, _ = command("predict", "--network", "layer.toml")
        assert code == 0
        assert "layer.toml: chaotic" in out

    def test_own_activation(self, command, files):
        wanted = strict_json(command("predict", *POINT, "--json")[1])
        argv = replaced("--activation", "own.py:mine", POINT)
        found = strict_json(command("predict", *argv, "--json")[1])
        for name in ("length", "slope", "correlation"):
            one, other = found[name], wanted[name]
            assert abs(one["value"] - other["value"]) <= one["error"] + other["error"]

    def test_symmetry_of_a_file(self, command, files):
        found = strict_json(command("predict", "--network", "rotating.toml", "--json")[1])
        assert (found["symmetry"], found["goldstone_modes"]) == ("O(3)", 3)

    def test_whole_network(self, command, files, monkeypatch):
        given = []

        def simulation(network, inputs, **options):
            given.append(network)
            raise Reached

        monkeypatch.setattr(sigprop, "compare", simulation)
        widths = SMALL[2:]
        with pytest.raises(Reached):
            command("compare", "--network", "deep.toml", *widths)
        with pytest.raises(Reached):
            command("compare", "--network", "layer.toml", *SMALL)
        with pytest.raises(Reached):
            command("compare", *POINT, *SMALL)
        dicts = list(map(theory.to_dict, given))
        assert dicts[0] == dicts[1] == dicts[2]

    @pytest.mark.parametrize(
        "argv, message",
        [
            (["predict", "--network", "no.toml"], "--network: no.toml: must be a readable TOML"),
            (
                ["predict", "--network", "layer.toml", "--residual"],
                "--residual: must not be given with --network; got True",
            ),
            (
                ["predict", "--network", "schedule.toml"],
                "--network: must repeat one layer; got numbers that change with depth",
            ),
            (
                ["compare", "--network", "deep.toml", *SMALL],
                "--depth: must not be given with a whole network; got 3",
            ),
            (["compare", *POINT, *SMALL[2:]], "--depth: must be given; got none"),
            (
                ["goldstone", "--network", "layer.toml"],
                "--network: must contain a layer of a radial",
            ),
            (["predict", "--network", "own.py:mine"], "--network: `own.py:mine`: must be a part"),
            (
                ["predict", *replaced("--activation", "own.py:its", POINT)],
                "--activation: its must be a name in own.py; got own.py:its",
            ),
            (["phase-diagram"], "--activation: must be given, or --network; got none"),
        ],
    )
    def test_mistakes(self, command, files, argv, message):
        code, out, err = command(*argv)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"sigprop: {message}")


@pytest.mark.slow
def test_predict_with_a_symmetry(command):
    """The group is derived from the description that the shorthand builds."""
    point = ["--activation", "tanh", "--weight-variance", "2.25", "--bias-variance", "0"]
    code, out, _ = command("predict", "--symmetry", "O(3)", *point, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["symmetry"] == "O(3)"
    assert found["goldstone_modes"] == 3
    assert found["explicitly_broken"] is False
    np.testing.assert_allclose(3 * found["length"]["value"], 1.2359339066, rtol=SOLUTION)
    np.testing.assert_allclose(found["order_parameter"]["value"], 0.71866282, rtol=SLOPE)
    multipliers = {name: e["value"] for name, e in found["multipliers"].items()}
    np.testing.assert_allclose(
        [multipliers[n] for n in ("goldstone", "trace", "symmetric_traceless")],
        [1.0, 1.0793993015, 1.0317597206],
        rtol=SOLUTION,
    )
    assert found["depth_scale_goldstone"]["status"] == "infinite"
    code, out, _ = command("predict", "--symmetry", "U(1)", *point[:-1], "0.045")
    assert code == 0
    assert "symmetry U(1), 1 pseudo-Goldstone modes" in out


@pytest.mark.slow
def test_phase_diagram_with_a_symmetry(command, tmp_path):
    axes = ["--weight-variance", "0.5,1.5,2.25", "--bias-variance", "0,0.045"]
    argv = ["phase-diagram", "--symmetry", "U(1)", "--activation", "tanh", *axes, "--json"]
    code, out, _ = command(*argv, "--output", tmp_path / "u1")
    found = json.loads(out)
    assert code == 0
    assert set(found["statuses"]) == set(theory.phases._diagram.SECTOR_QUANTITIES)
    split = {"symmetric": 1, "broken": 2, "explicit": 3, "unknown": 0}
    assert found["symmetry_phases"] == split
    # one complex number cannot be sheared
    assert found["statuses"]["symmetric_traceless"]["absent"] == 6
    assert {Path(f).suffix for f in found["files"]} == {".zarr", ".png", ".pdf"}
    data = sigprop.read_dataset(tmp_path / "u1" / "phase_diagram.zarr")
    np.testing.assert_allclose(data["goldstone"][2, 1], 0.92801, rtol=0, atol=printed(5))
    np.testing.assert_array_equal(data["symmetry_phase"], [[0, 2], [1, 2], [1, 2]])


@pytest.mark.slow
def test_goldstone(command, tmp_path):
    argv = ["goldstone", "--symmetry", "O(2)", "--weight-variance", "1.5", "--depth", "20"]
    argv = [*argv, "--width", "48", "--replicas", "12", "--dtype", "float64", "--json"]
    code, out, _ = command(*argv, "--output", tmp_path / "o2")
    found = strict_json(out)
    assert code == 0
    assert (found["symmetry"], found["broken_generators"]) == ("O(2)", 1)
    assert found["goldstone"]["value"] == pytest.approx(1, abs=FOLD)
    assert found["rotation_scale"] is None
    assert found["certificate"]["holds"] == [True]
    assert found["certificate"]["gain"] == pytest.approx(
        found["certificate"]["expected_gain"], rel=FOLD
    )
    # the leading exponents of a chaotic network hold exactly one that is protected
    assert sum(found["exponents"]["alignment"]) == pytest.approx(1, abs=LIMIT)
    data = sigprop.read_dataset(tmp_path / "o2" / "goldstone.zarr")
    sampled, variance = found["sampled"], np.array(found["sampled"]["weight_variance"])
    exact = data["order_parameter"].sel(weight_variance=variance).values
    late = variance > 1.5  # reached in 20 layers; 1/N moves the mean by about 1 %
    z = (np.array(sampled["order_parameter"]) - exact) / np.array(sampled["standard_error"])
    assert np.all(np.abs(z[late]) < 6)
    related = data.sel(pair="related")
    np.testing.assert_allclose(related["rotation_mean"], 0.8, rtol=0, atol=SOLUTION)
    np.testing.assert_allclose(related["rotation_theory"], 0.8, rtol=0, atol=FOLD)
    z = (related["overlap_mean"] - related["overlap_theory"])[1:]
    assert np.all(np.abs(z / related["overlap_standard_error"][1:]) < 6)
    assert np.all(data.sel(pair="generic")["overlap_theory"].diff("layer") < 0)
    for suffix in (".png", ".pdf"):
        assert (tmp_path / "o2" / f"goldstone{suffix}").stat().st_size > 10_000


SPECTRUM = ["spectrum", "--activation", "relu", "--weight-variance", "2", "--bias-variance", "0"]


@pytest.mark.parametrize(
    "weights, ratio, edge", [("gaussian", 17, 43.549), ("orthogonal", 9, 20.372)]
)
def test_predicted_spectrum(command, weights, ratio, edge):
    argv = [*SPECTRUM, "--weights", weights, "--depth", "8", "--theory-only", "--json"]
    code, out, err = command(*argv)
    found = strict_json(out)
    assert (code, err) == (0, "")
    upper, lower = found["edges"]["upper"], found["edges"]["lower"]
    assert upper["value"] ** 2 == pytest.approx(edge, abs=printed(3))
    # λ_+ = min over m > 0 of (1 + m)/m (m + 1/2)^8 2^8, over (1 + m)^8 without Gaussian factors
    m = np.geomspace(1e-3, 10, 200_001)
    curve = (1 + m) / m * (2 * m + 1) ** 8 / (1 if weights == "gaussian" else (1 + m) ** 8)
    assert upper["value"] == pytest.approx(np.sqrt(curve.min()), rel=SLOPE)
    assert 0 < upper["error"] < 1e-10
    assert (lower["value"], upper["status"]) == (0, "ok")
    assert found["edges"]["log_lower"] == {"value": None, "error": 0, "status": "infinite"}
    first, second, *more = (each["value"] for each in found["moments"])
    assert (first, second, len(more)) == (
        pytest.approx(1, rel=FOLD),
        pytest.approx(ratio, rel=FOLD),
        2,
    )
    assert found["mass_at_zero"]["value"] == pytest.approx(0.5, abs=FOLD)
    # ½ log(2t − 1) for Gaussian weights, ½ log(2 − 1/t) for orthogonal ones
    for each in found["lyapunov_quantiles"]:
        t = each["fraction"]
        if t <= 0.5:
            assert (each["value"], each["status"]) == (None, "infinite")
        else:
            limit = 2 * t - 1 if weights == "gaussian" else 2 - 1 / t
            assert each["value"] == pytest.approx(np.log(limit) / 2, abs=SOLUTION)


@pytest.mark.slow
def test_predicted_spectrum_with_a_symmetry(command):
    argv = ["spectrum", "--activation", "tanh", "--weight-variance", "2.25", "--theory-only"]
    argv = [*argv, "--symmetry", "O(3)", "--depth", "5", "--json"]
    code, out, _ = command(*argv, "--bias-variance", "0")
    found = strict_json(out)
    assert code == 0
    assert 3 * found["length"] == pytest.approx(1.2359339066, rel=SOLUTION)
    # at the fixed point rotations neither grow nor shrink
    gains = [each["value"] for each in found["goldstone_gains"]]
    assert gains == pytest.approx([1, 1, 1], abs=SOLUTION)
    assert found["lyapunov_quantiles"][-1]["value"] == pytest.approx(np.log(1.0793993015) / 2)
    assert found["moments"][0]["value"] == pytest.approx(1.0793993015**5, rel=1e-9)
    code, out, _ = command(*argv, "--bias-variance", "0.1")
    assert strict_json(out)["goldstone_gains"] is None


def test_spectrum(command, tmp_path):
    argv = [*SPECTRUM, "--depth", "3", "--width", "24", "--replicas", "40", "--json"]
    code, out, err = command(*argv, "--output", "here")
    told = strict_json(out)
    assert (code, err) == (0, "")
    names = {f"spectrum.{end}" for end in ("png", "pdf", "zarr")}
    assert {path.name for path in (tmp_path / "here").iterdir()} == names
    assert_figure("here/spectrum.png")
    sampled = told["sampled"]
    assert sampled["numerical_error"] < 1e-9
    # relu: |Jv|² has mean |v|² exactly, at any width
    first = sampled["moments_over_theory"][0]
    assert abs(first["mean"] - 1) < 5 * first["standard_error"]
    # no fewer zeros than in the layer with the most of them, half a unit's deviation more
    assert 0.5 < sampled["mass_at_zero"]["mean"] < 0.7
    data = sigprop.read_dataset("here/spectrum.zarr")
    assert data["log_singular_value"].shape == (40, 24)
    total = lambda name: float((data[name] * data[f"{name.split('_d')[0]}_width"]).sum())
    assert total("bin_density_mean") == pytest.approx(1 - sampled["mass_at_zero"]["mean"], rel=FOLD)
    assert total("bin_density_theory") == pytest.approx(0.5, abs=SOLUTION)
    assert total("log_bin_density_theory") == pytest.approx(0.5 * 0.99, abs=SINGLE)
    curve, density = data["curve"].values, data["density_theory"].values
    assert np.trapezoid(density, curve) == pytest.approx(0.5 * 0.99, abs=LIMIT)
    assert np.all(data["density_theory_status"] <= 1)
    asked = json.loads(data.attrs["parameters"])
    assert (asked["depth"], asked["width"]) == (3, 24)


PREDICT, COMPARE = ["predict", *POINT], ["compare", *POINT, *SMALL]
DIAGRAM = ["phase-diagram", "--activation", "erf", *AXES]
MISTAKES = {
    "no such command": (["predicts"], "predicts"),
    "unknown option": ([*PREDICT, "--depth", "3"], "--depth"),
    "no such group": ([*PREDICT, "--symmetry", "SO(3)"], "--symmetry"),
    "group of nothing": ([*PREDICT, "--symmetry", "O(0)"], "--symmetry"),
    "no such quaternions": ([*PREDICT, "--symmetry", "Sp(1.5)"], "--symmetry"),
    "half a group": ([*PREDICT, "--symmetry", "U(1"], "--symmetry"),
    "profile that does not vanish": (
        ["predict", *POINT[2:], "--activation", "sigmoid", "--symmetry", "O(2)"],
        "--activation",
    ),
    "no continuous group": (["goldstone", "--symmetry", "O(1)"], "--symmetry: must be continuous"),
    "shallow": (["goldstone", "--depth", "5"], "--depth: must be a whole number of at least 20"),
    "one network": (["goldstone", "--replicas", "1"], "--replicas: must be"),
    "no layers": ([*SPECTRUM, "--depth", "0", "--theory-only"], "--depth: must be a whole"),
    "no networks": ([*SPECTRUM, "--depth", "3", "--replicas", "1"], "--replicas: must be"),
    "no units": ([*SPECTRUM, "--depth", "3", "--width", "0"], "--width: must be"),
    "no depth": (SPECTRUM, "--depth"),
    "start of a spectrum": (
        [*SPECTRUM, "--depth", "3", "--start-length", "-1"],
        "--start-length: must be",
    ),
    "spectrum output": ([*SPECTRUM, "--depth", "3", "--output", "file"], "--output: must be"),
    "images of vectors": ([*COMPARE, "--symmetry", "O(2)", "--inputs", "digits"], "--inputs"),
    "missing option": (["predict", "--activation", "erf"], "--weight-variance"),
    "not a number": (replaced("--bias-variance", "small", PREDICT), "--bias-variance"),
    "negative": (replaced("--weight-variance", "-1.5", PREDICT), "--weight-variance: must be"),
    "nan": (replaced("--bias-variance", "nan", PREDICT), "--bias-variance: must be"),
    "infinite": (replaced("--bias-variance", "inf", PREDICT), "--bias-variance: must be"),
    "activation": (replaced("--activation", "tan", PREDICT), "elu, erf, gelu"),
    "weights": ([*PREDICT, "--weights", "uniform"], "--weights: must be gaussian, orthogonal or"),
    "density": ([*PREDICT, "--weights", "sparse:2"], "--weights: must be sparse:DENSITY with a"),
    "sparse without matrices": (
        [*COMPARE, "--weights", "sparse:0.1", "--weight-matrices", "never"],
        "--weight-matrices: must be auto or always",
    ),
    "start": ([*PREDICT, "--start-length", "0"], "--start-length: must be"),
    "range syntax": (replaced("--weight-variance", "0.5:4", DIAGRAM), "start:stop:count"),
    "range count": (replaced("--weight-variance", "0.5:4:1", DIAGRAM), "2 to 2000"),
    "huge range": (replaced("--weight-variance", "0:4:1000000000", DIAGRAM), "2 to 2000"),
    "negative range": (replaced("--bias-variance", "-1:1:5", DIAGRAM), "--bias-variance: must be"),
    "nan range": (replaced("--bias-variance", "0:nan:5", DIAGRAM), "--bias-variance: must be"),
    "falling range": (replaced("--bias-variance", "1:0:5", DIAGRAM), "increasing"),
    "diagram activation": (replaced("--activation", "tan", DIAGRAM), "--activation: must be one"),
    "width 0": (replaced("--widths", "0,16,32", COMPARE), "--widths: must be whole numbers from 1"),
    "huge width": (replaced("--widths", "16,32,10000001", COMPARE), "from 1 to 10000000"),
    "huge depth": (replaced("--depth", "1000000000000", COMPARE), "--depth: must be a whole"),
    "huge replicas": (replaced("--replicas", "99999999999", COMPARE), "from 2 to 1000000"),
    "negative width": (replaced("--widths", "-1,2,3", COMPARE), "--widths: must be whole numbers"),
    "fraction of a layer": (
        replaced("--depth", "1.5", COMPARE),
        "--depth: must be a whole number; got",
    ),
    "hexadecimal seed": ([*COMPARE, "--seed", "0x10"], "--seed: must be a whole number; got 0x10"),
    "two widths": (replaced("--widths", "16,32", COMPARE), "--widths: must be at least 3"),
    "equal widths": (replaced("--widths", "16,16,32", COMPARE), "--widths: must be at least 3"),
    "depth 0": (replaced("--depth", "0", COMPARE), "--depth: must be a whole number"),
    "one replica": (replaced("--replicas", "1", COMPARE), "--replicas: must be"),
    "too many replicas": (replaced("--replicas", "9,9", COMPARE), "--replicas: must be one"),
    "seed": ([*COMPARE, "--seed", "-1"], "--seed: must be"),
    "correlation": ([*COMPARE, "--input-correlation", "1.5"], "--input-correlation: must be"),
    "length": ([*COMPARE, "--input-length", "nan"], "--input-length: must be"),
    "count": ([*COMPARE, "--inputs", "digits", "--input-count", "0"], "--input-count: must be"),
    "dtype": ([*COMPARE, "--dtype", "float16"], "float32"),
    "no such folder": ([*COMPARE, "--inputs", "nowhere"], "--inputs: must be a folder"),
    "empty folder": ([*COMPARE, "--inputs", "empty"], "--inputs: must be a folder"),
    "truncated file": ([*COMPARE, "--inputs", "damaged"], "--inputs: damaged"),
    "diagram output": ([*DIAGRAM, "--output", "file"], "--output: must be a writable folder"),
    "compare output": ([*COMPARE, "--output", "file/sub"], "--output: must be a writable folder"),
    "demo output": (["demo", "--output", "file"], "--output: must be a writable folder"),
    "not a store": ([*COMPARE, "--output", "mine"], "--output: must not contain another"),
}


@pytest.mark.parametrize("argv, words", MISTAKES.values(), ids=MISTAKES.keys())
def test_bad_input(command, monkeypatch, tmp_path, argv, words):
    def too_late(*args, **kwargs):
        raise AssertionError("the long computing has begun")

    stages = [(theory, "predict"), (theory, "phase_diagram"), (theory, "sector_diagram")]
    for module, name in [*stages, (sigprop, "compare")]:
        monkeypatch.setattr(module, name, too_late)
    for folder in ("empty", "damaged", "mine/comparison.zarr"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "mine/comparison.zarr/notes.txt").touch()
    header = bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 8])
    (tmp_path / "damaged/train-images-idx3-ubyte").write_bytes(header + bytes(100))
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("sigprop: ")
    assert err.count("\n") == 1
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before


def test_no_memory_is_one_line(command, monkeypatch):
    def exhausted(*args, **kwargs):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nat 0x1")

    monkeypatch.setattr(sigprop, "compare", exhausted)
    code, out, err = command(*COMPARE)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "must fit into memory" in err


def test_help_names_every_activation(command):
    code, out, _ = command("predict", "--help")
    words = " ".join(out.replace("│", " ").split())
    listed = words.partition("Nonlinearity φ: ")[2].partition(".")[0]
    assert code == 0
    assert tuple(listed.replace(" or ", ", ").split(", ")) == theory.description.ACTIVATION_NAMES


@pytest.mark.parametrize(
    "text, values",
    [("0:1:3", [0, 0.5, 1]), ("0.1,2,3e1", [0.1, 2, 30]), ("1:2:2", [1, 2])],
)
def test_axis_values(text, values):
    np.testing.assert_allclose(axis_values("--x", text), values, rtol=FOLD)


def test_output_folder_is_checked_and_left_alone(tmp_path):
    wanted = tmp_path / "a" / "b"
    assert _output.output_folder(wanted, "demo", ["figure"], ["store"]) == wanted
    assert not any(tmp_path.iterdir())
    (wanted / "figure.png").mkdir(parents=True)
    with pytest.raises(_output.BadInput, match=r"figure\.png"):
        _output.output_folder(wanted, "demo", ["figure"], ["store"])


def test_killed_figure_leaves_nothing(tmp_path, monkeypatch):
    figure = Figure()

    def killed(path, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        _output.save_figure(figure, tmp_path, "figure")
    assert not any(tmp_path.iterdir())


class TestPhaseDiagram:
    def test_writes_what_it_says(self, command, tmp_path):
        code, out, err = command(*DIAGRAM, "--output", "here", "--json")
        told = strict_json(out)
        assert (code, err) == (0, "")
        assert sum(told["phases"].values()) == 15
        assert told["phases"]["ordered"] > 0
        assert told["phases"]["chaotic"] > 0
        names = {f"phase_diagram.{end}" for end in ("png", "pdf", "zarr")}
        assert {path.name for path in (tmp_path / "here").iterdir()} == names
        assert {Path(path).name for path in told["files"]} == names
        assert_figure("here/phase_diagram.png")
        assert Path("here/phase_diagram.pdf").read_bytes().startswith(b"%PDF")
        data = sigprop.read_dataset("here/phase_diagram.zarr")
        point = data.sel(weight_variance=2.0, bias_variance=0.1)
        assert float(point["length"]) == pytest.approx(1.04625536012143254, rel=SOLUTION)
        assert json.loads(data.attrs["parameters"])["weight_variance"] == "1,1.5,2,2.5,3"
        assert data.attrs["matmul_precision"] == "highest"
        # The closed form of the critical line at σ_b² = .05.
        edge = np.interp(0.05, data["critical_bias_variance"], data["critical_weight_variance"])
        assert edge == pytest.approx(1.37583900734668, rel=LIMIT)

    def test_default_folder(self, command, tmp_path):
        code, out, _ = command(*DIAGRAM)
        (folder,) = (tmp_path / "runs").iterdir()
        assert code == 0
        assert folder.name.startswith("phase-diagram-2")
        assert f"written to runs/{folder.name}" in out


class Reached(Exception):
    """The simulation would begin here."""


class TestCompare:
    def test_writes_what_it_says(self, command, tmp_path):
        code, out, err = command(*COMPARE, "--output", "here", "--json")
        told = strict_json(out)
        assert (code, err) == (0, "")
        assert (told["complete"], told["agrees"]) == (True, True)
        assert told["largest_z"] <= told["threshold"]
        observables = {"length", "correlation", "slope", "gradient_growth"}
        assert set(told["observables"]) == observables
        assert len(told["power"]) == 4
        assert_figure("here/comparison.png")
        data = sigprop.read_dataset("here/comparison.zarr")
        assert data["length_mean"].shape == (3, 4, 2)
        largest = max(float(np.abs(data[f"{name}_z"]).max()) for name in observables)
        assert told["largest_z"] >= largest > 0
        asked = json.loads(data.attrs["parameters"])
        assert asked["run"]["widths"] == [8, 16, 32]
        assert asked["network"]["activation"] == "erf"
        assert asked["simulation_matmul_precision"] == "highest"

    def test_disagreement_is_exit_code_1(self, command, monkeypatch):
        real = sigprop.compare

        def strict(*args, **kwargs):
            return real(*args, **kwargs)._replace(threshold=0.0)

        monkeypatch.setattr(sigprop, "compare", strict)
        code, out, _ = command(*COMPARE, "--output", "here")
        assert code == 1
        assert "DISAGREE" in out
        assert "hidden layers: weight variance" in out

    def test_figure_shows_every_series(self, command):
        command(*COMPARE, "--output", "here", "--json")
        data = sigprop.read_dataset("here/comparison.zarr")
        figure = comparison_figure(data, caption="a caption")
        panel = figure.axes[0]
        series = {bars.get_label(): bars for bars in panel.containers}
        assert set(series) == {"$N=8$", "$N=16$", "$N=32$", r"$N\to\infty$"}
        shown = series["$N=16$"].lines[0].get_ydata()
        np.testing.assert_allclose(shown, data["length_mean"].sel(width=16, input=0), rtol=FOLD)
        (theory_line,) = [line for line in panel.lines if line.get_label() == "theory"]
        np.testing.assert_allclose(
            theory_line.get_ydata(), data["length_theory"].sel(input=0), rtol=FOLD
        )
        z = np.concatenate([line.get_ydata() for line in figure.axes[-1].lines[:4]])
        expected = [
            data[f"{name}_z"].values.ravel()
            for name in ("length", "correlation", "slope", "gradient_growth")
        ]
        np.testing.assert_allclose(z, np.concatenate(expected), rtol=FOLD)

    def test_no_number_is_no_agreement(self, command, monkeypatch):
        real = sigprop.compare

        def overflowing(*args, **kwargs):
            found = real(*args, **kwargs)
            *others, last = found.cells
            return found._replace(cells=(*others, last._replace(z=np.full_like(last.z, np.nan))))

        monkeypatch.setattr(sigprop, "compare", overflowing)
        code, out, _ = command(*COMPARE, "--output", "here", "--json")
        told = strict_json(out)
        assert code == 3
        assert (told["complete"], told["agrees"], told["verdict"]) == (False, False, "not_judged")
        assert told["observables"]["gradient_growth"]["verdict"] == "not_judged"

    @pytest.fixture
    def reached(self, monkeypatch):
        """Put a function in the place of `sigprop.compare` that keeps what it is given."""
        given = []

        def simulation(network, inputs, **options):
            given.append((np.asarray(inputs), options))
            raise Reached

        monkeypatch.setattr(sigprop, "compare", simulation)
        return given

    def test_pairs_of_inputs(self, command, reached):
        argv = [*COMPARE, "--input-length", "2", "--input-correlation", "-0.5"]
        with pytest.raises(Reached):
            command(*argv, "--dtype", "float64", "--seed", "7")
        ((inputs, options),) = reached
        assert inputs.dtype == np.float64
        gram = np.einsum("aik,bik->ab", inputs, inputs) / inputs.shape[1]
        np.testing.assert_allclose(gram, [[2, -1], [-1, 2]], rtol=FOLD)
        assert options["seed"] == 7
        assert options["widths"] == (8, 16, 32)
        assert options["replicas"] == (60, 60, 60)
        assert options["gradients"]

    def test_units_of_several_components(self, command, reached):
        argv = replaced("--activation", "tanh", COMPARE)
        with pytest.raises(Reached):
            command(*argv, "--symmetry", "U(2)", "--input-correlation", "0.5")
        ((inputs, _),) = reached
        assert inputs.shape == (2, 16, 4)
        cross = np.einsum("ui,uj->ij", *inputs) / 16
        np.testing.assert_allclose(cross, 0.5 * np.eye(4), rtol=0, atol=SINGLE)

    @pytest.mark.parametrize("source, width", [("digits", 64), ("images", 6)])
    def test_real_data(self, command, reached, tmp_path, source, width):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 3), dtype=np.uint8)
        header = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 3])
        (tmp_path / "images").mkdir()
        (tmp_path / "images/train-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        with pytest.raises(Reached):
            command(*COMPARE, "--inputs", source, "--input-count", "3", "--no-gradients")
        ((inputs, options),) = reached
        assert (inputs.shape, inputs.dtype) == ((3, width, 1), np.float32)
        assert np.all(np.std(inputs, axis=1) > 0)
        assert not options["gradients"]

    def test_one_layer_has_no_growth_of_gradients(self, command, reached):
        with pytest.raises(Reached):
            command(*replaced("--depth", "1", COMPARE))
        assert not reached[0][1]["gradients"]


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    networks = {
        "ordered": Network(activation="erf", weight_variance=1.2, bias_variance=0.05),
        "critical": Network(activation="erf", weight_variance=1.37583900734668, bias_variance=0.05),
        "chaotic": Network(activation="erf", weight_variance=2.0, bias_variance=0.05),
    }
    code = demo(tmp_path / "demo", False, networks=networks, depth=3, run=RUN, points=2)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    for word in ("ordered", "critical", "chaotic", "1.37584", "0.5172", "infinite", "agree"):
        assert word in out
    names = ("phase_diagram", *networks)
    expected = {f"{name}.{end}" for name in names for end in ("png", "pdf", "zarr")}
    assert {path.name for path in (tmp_path / "demo").iterdir()} == expected
    critical = sigprop.read_dataset(tmp_path / "demo/critical.zarr")
    asked = json.loads(critical.attrs["parameters"])["network"]
    assert asked["weight_variance"] == networks["critical"].weight_variance


@pytest.mark.slow
def test_the_real_demo(command, tmp_path):
    code, out, err = command("demo", "--json")
    told = strict_json(out)["networks"]
    assert (code, err) == (0, "")
    assert {name: found["phase"] for name, found in told.items()} == {n: n for n in told}
    assert all(found["agrees"] for found in told.values())
    assert len(list((tmp_path / "runs/demo").iterdir())) == 12


def test_scripts(tmp_path, capsys):
    script("phase_diagram").main(str(tmp_path / "a"), activation="linear", points=3)
    plane = sigprop.read_dataset(tmp_path / "a/depth_scale.zarr")
    assert plane["length"].shape == (3, 3)
    assert_figure(tmp_path / "a/depth_scale.png")
    script("finite_width").main(
        str(tmp_path / "b"), activation="erf", depth=3, widths=(8, 16, 32), replicas=60
    )
    assert "verdict: agrees" in capsys.readouterr().out
    assert_figure(tmp_path / "b/finite_width.png")


def made_up_diagram():
    """A diagram of 3 × 2 points in which every status and three phases occur."""
    axes = {"weight_variance": [1.0, 2.0, 4.0], "bias_variance": [0.0, 0.1]}
    dims = tuple(axes)
    data = xr.Dataset(coords=axes)
    data["phase"] = (dims, np.array([[0, 0], [1, 2], [2, 4]]))
    names = ("length", "correlation", "slope", "depth_scale_correlation", "depth_scale_length")
    for name in names:
        data[name] = (dims, np.arange(1.0, 7.0).reshape(3, 2) / 6)
        data[f"{name}_status"] = (dims, np.array([[0, 1], [2, 3], [4, 5]]))
    return data


class TestPhaseDiagramFigure:
    def test_values_and_gaps(self):
        data = made_up_diagram()
        figure = phase_diagram_figure(data, points=[(1.0, 0.1, "here")], caption="a caption")
        panel = next(a for a in figure.axes if "length" in a.get_title("left"))
        (mesh,) = [c for c in panel.collections if isinstance(c, QuadMesh)]
        shown = np.ma.filled(mesh.get_array(), np.nan).reshape(2, 3).T
        np.testing.assert_allclose(shown, [[1 / 6, 2 / 6], [np.nan] * 2, [np.nan] * 2], rtol=FOLD)
        corners = [tuple(gap.get_path().vertices[0]) for gap in panel.patches]
        # Cells reach half way to their neighbours.
        assert corners == [(1.5, -0.05), (1.5, 0.05), (3.0, -0.05), (3.0, 0.05)]
        (legend,) = figure.legends
        labels = {text.get_text() for text in legend.get_texts()}
        assert {"ordered", "critical", "chaotic", "infinite", "no such value", "here"} <= labels
        assert "divergent" not in labels
        assert figure.get_supxlabel() == "a caption"

    def test_what_no_network_comes_to_rest_at_is_not_drawn_as_if_it_did(self):
        """The slope of diverging lengths is hatched; χ = 1 is dashed where it repels."""
        data = made_up_diagram()
        data["phase"][1, 0] = Phase.DIVERGENT
        data["slope_status"][1, 0] = Status.OK
        estimate = lambda values: theory.Estimate(
            jnp.array(values), jnp.zeros(4), jnp.zeros(4, jnp.int8)
        )
        kinds = np.array([Stability.UNSTABLE, Stability.UNSTABLE, Stability.STABLE, 0])
        line = theory.phases.CriticalLine(
            jnp.ones(4),
            estimate([1.0, 2.0, 3.0, 4.0]),
            estimate([0.0, 0.02, 0.04, 0.06]),
            estimate([1.5, 1.2, 0.9, 0.8]),
            jnp.asarray(kinds, jnp.int8),
        )
        figure = phase_diagram_figure(data, line)
        panel = next(a for a in figure.axes if "slope" in a.get_title("left"))
        (mesh,) = [c for c in panel.collections if isinstance(c, QuadMesh)]
        shown = np.ma.filled(mesh.get_array(), np.nan).reshape(2, 3).T
        assert np.isnan(shown[1, 0])
        assert np.isfinite(shown[0, 0])
        drawn = {each.get_linestyle(): each.get_ydata() for each in panel.lines}
        assert list(np.isfinite(drawn["--"])) == [True, True, True, False]
        assert list(np.isfinite(drawn["-"])) == [False, False, True, True]
        (legend,) = figure.legends
        labels = {text.get_text() for text in legend.get_texts()}
        assert {"the length diverges", r"$\chi=1$ at a length that repels"} <= labels

    @pytest.mark.parametrize("value", [np.nan, 0.0])
    def test_without_numbers(self, tmp_path, value):
        data = made_up_diagram()
        for name in ("length", "depth_scale_correlation", "depth_scale_length"):
            data[name][:] = value
        _output.save_figure(phase_diagram_figure(data), tmp_path, "figure")
        assert_figure(tmp_path / "figure.png")

    def test_one_axis_is_refused(self):
        data = made_up_diagram().isel(bias_variance=[0])
        with pytest.raises(ValueError, match="two axes of two points"):
            phase_diagram_figure(data)


def test_every_phase_and_status_has_a_look():
    assert set(_phase_diagram_figure._PHASES) == set(Phase)
    assert set(_phase_diagram_figure._MISSING) == set(Status) - {Status.OK, Status.INACCURATE}
