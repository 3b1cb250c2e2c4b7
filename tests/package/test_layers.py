"""The rooms import only downward, and numpy meets torch at one door."""

import ast
import graphlib
from pathlib import Path

import pytest

import sknw

ROOT = Path(sknw.__file__).parent

# From the lowest room to the highest; a room may import its own files and lower rooms.
LAYERS = [
    ["support", "_version"],
    ["data"],
    ["kernels"],
    ["sums"],
    ["smoothing"],
    ["metrics"],
    ["fitting"],
    ["bandwidth", "training"],
    ["_prepared", "_base"],
    ["nadaraya_watson", "parametric", "functional", "datasets"],
    ["plotting"],
    ["__init__"],
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_downward(path):
    room = room_of(path)
    assert room in LEVEL, f"{room} is in no layer; add it to LAYERS"
    for name in imported_modules(path):
        package, *rest = name.split(".")
        if package != "sknw":
            continue
        target = rest[0] if rest else "__init__"
        assert LEVEL[target] <= LEVEL[room], f"{path} imports {name}, which is above it"


FLOORS = [
    "problem",
    "monomials",
    "geometry",
    "evaluators",
    "algorithms",
    "tails",
    "engine",
    "autograd",
]
FLOORS += ["moments", "__init__"]


@pytest.mark.parametrize("path", sorted((ROOT / "sums").rglob("*.py")), ids=lambda path: path.name)
def test_the_room_of_the_sums_has_floors(path):
    floor = FLOORS.index(path.relative_to(ROOT / "sums").parts[0].removesuffix(".py"))
    for name in imported_modules(path):
        if name.startswith("sknw.sums"):
            target = (name.split(".")[2:] or ["__init__"])[0]
            assert FLOORS.index(target) <= floor, f"{path} imports {name}, which is above it"


def test_no_modules_import_each_other_in_a_circle():
    """Imports within functions count, too: they would only hide the circle."""
    modules = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES}
    imports = {}
    for path in FILES:
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        imports[module] = {name for name in imported_modules(path) if name in modules} - {module}
    graphlib.TopologicalSorter(imports).prepare()


def test_bandwidth_and_training_do_not_know_each_other():
    for room, other in (("bandwidth", "training"), ("training", "bandwidth")):
        for path in (ROOT / room).glob("*.py"):
            assert not any(name.startswith(f"sknw.{other}") for name in imported_modules(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_door_converts_between_numpy_and_torch(path):
    if path == ROOT / "data" / "arrays.py":
        return
    # `functional` makes a tensor of a bandwidth given as a plain number; that is no array
    allowed = {"as_tensor"} if path.name == "functional.py" else set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            converts = node.attr in {"from_numpy", "numpy", "as_tensor", "tensor"} - allowed
            assert not converts, f"{path}:{node.lineno} converts with .{node.attr}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_scikit_learn_stay_in_compat(path):
    if path == ROOT / "support" / "compat.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("sklearn"):
            private = [part for part in node.module.split(".") if part.startswith("_")]
            private += [alias.name for alias in node.names if alias.name.startswith("_")]
            assert not private, f"{path}:{node.lineno} imports {private}"


def test_displays_ask_estimators_by_their_public_names():
    for path in (ROOT / "plotting").glob("*.py"):
        # which columns of a table are categories is asked of the table, where estimators ask too
        rooms = ("sknw.plotting", *(["sknw.data.tables"] if path.name == "_columns.py" else []))
        assert all(
            name.startswith(rooms)
            for name in imported_modules(path)
            if name.split(".")[0] == "sknw"
        ), f"{path} imports more than its own room"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                assert is_own or node.attr == "__name__", f"{path}:{node.lineno} {node.attr}"
