"""What constructors of the package may take: a rule of the code's own, like those of test_tidy.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from test_tidy import functions, parsed, python_files

ARGUMENTS_MAX = 6
CALLABLES_MAX = 2
STORAGE_CALLABLES_MAX = 3
"""In storage/ and disk/ together: what calls back there is hard to follow."""
CALLABLES = re.compile(r"\b(Callable|Clock|Done|Work)\b")
"""What the annotation of a parameter says that takes a function."""
PUBLIC = ("takhin/client/",)
"""Where users make the objects, by keyword, with a default for nearly everything."""


def constructor_faults(path: str, tree: ast.Module) -> Iterator[str]:
    """Constructors that take too much to be understood, or call back into whoever made them."""
    for function in functions(tree):
        if function.name != "__init__":
            continue
        arguments = [*function.args.args[1:], *function.args.kwonlyargs]
        if len(arguments) > ARGUMENTS_MAX and not path.startswith(PUBLIC):
            yield (
                f"{path}:{function.lineno} takes {len(arguments)} arguments, above {ARGUMENTS_MAX}: put what "
                "belongs together into a value (storage/sqlite/shared.py shows how)"
            )
        called = list(callables(function))
        if len(called) > CALLABLES_MAX:
            yield (
                f"{path}:{function.lineno} takes {len(called)} callables, above {CALLABLES_MAX}: return a "
                "value and let the caller act on it, or pass the object that owns the methods"
            )


def callables(tree: ast.AST) -> Iterator[str]:
    """The annotations of all callables that constructors take."""
    for function in functions(tree):
        if function.name == "__init__":
            for argument in [*function.args.args[1:], *function.args.kwonlyargs]:
                if argument.annotation and CALLABLES.search(annotation := ast.unparse(argument.annotation)):
                    yield annotation


def test_storage_is_called_not_calling() -> None:
    """Hardly any constructor in storage/ and disk/ takes a callable."""
    rooms = ("takhin/storage", "takhin/disk")
    found = [(path.name, each) for path in python_files(*rooms) for each in callables(parsed(path)[1])]
    assert len(found) <= STORAGE_CALLABLES_MAX, found


def test_constructors() -> None:
    """Constructors take few arguments, and fewer callables."""
    faults = [fault for path in python_files("takhin") for fault in constructor_faults(*parsed(path))]
    assert not faults, "\n".join(faults)


WIDE = ", ".join(f"a{n}: int" for n in range(ARGUMENTS_MAX + 1))
CALLING = ", ".join(f"on_{n}: Callable[[], None]" for n in range(CALLABLES_MAX + 1))


@pytest.mark.parametrize("arguments", [WIDE, CALLING], ids=["wide", "calling"])
def test_a_wide_constructor_is_seen(arguments: str) -> None:
    """The rule fails on what it forbids."""
    code = f"class A:\n    def __init__(self, {arguments}) -> None: ..."
    assert list(constructor_faults("takhin/x.py", ast.parse(code)))
