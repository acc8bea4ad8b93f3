"""Imports point down only, inside functions as well; a torch-free core stays torch-free."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ganc"

# Each row may import from rows below it and from its own module or package.
LAYERS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"diagnosis", "showcase"},
    {"report", "scoring", "pruning", "distillation", "evaluation", "exporters", "sampling"},
    {"runtimes"},
    {"content", "data", "perceptual", "scores", "weights"},
    {"checkpoints", "models"},
    {"groups"},
    {"adversarial"},
    {"ops"},
    {"user_cache"},
    {
        "collectives",
        "devices",
        "extras",
        "families",
        "files",
        "launch",
        "metadata",
        "optimizer_state",
        "options",
        "safetensors_file",
        "seeds",
        "standard_streams",
        "stop",
        "values",
    },
    {"strict_json"},
    {"errors", "progress", "terminal", "version"},
]
# Within these rows modules know each other; everywhere else siblings are strangers.
OPEN_ROWS = ({"checkpoints", "models"}, {"content", "data", "perceptual", "scores", "weights"})


def unit(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """Return every ganc module that a file imports, at any depth, type checking left out."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "ganc":
                found |= {f"ganc.{alias.name}" for alias in node.names}
            elif node.module and node.module.startswith("ganc."):
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("ganc.")}
    return found


def row(name: str) -> int:
    rows = [i for i, layer in enumerate(LAYERS) if name in layer]
    assert rows, f"ganc.{name} has no place in LAYERS"
    return rows[0]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(path):
        other = unit(module)
        if other == own:
            if own == "commands":
                is_helper = module.rpartition(".")[2].startswith("_")
                assert module == "ganc.commands" or is_helper, module
            continue
        is_sibling = row(own) == row(other) and LAYERS[row(own)] in OPEN_ROWS
        assert row(other) > row(own) or is_sibling, f"{own} may not import {module}"


def test_no_import_circle() -> None:
    graph = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): imported(path)
        for path in FILES
    }
    TopologicalSorter(graph).prepare()  # names the circle where there is one


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, for its types as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ganc"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py").exists()
                found.add(name if is_module else str(node.module))
    return found - {"ganc"}


def test_library_does_not_print_or_prompt() -> None:
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] in ("commands", "cli.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(
                node.func, ast.Name) else None  # fmt: skip
            assert called not in ("print", "input", "exit"), path
        assert not imports_of(path) & {"typer", "rich"}, path


def imports_of(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        name.split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom)
                     else [alias.name for alias in node.names])
    }  # fmt: skip


# A family's file is a namespace: the parts of its networks are called what its paper and public
# code call them, and whoever needs two families says `stylegan3.Generator`.
FAMILIES = PACKAGE / "models"
# There a name such as `Network` is an option of the command line, and only ever `shared.Network`.
OPTIONS = PACKAGE / "commands" / "_shared.py"


def named(path: Path) -> list[tuple[str, bool]]:
    """Return the classes of a file, and what it calls other types; and whether it is a class."""
    tree = ast.parse(path.read_text())
    classes = [(node.name, True) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    aliases = [
        (name.id, False)
        for node in tree.body
        if isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith("TypeVar(")
        for name in node.targets
        if isinstance(name, ast.Name)
    ]
    return classes + aliases


def test_a_class_has_its_name_for_itself() -> None:
    places: dict[str, list[Path]] = {}
    classes = set()
    for path in FILES:
        for name, is_class in named(path) if path != OPTIONS else ():
            places.setdefault(name, []).append(path)
            classes |= {name} if is_class else set()
    doubled = {
        name: [str(path) for path in places[name]]
        for name in classes
        if len(places[name]) > 1 and any(FAMILIES not in path.parents for path in places[name])
    }
    assert not doubled
