"""The rooms import only downward, and numpy meets torch at one door."""

import ast
import graphlib
from pathlib import Path

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
    ["_importances", "_pickling", "_prepared", "_model", "_validation", "_base"],
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


def test_every_room_has_a_layer():
    assert {room_of(path) for path in FILES} == set(LEVEL)


def test_rooms_import_only_downward():
    upward = []
    for path in FILES:
        for name in imported_modules(path):
            package, *rest = name.split(".")
            target = rest[0] if rest else "__init__"
            if package == "sknw" and LEVEL[target] > LEVEL[room_of(path)]:
                upward.append(f"{path.relative_to(ROOT)} imports {name}")
    assert upward == []


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


def test_the_room_of_the_sums_has_floors():
    upward = []
    for path in (ROOT / "sums").rglob("*.py"):
        floor = FLOORS.index(path.relative_to(ROOT / "sums").parts[0].removesuffix(".py"))
        for name in imported_modules(path):
            target = (name.split(".")[2:] or ["__init__"])[0]
            if name.startswith("sknw.sums") and FLOORS.index(target) > floor:
                upward.append(f"{path.relative_to(ROOT)} imports {name}")
    assert upward == []


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


def nodes_of_other_files(path):
    """Every file's name but that of `path`, with each node of its syntax tree."""
    for other in FILES:
        if other != path:
            for node in ast.walk(ast.parse(other.read_text(encoding="utf-8"))):
                yield str(other.relative_to(ROOT)), node


def test_only_the_door_converts_between_numpy_and_torch():
    converting = {"from_numpy", "numpy", "as_tensor", "tensor"}
    found = [
        f"{name}:{node.lineno} converts with .{node.attr}"
        for name, node in nodes_of_other_files(ROOT / "data" / "arrays.py")
        if isinstance(node, ast.Attribute)
        and node.attr in converting
        # `functional` makes a tensor of a bandwidth given as a plain number; that is no array
        and not (name == "functional.py" and node.attr == "as_tensor")
    ]
    assert found == []


def test_private_names_of_scikit_learn_stay_in_compat():
    found = [
        f"{name}:{node.lineno} imports {part}"
        for name, node in nodes_of_other_files(ROOT / "support" / "compat.py")
        if isinstance(node, ast.ImportFrom) and node.module.startswith("sklearn")
        for part in (*node.module.split("."), *(alias.name for alias in node.names))
        if part.startswith("_")
    ]
    assert found == []


def test_displays_ask_estimators_by_their_public_names():
    for path in (ROOT / "plotting").glob("*.py"):
        # which columns of a table are categories is asked of the table, where estimators ask too
        rooms = ["sknw.plotting", "sknw.support"]
        rooms += ["sknw.data.tables"] if path.name == "_columns.py" else []
        assert all(
            name.startswith(tuple(rooms))
            for name in imported_modules(path)
            if name.split(".")[0] == "sknw"
        ), f"{path} imports more than its own room and thresholds"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                assert is_own or node.attr == "__name__", f"{path}:{node.lineno} {node.attr}"
