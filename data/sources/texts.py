"""Built-in texts, out of files that the installed packages and Python itself ship; the same rows at every reading, none of them twice.

home_intents         home-assistant-intents: what people say to their homes; _es and _de likewise           text, intent
messages_es          the messages of Django, Sphinx and JupyterLab in English and Spanish                   source, target
docstrings_code      Python's standard library: what a function is said to do, and the function             text, code
docstrings_summary   Python's standard library: what is said of something, and the line that sums it up     text, summary

Nothing is imported or run: catalogues, templates and modules are read as files. How many rows there are depends on the versions installed.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa

from data.sources import messages
from data.sources.builtin import installed
from data.texts import CONTROL

APART = {"site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "__pycache__"}
LINES = 15  # most lines of a function
ASKED = range(20, 401)  # characters of a docstring that asks for a function
TOLD = range(80, 801)  # characters of a docstring that is summed up
SUMMARY = range(15, 101)  # characters of the line that does
Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def home_intents(language: str) -> pa.Table:
    """What people say to their homes, and what they want; up to 120 different texts for each intent."""
    from data.sources.utterances import utterances

    return paired("text", "intent", utterances(language))


def messages_es() -> pa.Table:
    """What Django, Sphinx and JupyterLab say, in English and Spanish."""
    packages = ("django", "jupyterlab_language_pack_es_ES", "sphinx")
    folders = [folder for name in packages for folder in sorted(installed(name, "").rglob("locale/es*")) if folder.name in ("es", "es_ES")]
    counts = Counter[str]()  # of no interest here
    pairs = [pair for folder in folders for path in messages.files(folder) for pair in messages.catalogue(path, counts)[1]]
    return messages.table([pair for pair in pairs if not CONTROL.search("".join(pair))])


def docstrings_code() -> pa.Table:
    """Docstrings of the standard library's functions, and the functions without them, as Python itself writes them: no comments."""
    return paired("text", "code", (pair for node in documented() if (pair := asked(node))))


def docstrings_summary() -> pa.Table:
    """Docstrings of the standard library without their first line, and that line."""
    return paired("text", "summary", (pair for node in documented() if (pair := told(node))))


def paired(x: str, y: str, pairs: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> pa.Table:
    """Two columns of texts, no row twice and none with control characters."""
    kept = [pair for pair in dict.fromkeys(pairs) if not CONTROL.search("".join(pair))]
    return pa.table({name: pa.array([pair[k] for pair in kept], pa.string()) for k, name in enumerate((x, y))})


def documented() -> Iterator[Node]:
    """Everything in the standard library that has a docstring, in the order of the files' names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if APART & set(path.relative_to(root).parts[:-1]):
            continue
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
        yield from (node for node in within(tree) if ast.get_docstring(node))


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


LOADERS: Mapping[str, Callable[[], pa.Table]] = {
    "home_intents": partial(home_intents, "en"),
    "home_intents_es": partial(home_intents, "es"),
    "home_intents_de": partial(home_intents, "de"),
    "messages_es": messages_es,
    "docstrings_code": docstrings_code,
    "docstrings_summary": docstrings_summary,
}
