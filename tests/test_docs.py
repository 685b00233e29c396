"""The documentation says what is so: its Python runs, its links and commands exist."""

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import sigprop
import sigprop.experiments
import theory
from sigprop.commands._cli import app
from sigprop.commands._predict_command import prediction_as_json
from sigprop.experiments._flax import Network
from tests.documented import PAGE, documented
from tests.tolerances import FOLD

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """The fenced blocks in a language, and the line where each begins."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start(2)), found[2]


def name(page):
    return page.relative_to(ROOT).as_posix()


# Pages whose examples need more than a few seconds.
SLOW = {
    "docs/comparison.md",
    "docs/continuity.md",
    "docs/description.md",
    "docs/jacobian.md",
    "docs/precision.md",
    "docs/probe.md",
    "docs/quickstart.md",
    "docs/recurrent.md",
    "docs/sweeps.md",
    "docs/symmetry.md",
    "docs/training.md",
    "docs/wide.md",
}
RUNNING = [
    pytest.param(page, marks=[pytest.mark.slow] * (name(page) in SLOW), id=name(page))
    for page in PAGES
    if any(blocks(page, "python"))
]


@pytest.mark.parametrize("page", RUNNING)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    for line, block in blocks(page, "python"):
        # Empty lines above, so that a traceback shows the line of the page.
        exec(compile("\n" * line + block, str(page), "exec"), scope)


def test_quickstart_of_the_readme_is_short():
    (block,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in block[1].splitlines() if line]) <= 12


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_figures_exist(page):
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    for target in targets:
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else page.parent / path
        assert linked.is_file(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_fixed_points_are_escaped(page):
    """MkDocs takes the text between two bare asterisks, as of q* and c*, as emphasis."""
    prose = re.sub(r"`[^`\n]*`|^    .*$", "", BLOCK.sub("", page.read_text("utf-8")), flags=re.M)
    assert not re.findall(r"\b[qc]\*(?!\*)", prose)


COMMANDS = [
    (name(page), line)
    for page in PAGES
    for _, block in blocks(page, "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if re.search(r"(^|run )sigprop ", line)
]


@pytest.mark.parametrize("page, line", COMMANDS)
def test_commands_exist_with_these_options(page, line):
    command = line[line.index("sigprop ") :]
    function, *_ = app.parse_args(command.split()[1:], exit_on_error=False, print_error=False)
    assert callable(function)
    assert function.__module__.startswith("sigprop.")


def test_readme_shows_every_kind_of_command():
    shown = {
        line.partition("sigprop ")[2].split()[0] for page, line in COMMANDS if page == "README.md"
    }
    assert shown == {
        "predict",
        "phase-diagram",
        "goldstone",
        "compare",
        "spectrum",
        "plan",
        "sweep",
        "probe",
        "demo",
    }


OF_THE_README = [line[line.index("sigprop ") :] for page, line in COMMANDS if page == "README.md"]


@pytest.mark.slow
@pytest.mark.parametrize("command", OF_THE_README)
def test_commands_of_the_readme_run_as_they_are_written(command, tmp_path):
    for folder in ("docs", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    for bad in ("Traceback", "None", "nan"):
        assert bad not in done.stdout + done.stderr
    if "--json" in command:
        assert json.loads(done.stdout)


def test_json_contract_of_the_quickstart():
    (_, shown), *_ = blocks(ROOT / "docs" / "quickstart.md", "json")
    network = theory.layer(theory.activation("tanh"), 1.5, 0.05)
    found = prediction_as_json(theory.predict(network))
    for key, expected in json.loads(shown).items():
        if key == "phase":
            assert found[key] == expected
            continue
        assert found[key]["status"] == expected["status"]
        assert found[key]["value"] == pytest.approx(expected["value"], rel=FOLD)
        assert found[key]["error"] <= 10 * expected["error"]


def test_every_status_is_explained():
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for status in theory.Status:
        assert f"| `{status.name.lower()}` |" in text


ROOMS = {
    value.__name__
    for package in (theory, sigprop)
    for value in (getattr(package, name) for name in package.__all__)
    if inspect.ismodule(value)
}
# What has no docstring of its own stands in the text.
SPOKEN = {"theory.Part", "theory.OBSERVABLES"}


def test_api_page_covers_the_names_at_the_top():
    tops = {f"{p.__name__}.{n}" for p in (theory, sigprop) for n in p.__all__}
    tops |= {f"sigprop.experiments.{n}" for n in sigprop.experiments.__all__ if n[0].islower()}
    tops -= ROOMS | SPOKEN
    assert tops <= documented().keys()
    assert all(f"`{n.rpartition('.')[2]}`" in PAGE.read_text(encoding="utf-8") for n in SPOKEN)


def test_api_page_gives_the_shortest_path():
    """A name that stands at the top is not documented in its room."""
    for name in documented():
        package, _, rest = name.partition(".")
        room, _, last = rest.partition(".")
        if last:
            assert last not in importlib.import_module(package).__all__, name
            assert last in importlib.import_module(f"{package}.{room}").__all__, name


def test_results_of_documented_functions_are_documented():
    found = set(documented().values()) | {Network}  # that of Flax
    for name, function in documented().items():
        if inspect.isfunction(function):
            kind = typing.get_type_hints(function).get("return")
            if inspect.isclass(kind) and kind.__module__.startswith(("theory.", "sigprop.")):
                assert kind in found, (name, kind)


FUNCTIONS = {name: fn for name, fn in documented().items() if inspect.isfunction(fn)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented_functions_name_their_parameters(name):
    """Ruff takes modules with a leading underscore as private, and misses what is missing there."""
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    summary, _, rest = text.partition("\n")
    assert re.search(r"\w.*[.:]$", summary)
    assert not rest.partition("\n")[0]
    section = re.search(r"^Parameters\n-{10}\n(.*?)(?=^\w[\w ]*\n-{3}|\Z)", rest, re.M | re.S)
    listed = re.findall(r"^\**(\w+(?:, \**\w+)*)$", section[1] if section else "", re.M)
    found = {word.strip(" *") for line in listed for word in line.split(",")}
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    missing = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - found
    assert not missing


@pytest.mark.slow
def test_measured_table_is_that_of_the_script():
    """Two lengths of the table in docs/precision.md, measured again."""
    path = ROOT / "docs" / "measure_precision.py"
    scope = {"__name__": "measure"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
    rows = scope["main"](lengths=(1.0, 30.0), separations=(1e-11, 0.3))
    assert len(rows) == 6
    for name, q, off, told, honest in rows:
        assert honest, (name, q)
        assert off <= told <= 1e-10, (name, q)
