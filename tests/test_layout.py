"""The layout, read in the sources: who imports whom, and how long files and functions are."""

import ast
from pathlib import Path

from running import ROOT

SCRIPTS = ("create_dataset", "train", "generate", "export", "app")
PACKAGES = (
    "common",
    "photo_files",
    "shards",
    "dataset",
    "coloring",
    "films",
    "scoring",
    "training",
    "page",
)  # upwards
BASES = ("quantize", "colorizer")  # modules for all; what they import themselves is below
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 365, 50


def sources() -> dict[str, Path]:
    """Return the product's files by their modules' names."""
    paths = list(ROOT.glob("*.py"))
    paths += [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: name the package"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(module: str) -> str:
    """Return the package that a module is in, or the module itself."""
    return module.partition(".")[0]


def imports() -> list[tuple[str, str]]:
    """Return each import of one of ours by another: the two modules."""
    ours = {top(module) for module in sources()}
    pairs = {(name, found) for name, path in sources().items() for found in imported(path)}
    return sorted((name, found) for name, found in pairs if top(found) in ours)


def test_there_is_what_is_looked_at():
    found = {top(module) for module in sources()}
    assert found >= {*SCRIPTS, *PACKAGES, *BASES}
    assert len(imports()) > 60


def test_nothing_imports_a_script():
    assert [pair for pair in imports() if top(pair[1]) in SCRIPTS] == []


def test_packages_import_each_other_downwards_only():
    level = {package: number for number, package in enumerate(PACKAGES)}
    upwards = [
        (name, found)
        for name, found in imports()
        if top(name) in level and top(found) in level and level[top(name)] < level[top(found)]
    ]
    assert upwards == []


def test_quantize_imports_nothing_of_ours_and_colorizer_little():
    found = {module: {top(b) for a, b in imports() if top(a) == module} for module in BASES}
    assert found["quantize"] == set()
    assert found["colorizer"] <= {"common", "quantize"}


def test_no_file_is_too_long():
    lengths = {name: len(path.read_text().splitlines()) for name, path in sources().items()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_no_function_is_too_long():
    long = {}
    for name, path in sources().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    long[f"{name}.{node.name}"] = length
    assert long == {}
