"""The corpus that is on every machine: the English documentation inside Python itself."""

import ast
import gc
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from data.files import DataError

BUILDER_VERSION = 1  # raise it when the text changes: it is part of the cache key
SKIPPED = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload",
}  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def clean(text: str) -> str:
    """Indentation, control characters, trailing spaces and long gaps taken out."""
    text = CONTROL.sub("", inspect.cleandoc(text))
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip()


def python_docs() -> Iterator[str]:
    """The English documentation inside every Python, about 2.6 MB.

    One document per language topic, then one per module of the standard library, whose files are
    parsed and never imported. The same text wherever the Python version is the same.
    """
    yield from _documents()


@cache  # parsing takes a second or two, and a tokenizer is trained on it first
def _documents() -> tuple[str, ...]:
    return tuple(_read_documents())


def _read_documents() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            f"data.source=python_docs: {sys.prefix} lacks pydoc_data; install the whole standard "
            "library of Python, or set data.source=text data.path=FILE"
        ) from None
    for name in sorted(topics):
        yield clean(topics[name])
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()  # the same docstring stands at many wrappers; it is kept once
    for file in _modules(root):
        if document := _module_document(root, file, seen):
            yield document


def docstrings(packages: Collection[str]) -> Iterator[tuple[str, str]]:
    """Each docstring of these packages of the standard library, with the package it is from.

    They are without the names and arguments that `python_docs` puts above them; a text that comes
    again, in any of the packages, is given once.

    Args:
        packages: names of top-level packages and modules; one that this Python lacks gives none.
    """
    root, seen = Path(sysconfig.get_paths()["stdlib"]), set[str]()
    for package in sorted(packages):
        for file in [*_modules(root / package), *root.glob(f"{package}.py")]:
            for _, text in _docstrings_of(root, file):
                if text and text not in seen:
                    seen.add(text)
                    yield text, package


def documented_functions() -> Iterator[tuple[str, str, str, str]]:
    """(module, name in it, arguments, docstring) of each function and method of the standard
    library that has one.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in _modules(root):
        documented = _docstrings_of(root, file)
        module = next(documented, ("", ""))[0].removeprefix("module ")
        for title, text in documented:
            name, opened, arguments = title.partition("(")
            if opened and text:
                yield module, name.removeprefix(f"{module}."), arguments.removesuffix(")"), text


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        # _sysconfigdata_* is written when this Python is built, so it differs by machine.
        chosen = sorted(n for n in names if n.endswith(".py") and not n.startswith("_sysconfig"))
        yield from (Path(folder) / name for name in chosen)


def _module_document(root: Path, file: Path, seen: set[str]) -> str:
    """The docstrings of one file, each under its name and arguments; "" when there are none."""
    sections = []
    for title, text in _docstrings_of(root, file):
        if text and text not in seen:
            seen.add(text)
            sections.append(f"{title}\n\n{text}")
    return "\n\n\n".join(sections)


def _docstrings_of(root: Path, file: Path) -> Iterator[tuple[str, str]]:
    """(title, cleaned docstring) of a file; nothing of one that is no Python of this version."""
    parts = file.relative_to(root).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    # A syntax tree is many small objects without cycles: the collector would take half the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # templates and files for other versions
        return
    finally:
        if collecting:
            gc.enable()
    yield from _docstrings(tree, name)


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(title, cleaned docstring) of a module and of what it defines, in the order of the file."""
    yield f"module {module}", clean(ast.get_docstring(tree, clean=False) or "")
    waiting: list[tuple[ast.stmt, str]] = [(node, module) for node in reversed(tree.body)]
    while waiting:
        node, scope = waiting.pop()
        if isinstance(node, Definition):
            scope = f"{scope}.{node.name}"
            if text := ast.get_docstring(node, clean=False):
                if isinstance(node, ast.ClassDef):
                    yield f"class {scope}", clean(text)
                else:
                    yield f"{scope}({ast.unparse(node.args)})", clean(text)
        for field in ("finalbody", "orelse", "handlers", "body"):
            waiting.extend((child, scope) for child in reversed(getattr(node, field, ())))
