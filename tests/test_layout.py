"""How the parts may hang together: arrows of import, public names, one test command."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from theory import Part

ROOT = Path(__file__).parent.parent
# What a folder may not import; the first that fits counts.
FORBIDDEN = {
    "theory": {"sigprop", "flax", "optax", "matplotlib", "tests"},
    "sigprop/experiments": {"tests"},
    "sigprop": {"flax", "optax", "tests"},
    "scripts": {"tests"},
    "tests": set(),
}
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("theory", "sigprop", "scripts", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports(tree):
    """Everything imported in a module, at its top or inside a function, as (package, name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (((node.module or "").partition(".")[0], alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES)
def test_arrows_of_import_point_one_way(path):
    forbidden = next(names for folder, names in FORBIDDEN.items() if path.startswith(f"{folder}/"))
    found = list(imports(MODULES[path]))
    assert {package for package, _ in found} & forbidden == set()
    # A star would hide from the type checker that an arm of a match is missing.
    assert "*" not in {name for _, name in found}


# The rooms of each package, each of which may use those before it.
ROOMS = {
    "theory": (
        "numerics",
        "description",
        "gaussian",
        "mean_field",
        "phases",
        "spectrum",
        "finite_width",
        "gradients",
    ),
    "sigprop": (
        "storage",
        "networks",
        "jacobians",
        "alignment",
        "probes",
        "comparison",
        "sweeps",
        "figures",
        "experiments",
        "commands",
    ),
}


def sources(path):
    """The modules and names of this project that a module imports."""
    for node in ast.walk(MODULES[path]):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.count("/") == 2 and p.split("/")[0] in ROOMS]
)
def test_rooms_use_those_before_them(path):
    """By their public names; only commands, which are last, use those of the whole package."""
    package, room, _ = path.split("/")
    rooms = ROOMS[package]
    for source in sources(path):
        top, _, rest = source.partition(".")
        other, _, name = rest.partition(".")
        if top != package or other == room or (room == "commands" and other not in rooms):
            continue
        assert other in rooms[: rooms.index(room)], (path, source)
        assert not name.startswith("_"), (path, source)


def test_packages_hold_nothing_but_rooms():
    for package, rooms in ROOMS.items():
        inside = {p.split("/")[1] for p in MODULES if p.startswith(f"{package}/")}
        assert inside - {"__init__.py", "__main__.py"} == set(rooms)


def test_tests_stand_in_the_rooms_that_they_test():
    for package, rooms in ROOMS.items():
        folders = {p.split("/")[2] for p in MODULES if re.match(rf"tests/{package}/.*/", p)}
        assert folders == set(rooms) - {"numerics", "figures"}


def test_nothing_but_theory_uses_its_private_modules():
    for path in (p for p in MODULES if not p.startswith(("theory/", "tests/"))):
        assert not [s for s in sources(path) if s.startswith("theory.") and "._" in s], path


LAPACK = "sigprop/networks/_lapack.py"


def test_factorisations_are_never_batched():
    """Other than by `_lapack`; see there."""
    for path in (p for p in MODULES if p.startswith("sigprop/") and p != LAPACK):
        assert not re.search(
            r"(jnp|lax|jax\.scipy)\.linalg\.(?!norm)", ast.unparse(MODULES[path])
        ), path


CARRIERS = {
    *(f"theory/mean_field/_{name}.py" for name in ("propagation", "radial_field", "normalised")),
    "theory/mean_field/_moments.py",  # says what it is
    "theory/mean_field/_two_times.py",  # brings tangents of different times to one scale
    "sigprop/networks/_digits.py",  # looks whether it is finite
    "sigprop/networks/_sample.py",  # blanks it where digits are lost
    "theory/gradients/_coherence.py",  # carries a backward signal of a scale of its own
}


def test_a_tangent_is_read_with_its_scale():
    """By `whole_tangent`, outside of what carries tangents on; writing and shapes are free."""
    for path, tree in MODULES.items():
        if path.startswith("tests/") or path in CARRIERS:
            continue
        free = [n.body for n in ast.walk(tree) if isinstance(n, ast.Lambda)]
        free += [
            n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "shape"
        ]
        read = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "tangent"]
        assert not [n.lineno for n in read if n not in free], path


@pytest.mark.parametrize("name", ["theory", "sigprop"])
def test_public_surface_is_what_it_says(name):
    package = importlib.import_module(name)
    inner = {
        key
        for key, value in vars(package).items()
        if isinstance(value, ModuleType) and value.__name__ == f"{name}.{key}"
    }
    public = {key for key in vars(package) if not key.startswith("_")} - inner
    # put there by the hook that checks shapes, and by what imports names when they are used
    public -= {"jaxtyping", "lazy_loader"}
    assert list(package.__all__) == sorted(package.__all__)
    assert public <= set(package.__all__)
    for key in package.__all__:
        getattr(package, key)


FOLD = "theory/description/_interpret.py"
SLOW_KINDS = [pytest.param(k, marks=pytest.mark.slow) for k in ("Affine", "Chain", "Repeat")]


@pytest.mark.parametrize("kind", ["Residual", *SLOW_KINDS])
def test_the_type_checker_names_a_kind_of_node_that_the_fold_leaves_out(kind, tmp_path):
    """A new kind of node rests on this: every reading that lacks it is named."""
    source = (ROOT / FOLD).read_text(encoding="utf-8")
    fold = source.index("def interpret(")
    arm = re.compile(rf"        case {kind}\(.*?(?=        case )", re.DOTALL)
    damaged, count = arm.subn("", source[fold:], count=1)
    assert count == 1
    shutil.copytree(ROOT / "theory", tmp_path / "theory", ignore=lambda *_: {"__pycache__"})
    changed = tmp_path / FOLD
    changed.write_text(source[:fold] + damaged, encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(changed)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f'Type "{kind}" is not assignable to type "Never"' in found.stdout
    assert "1 error," in found.stdout


def test_docs_name_every_kind_of_node():
    kinds = [kind.__name__ for kind in get_args(Part)]
    table = (ROOT / "docs" / "description.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([A-Z]\w+)\(", table, re.MULTILINE) == kinds
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert f"`{' | '.join(kinds)}`" in reference
    assert all(f"::: theory.{kind}\n" in reference for kind in kinds)


def test_readme_gives_the_test_command():
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("command", ["ruff format --check", "ruff check", "pyright"])
def test_format_lint_and_types(command):
    """As `scripts/check` does."""
    run = [sys.executable, "-m", *command.split()]
    run += ["--pythonpath", sys.executable] if command == "pyright" else []
    found = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:]
