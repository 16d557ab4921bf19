"""The house keeps its shape: one direction of imports, our own packages, docs that agree with the code."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("data", "generators", "evaluators", "flows")
MAY = {"data": set(), "generators": {"data"}, "evaluators": {"data"}, "flows": {"data", "generators", "evaluators"}}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", OURS)
def test_imports_have_one_direction(package):
    for path in (ROOT / package).rglob("*.py"):
        wrong = imports(path) & (set(OURS) - MAY[package] - {package})
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_only_flows_import_prefect():
    for package in ("data", "generators", "evaluators"):
        for path in (ROOT / package).rglob("*.py"):
            assert "prefect" not in imports(path), path


def test_nothing_loads_code_from_files():
    forbidden = re.compile(r"\b(pickle|cloudpickle|joblib|torch\.load|yaml\.(unsafe|full)_load\(|shell=True)|(?<!\.)\b(eval|exec)\(")
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            code = re.sub(r'"""(.|\n)*?"""|#.*', "", path.read_text())
            assert not forbidden.search(code), path


@pytest.mark.parametrize("package", OURS)
def test_the_packages_are_ours(package):
    module = __import__(package)
    assert Path(module.__file__).is_relative_to(ROOT)


def test_every_package_is_named_in_pyproject():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {str(p.parent.relative_to(ROOT)).replace("/", ".") for o in OURS for p in (ROOT / o).rglob("__init__.py")}
    assert listed == found


def test_help_imports_nothing_heavy():
    heavy = {"torch", "prefect", "pandas", "sklearn", "pyarrow", "numpy", "pydantic"}
    code = f"""
import sys
from flows.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted(set(sys.modules) & {heavy}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("readme", ["README.md", "README.es.md"])
def test_readme_lists_every_generator(readme):
    from generators.registry import names

    text = (ROOT / readme).read_text()
    listed = re.findall(r"^\| `([a-z]+/[a-z_-]+)`", text, re.MULTILINE)
    assert listed == names()


@pytest.mark.parametrize("readme", ["README.md", "README.es.md"])
def test_readme_commands_exist(readme):
    from flows.cli import parser

    text = (ROOT / readme).read_text()
    known = next(a.choices for a in parser()._actions if a.choices)
    used = set(re.findall(r"^alfar ([a-z]+)", text, re.MULTILINE))
    assert used
    assert used <= set(known)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= targets
