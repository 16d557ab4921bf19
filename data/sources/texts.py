"""Built-in texts, out of files that the installed packages and Python itself ship; the same rows at every reading, none of them twice.

home_intents         home-assistant-intents: what people say to their homes; _es and _de likewise           text, intent
messages_es          the messages of Django, Sphinx and JupyterLab in English and Spanish                   source, target
docstrings_code      Python's standard library: what a function is said to do, and the function             text, code
docstrings_summary   Python's standard library: what is said of something, and the line that sums it up     text, summary

Nothing is imported or run: catalogues, templates and modules are read as files. How many rows there are depends on the versions installed.

What one module says it says again and again in nearly the same words. So a fifth of the modules is held out whole: a test by single
docstrings would mostly ask who knows those of training by heart (LeClair, McMillan 2019, arXiv:1904.02660).
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa

from data.sources import messages
from data.sources.builtin import installed
from data.texts import CONTROL, key

APART = {"site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "__pycache__"}
LINES = 15  # most lines of a function
ASKED = range(20, 401)  # characters of a docstring that asks for a function
TOLD = range(80, 801)  # characters of a docstring that is summed up
SUMMARY = range(15, 101)  # characters of the line that does
HELD = 5  # modules of which one is held out
Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def home_intents(language: str) -> tuple[pa.Table, None]:
    """What people say to their homes, and what they want; up to 120 different texts for each intent."""
    from data.sources.utterances import utterances

    return paired("text", "intent", utterances(language)), None


def messages_es() -> tuple[pa.Table, None]:
    """What Django, Sphinx and JupyterLab say, in English and Spanish."""
    packages = ("django", "jupyterlab_language_pack_es_ES", "sphinx")
    folders = [folder for name in packages for folder in sorted(installed(name, "").rglob("locale/es*")) if folder.name in ("es", "es_ES")]
    counts = Counter[str]()  # of no interest here
    pairs = [pair for folder in folders for path in messages.files(folder) for pair in messages.catalogue(path, counts)[1]]
    return messages.table([pair for pair in pairs if not CONTROL.search("".join(pair))]), None


def docstrings_code() -> tuple[pa.Table, pa.Table]:
    """Docstrings of the standard library's functions, and the functions without them, as Python itself writes them: no comments."""
    return by_module("text", "code", asked)


def docstrings_summary() -> tuple[pa.Table, pa.Table]:
    """Docstrings of the standard library without their first line, and that line."""
    return by_module("text", "summary", told)


def by_module(x: str, y: str, pair: Callable[[Node], tuple[str, str] | None]) -> tuple[pa.Table, pa.Table]:
    """The pairs of most modules, and those of the others, but for what they say in the words of the former."""
    sides: tuple[list[tuple[str, str]], list[tuple[str, str]]] = [], []
    for module, node in documented():
        if found := pair(node):
            sides[zlib.crc32(module.encode()) % HELD == 0].append(found)
    known = {key([text]) for text, _ in sides[0]}
    return paired(x, y, sides[0]), paired(x, y, [row for row in sides[1] if key([row[0]]) not in known])


def paired(x: str, y: str, pairs: Iterable[tuple[str, str]]) -> pa.Table:
    """Two columns of texts, no row twice and none with control characters."""
    kept = [pair for pair in dict.fromkeys(pairs) if not CONTROL.search("".join(pair))]
    return pa.table({name: pa.array([pair[k] for pair in kept], pa.string()) for k, name in enumerate((x, y))})


def documented() -> Iterator[tuple[str, Node]]:
    """Everything in the standard library that has a docstring, with its module's file, in the order of the files' names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if APART & set(module.parts[:-1]):
            continue
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
        yield from ((module.as_posix(), node) for node in within(tree) if ast.get_docstring(node))


def within(node: Node) -> Iterator[Node]:
    """A module, class or function, and those that stand in it."""
    yield node
    for inner in node.body:
        if isinstance(inner, Node):
            yield from within(inner)


def asked(node: Node) -> tuple[str, str] | None:
    """A function's docstring and its code, unless one of them is too long or there is no code."""
    text = ast.get_docstring(node) or ""
    if isinstance(node, ast.Module | ast.ClassDef) or len(text) not in ASKED or not node.body[1:]:
        return None
    node.body = node.body[1:]
    code = ast.unparse(node)
    return (text, code) if code.count("\n") < LINES else None


def told(node: Node) -> tuple[str, str] | None:
    """A docstring's body and its first line, unless one of them is too short or too long."""
    summary, _, rest = (ast.get_docstring(node) or "").partition("\n")
    body = rest.strip()
    if not rest.startswith("\n") or len(summary) not in SUMMARY or len(body) not in TOLD:
        return None
    return body, summary.strip()


LOADERS: Mapping[str, Callable[[], tuple[pa.Table, pa.Table | None]]] = {  # rows, and those that are held out
    "home_intents": partial(home_intents, "en"),
    "home_intents_es": partial(home_intents, "es"),
    "home_intents_de": partial(home_intents, "de"),
    "messages_es": messages_es,
    "docstrings_code": docstrings_code,
    "docstrings_summary": docstrings_summary,
}
