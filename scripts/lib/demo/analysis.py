"""What the demo computes: facts about Python source files, file by file.

Pure and deterministic, so that agents can compute it through kills and cut connections, and the demo can compute
it once more in one process and compare.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Finding", "Report", "analyse", "groups", "standard_library"]

LINES_MAX = 70
ARGUMENTS_MAX = 8
BRANCHES_MAX = 12
GROUP_FILES_MAX = 16

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (ast.If, ast.For, ast.While, ast.Try)


@dataclass(frozen=True)
class Finding:
    """Something worth a look: what, where, and how much of it."""

    what: str
    file: str
    line: int
    name: str
    size: int


@dataclass(frozen=True)
class Report:
    """What one file holds."""

    lines: int
    functions: int
    classes: int
    findings: tuple[Finding, ...]


def standard_library() -> Path:
    """Return where the running interpreter keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def groups() -> dict[str, list[str]]:
    """Return the files of the standard library, by package, in groups of a handful of files."""
    root = standard_library()
    packages: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if "site-packages" not in parts and "__pycache__" not in parts:
            package = ".".join(parts[:2]) if len(parts) > 2 else parts[0] if len(parts) > 1 else "modules"
            packages.setdefault(package, []).append("/".join(parts))
    return {
        f"{package}-{number}": files[start : start + GROUP_FILES_MAX]
        for package, files in packages.items()
        for number, start in enumerate(range(0, len(files), GROUP_FILES_MAX), 1)
    }


def analyse(file: str) -> Report:
    """Return the facts about one file of the standard library."""
    source = (standard_library() / file).read_bytes()
    lines = source.count(b"\n")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return Report(lines, 0, 0, (Finding("does not parse", file, 1, file, lines),))
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    findings = tuple(finding for node in functions for finding in _look_at(file, node))
    return Report(lines, len(functions), classes, findings)


def _look_at(file: str, node: Function) -> Iterator[Finding]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > LINES_MAX:
        yield Finding("long function", file, node.lineno, node.name, lines)
    arguments = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
    if arguments > ARGUMENTS_MAX:
        yield Finding("many arguments", file, node.lineno, node.name, arguments)
    branches = sum(isinstance(inner, BRANCHES) for inner in ast.walk(node)) if lines > BRANCHES_MAX else 0
    if branches > BRANCHES_MAX:
        yield Finding("many branches", file, node.lineno, node.name, branches)
