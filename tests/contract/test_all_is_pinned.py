"""``__all__`` of every module says, sorted, exactly what the module makes public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ctp_runbook"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Packages, and the door that notebooks name.
PASSES_ON = ("__init__.py", "phases.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_all_says_what_is_public(path: Path) -> None:
    """The module's ``__all__`` is there, sorted, and leaves nothing public out."""
    found = problems(path.read_text(), is_package=path.name in PASSES_ON)
    assert not found, "\n".join(found)


BROKEN = {
    "no __all__": ("def act(): ...", "no literal __all__"),
    "computed": ("__all__ = sorted(globals())\ndef act(): ...", "no literal __all__"),
    "missing function": ("__all__ = []\ndef act(): ...", "public but not in __all__: act"),
    "missing class": ("__all__ = []\nclass Act: ...", "public but not in __all__: Act"),
    "missing constant": ("__all__ = []\nLIMIT: int = 3", "public but not in __all__: LIMIT"),
    "under a condition": ("__all__ = []\nif x:\n    def act(): ...", "not in __all__: act"),
    "nothing behind it": ("__all__ = ['act']", "in __all__ but not defined here: act"),
    "an import of another's": ("from a import act\n__all__ = ['act']", "not defined here: act"),
    "unsorted": ("__all__ = ['b', 'a']\na = b = 1", "__all__ is not sorted"),
    "classes first": ("__all__ = ['a', 'B']\na = 1\nclass B: ...", "__all__ is not sorted"),
    "twice": ("__all__ = ['a', 'a']\na = 1", "__all__ names a twice"),
}


@pytest.mark.parametrize(("source", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_module_is_found(source: str, said: str) -> None:
    """Each way for ``__all__`` to be wrong is told by name."""
    assert any(said in problem for problem in problems(source))


SOUND = {
    "private": "__all__ = []\n_x = 1\ndef _act(): ...",
    "house order": "__all__ = ['A2', 'A10', 'Act', 'act']\nA2 = A10 = act = 1\nclass Act: ...",
    "unpacked": "__all__ = ['a', 'b']\na, b = 1, 2",
}


@pytest.mark.parametrize("source", SOUND.values(), ids=SOUND)
def test_a_sound_module_passes(source: str) -> None:
    """Private names stay out; constants, classes, then the rest, numbers by value."""
    assert problems(source) == []


def test_a_package_may_pass_names_on() -> None:
    """In an ``__init__`` an import is how a name becomes public."""
    assert problems("from a import act\n__all__ = ['act']", is_package=True) == []


def problems(source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with ``__all__`` of a module, one sentence each; empty where it is right."""
    body = ast.parse(source).body
    named = declared(body)
    if named is None:
        return ["no literal __all__: a list of strings, at the top of the module"]
    public = {name for name in defined(body) if not name.startswith("_")}
    offered = set(defined(body)) | (set(passed_on(body)) if is_package else set())
    found = [f"public but not in __all__: {name}" for name in sorted(public - set(named))]
    found += [f"in __all__ but not defined here: {name}" for name in sorted(set(named) - offered)]
    found += [f"__all__ names {name} twice" for name in sorted(set(named)) if named.count(name) > 1]
    if named != sorted(named, key=_house_order):
        found.append(f"__all__ is not sorted; expected {sorted(named, key=_house_order)}")
    return found


def declared(body: list[ast.stmt]) -> list[str] | None:
    """The names ``__all__`` lists; None where it is absent or anything but literal strings."""
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name("__all__")], value=ast.List(elements)):
                pass
            case ast.AnnAssign(target=ast.Name("__all__"), value=ast.List(elements)):
                pass
            case _:
                continue
        names = [element.value for element in elements if isinstance(element, ast.Constant)]
        return [str(name) for name in names] if len(names) == len(elements) else None
    return None


def defined(body: list[ast.stmt]) -> Iterator[str]:
    """Names bound at module level, under conditions too, but by import."""
    for node in body:
        match node:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                yield name
            case ast.Assign(targets):
                yield from (name for target in targets for name in _bound(target))
            case ast.AnnAssign(target):
                yield from _bound(target)
            case ast.If() | ast.Try() | ast.With():
                inner = ast.iter_child_nodes(node)
                yield from defined([sub for sub in inner if isinstance(sub, ast.stmt)])


def passed_on(body: list[ast.stmt]) -> Iterator[str]:
    """Names bound by the imports of a module."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If):  # for types, and late in truth
            yield from passed_on(node.body)


def _bound(target: ast.expr) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _house_order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """As ruff's RUF022 sorts: CONSTANTS, Classes, the rest; digits count as numbers."""
    group = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return group, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
