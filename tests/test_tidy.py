"""The code's own rules, checked with the standard library's ast: layers, libraries, file access, size, names.

If a rule is in the way, change it here, in the same commit, with its reason.
"""

import ast
import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400

VOCABULARY = tuple(
    f"takhin.{name}"
    for name in (
        *("access", "access.*", "settings.*"),
        *(
            *("model", "descriptions", "members", "group_views", "native", "packed"),
            *("errors", "clock", "sizes", "limits", "topic_configs", "kinds"),
            *("settings", "quotas", "settings.*"),
        ),
        *("sentences", "partitioner", "json_bytes", "turns", "units", "meters", "listening"),
    )
)
GRPC = ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google")
SQLITE_OF_PYTHON = ("sqlite3", "sqlite_utils")


@dataclass(frozen=True)
class Layer:
    """What the modules of one layer may import besides the standard library.

    `takhin.wire.*` stands for the package and all in it, a name without a star for that module alone.
    """

    sees: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


_SCHEMA = ("takhin.schema.checksums", "takhin.schema.tables", "takhin.schema.upgrades")
_DISK = (*VOCABULARY, "takhin.schema", *_SCHEMA, "takhin.disk.*")
_STORAGE = (*_DISK, "takhin.logs", "takhin.storage.*")
_GROUPS = (*VOCABULARY, "takhin.logs", "takhin.storage.contract", "takhin.groups.*")
_BROKER = (*_GROUPS, "takhin.broker.*")
_WIRE = (*VOCABULARY, "takhin.v1.*", "takhin.wire.*")
_RPC = (*_BROKER, *_WIRE, "takhin.logs", "takhin.rpc.*")

LAYERS = {
    "takhin.__init__": Layer(),
    "takhin.v1": Layer(),
    "takhin.schema.checksums": Layer((), ("apsw",)),
    "takhin.schema.tables": Layer(),
    "takhin.schema.upgrades": Layer(),
    # Run on closed files in a child process. Its root holds two numbers, which storage may see.
    "takhin.schema": Layer(("takhin.schema.*",), SQLITE_OF_PYTHON),
    **dict.fromkeys(VOCABULARY, Layer((*VOCABULARY, "takhin.settings.*"))),
    "takhin.disk": Layer(_DISK, ("apsw", "structlog")),
    "takhin.storage": Layer(_STORAGE, ("apsw", "structlog")),
    # Programs of their own, on closed files or as readers beside a broker, but never in its process.
    "takhin.copies": Layer((*_DISK, "takhin.copies.*"), ("apsw",)),
    "takhin.doctor": Layer((*_DISK, "takhin.rpc.key_pairs", "takhin.doctor.*"), ("apsw", "cryptography")),
    "takhin.query": Layer((*_DISK, "takhin.query.*"), ("apsw",)),
    "takhin.groups": Layer(_GROUPS, ("structlog", "re2")),
    "takhin.broker": Layer(_BROKER, ("structlog",)),
    "takhin.wire": Layer(_WIRE, GRPC),
    "takhin.rpc.key_pairs": Layer((), ("grpc", "cryptography")),
    "takhin.tracing": Layer(
        (*VOCABULARY, "takhin.rpc.calls", "takhin.tracing.*"), (*GRPC, "structlog", "opentelemetry")
    ),
    "takhin.rpc": Layer(_RPC, (*GRPC, "structlog")),
    # Beside rpc: it reads what the broker and its engine know. Only takhin.server knows of it.
    "takhin.metrics": Layer(
        (*_BROKER, "takhin.logs", "takhin.metrics.*"), ("prometheus_client", "structlog")
    ),
    "takhin.client.tracing": Layer((*_WIRE, "takhin.client.*"), (*GRPC, "opentelemetry")),
    "takhin.client": Layer((*_WIRE, "takhin.client.*"), GRPC),
    "takhin.config": Layer(VOCABULARY),
    "takhin.logs": Layer(VOCABULARY, ("structlog",)),
    "takhin.memory": Layer(),
    "takhin.garbage": Layer(("takhin.memory",)),
    "takhin.notify": Layer(("takhin.sentences",), ("structlog",)),
    "takhin.server": Layer(("takhin.*",), ("structlog",)),
    "takhin.process": Layer(("takhin.*",), ("structlog",)),
    # For authors of engines: it knows the contract and what all engines share, and no engine.
    "takhin.testing.contract": Layer(
        (*VOCABULARY, "takhin.storage.contract", "takhin.storage.conditions", "takhin.testing.contract.*"),
        ("pytest", "pytest_asyncio"),
    ),
    "takhin.testing": Layer((*VOCABULARY, "takhin.config", "takhin.server", "takhin.testing.brokers")),
    "takhin.pytest_plugin": Layer(("takhin.testing.brokers",), ("pytest",)),
    "takhin.__main__": Layer(("takhin.cli.*",)),
    "takhin.cli": Layer(("takhin.*",), (*GRPC, "click", "rich", "structlog", "uvloop")),
}

INSTEAD = {
    "apsw": "ask takhin.storage.contract for it; SQL stands in takhin/disk/statements.py",
    "sqlite3": "use apsw in takhin/disk; closing a file with a second SQLite drops the locks of the first",
    "sqlite_utils": "change the schema in schema/, which runs in a child process on closed files",
    **dict.fromkeys(GRPC, "raise an error of takhin.errors; takhin/wire/status.py puts it on the wire"),
}

FILE_METHODS = {"open", "read_bytes", "read_text", "write_bytes", "write_text"}
FILE_MODULES = {"shutil": {"rmtree", "disk_usage"}, "filecmp": set(), "tarfile": set(), "zipfile": set()}
"""Modules that open files, each with its functions that open none."""
OPENS_WITH_REASON = {
    ("takhin/disk/folder.py", "_copy_template"): "copies the closed template before apsw ever opens the copy",
    ("takhin/disk/folder.py", "sync_folder"): "a folder, which SQLite does not lock",
    ("takhin/disk/access_file.py", "reopen"): "its own method, which opens it by SQLite",
    ("takhin/disk/folder.py", "_lock_folder"): "a folder, which SQLite does not lock",
    ("takhin/disk/repairs.py", "answer"): "DATA/released, which is not an SQLite file",
    ("takhin/disk/plain.py", "open_plain"): "LOCK, the witness, backup.json, which are not SQLite files",
    ("takhin/storage/sqlite/space.py", "_fill"): "the ballast, which is not an SQLite file",
}

REGISTRY = re.compile(r"py[p]i\.org|pythonhoste[d]|npm[j]s\.|crates\.i[o]|golang\.or[g]|index-ur[l]")
MACHINE_PATH = re.compile(r"(?<![\w.~}$*])/(?:home|root|Users|work|opt|mnt)/")


def python_files(*folders: str) -> Iterator[Path]:
    """Our own Python files below these folders, without generated code."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.is_relative_to(ROOT / "takhin/v1"):
                yield path


def parsed(path: Path) -> tuple[str, ast.Module]:
    """A file's (path as messages show it, syntax tree)."""
    return str(path.relative_to(ROOT)), ast.parse(path.read_bytes())


def module_name(path: Path) -> str:
    """The dotted name that a file of takhin/ or schema/ is imported by; `takhin.__init__` is spelled out."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "schema":
        parts = ("takhin", *parts)
    return ".".join(parts).removesuffix(".__init__") if len(parts) > 2 else ".".join(parts)


MODULES = {module_name(path): path for path in python_files("takhin", "schema")}


def allowed(module: str, names: tuple[str, ...]) -> bool:
    """True if one of `names`, with or without a star, covers the module."""
    return any(
        (module + ".").startswith(name.removesuffix("*")) if name.endswith("*") else module == name
        for name in names
    )


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The (line, module) of every import, wherever it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{package}.{alias.name}"  # `from package import module`
                yield node.lineno, inner if inner in MODULES else package


def import_faults(module: str, tree: ast.AST) -> Iterator[str]:
    """The imports of a module that the table does not allow."""
    layer = next((LAYERS[name] for name in LAYERS if allowed(module, (name + ".*",))), None)
    if layer is None:
        yield f"{module} is in no layer: give it a row in LAYERS of tests/test_tidy.py"
        return
    for line, target in imports(tree):
        root = target.partition(".")[0]
        if root == "takhin" and not allowed(target, layer.sees):
            below = ", ".join(layer.sees) or "nothing of takhin"
            yield f"{module}:{line} imports {target}: move the code or pass the value in; it sees {below}"
        elif root == "":
            yield f"{module}:{line} imports {target}: write the full name, takhin.…"
        elif root in INSTEAD and root not in layer.libraries:
            yield f"{module}:{line} imports {root}: {INSTEAD[root]}"
        elif root not in {"takhin", *layer.libraries, *sys.stdlib_module_names}:
            yield f"{module}:{line} imports {root}: use the standard library, or allow it in LAYERS"


def opens_file(call: ast.Call) -> bool:
    """True if a call opens, and so closes, a file without SQLite's knowledge."""
    match call.func:
        case ast.Name(id=name):
            return name == "open"
        case ast.Attribute(value=ast.Name(id=module), attr=name) if module in FILE_MODULES:
            return name not in FILE_MODULES[module]
        case ast.Attribute(attr=name):
            return name in FILE_METHODS or name == "file_digest"
    return False


def open_faults(path: str, tree: ast.AST) -> Iterator[str]:
    """Files opened under takhin/storage/ and takhin/disk/ without a reason in the list."""
    with_reason = {
        node
        for function in functions(tree)
        if (path, function.name) in OPENS_WITH_REASON
        for node in ast.walk(function)
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and opens_file(call) and call not in with_reason:
            yield (
                f"{path}:{call.lineno} opens a file; closing it drops SQLite's locks in this process: "
                "take sizes by os.stat, let a child process copy, or give OPENS_WITH_REASON its reason"
            )


SQL = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|CREATE|ATTACH|PRAGMA|BEGIN|COMMIT|ROLLBACK)( |$)")


def format_faults(path: str, tree: ast.AST) -> Iterator[str]:
    """SQL and names of files outside of the modules that own the format on disk."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if SQL.match(text) and "statements" not in path:
                yield f"{path}:{node.lineno} has SQL: give it a name in takhin/disk/statements.py"
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value=str()) | ast.JoinedStr() as name):
                if any(isinstance(part, ast.Constant) for part in ast.walk(name)):
                    yield f"{path}:{node.lineno} names a file: take the name from takhin/disk/layout.py"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def size_faults(path: str, tree: ast.Module, lines: int) -> Iterator[str]:
    """Functions and files that are too long to be read in one go."""
    if lines > FILE_LINES_MAX:
        yield f"{path} has {lines} lines, above {FILE_LINES_MAX}: split it by noun"
    for function in functions(tree):
        length = (function.end_lineno or 0) - function.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield (
                f"{path}:{function.lineno} {function.name} has {length} lines, above {FUNCTION_LINES_MAX}: "
                "name its steps as functions of their own"
            )


def text_faults(path: str, text: str) -> Iterator[str]:
    """Addresses and paths that are valid on one machine only."""
    for number, line in enumerate(text.splitlines(), 1):
        if REGISTRY.search(line):
            yield f"{path}:{number} names a package registry: pip is configured on each machine, not here"
        if MACHINE_PATH.search(line):
            yield f"{path}:{number} names a path of one machine: make it relative, or take it from a setting"


def files_of_the_project() -> Iterator[Path]:
    """Every file that .gitignore does not exclude, even without git."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [
            name for name in subfolders if not any(fnmatch.fnmatch(name, i) for i in [".git", *ignored])
        ]
        for name in names:
            if name != ".git" and not any(fnmatch.fnmatch(name, i) for i in ignored):  # in a worktree a file
                yield Path(folder, name)


def test_imports_follow_the_layers() -> None:
    """Each module imports only what its row of the layer table allows."""
    faults = [fault for module, path in MODULES.items() for fault in import_faults(module, parsed(path)[1])]
    assert not faults, "\n".join(faults)


def test_storage_opens_no_file_beside_sqlite() -> None:
    """Files under takhin/storage/ and takhin/disk/ are opened only where the list gives the reason."""
    faults = [
        fault
        for path in python_files("takhin/storage", "takhin/disk")
        for fault in open_faults(*parsed(path))
    ]
    assert not faults, "\n".join(faults)


def test_the_format_on_disk_stands_in_one_room() -> None:
    """Only takhin/disk/statements.py has SQL, and only takhin/disk/layout.py has names of files."""
    rooms = ("takhin/storage", "takhin/disk", "takhin/copies", "takhin/query")
    faults = [fault for path in python_files(*rooms) for fault in format_faults(*parsed(path))]
    assert not faults, "\n".join(faults)


def test_the_list_of_opens_is_not_stale() -> None:
    """Each entry of the list belongs to a function that exists and opens a file."""
    opening = {
        (name, function.name)
        for name, tree in map(parsed, python_files("takhin/storage", "takhin/disk"))
        for function in functions(tree)
        if any(isinstance(call, ast.Call) and opens_file(call) for call in ast.walk(function))
    }
    assert OPENS_WITH_REASON.keys() <= opening


def test_functions_and_files_are_short() -> None:
    """Functions have at most 60 lines and files at most 400, in the package, the tests and the benches."""
    faults = [
        fault
        for path in python_files("takhin", "schema", "tests", "bench")
        for fault in size_faults(*parsed(path), len(path.read_text().splitlines()))
    ]
    assert not faults, "\n".join(faults)


def test_no_file_is_bound_to_one_machine() -> None:
    """No file of the project names a package registry's address or an absolute path of a machine."""
    faults = []
    for path in files_of_the_project():
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            faults += text_faults(str(path.relative_to(ROOT)), content.decode())
    assert not faults, "\n".join(faults)


ANY_SQLITE = {"apsw", "_sqlite3", *SQLITE_OF_PYTHON}


@pytest.mark.parametrize(
    ("packages", "unwanted"),
    [
        (("takhin.wire.*", "takhin.v1.*", "takhin.client.*", "takhin.cli.*"), ANY_SQLITE),
        (("takhin.client.*", "takhin.cli.produce", "takhin.cli.consume"), {"ctypes", "takhin.native"}),
        (("takhin.storage.*", "takhin.rpc.*", "takhin.server", "takhin.process"), ANY_SQLITE - {"apsw"}),
    ],
    ids=["clients", "clients-in-c", "broker"],
)
def test_what_imports_do_not_load(packages: tuple[str, ...], unwanted: set[str]) -> None:
    """Importing what clients need loads no SQLite and no library of ours; the broker's code loads apsw's."""
    names = [name for name in (*MODULES, "takhin.v1.takhin_pb2_grpc") if allowed(name, packages)]
    code = f"import sys, {', '.join(names)}; print({unwanted!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("takhin.broker.records", "import grpc"),
        ("takhin.broker.records", "from takhin.storage.sqlite import writer"),
        ("takhin.broker.session", "from takhin.wire import convert"),
        ("takhin.model", "import takhin.wire.convert"),
        ("takhin.model", "import structlog"),
        ("takhin.rpc.service", "def f():\n    import apsw"),
        ("takhin.storage.sqlite.writer", "import sqlite3"),
        ("takhin.disk.versions", "from takhin.schema import migrations"),
        ("takhin.storage.sqlite.writer", "from . import readers"),
        ("takhin.client.producing.producer", "from takhin.broker.session import Session"),
        ("takhin.unheard_of", ""),
    ],
)
def test_a_forbidden_import_is_seen(module: str, code: str) -> None:
    """The import rule fails on a forbidden import."""
    assert list(import_faults(module, ast.parse(code)))


@pytest.mark.parametrize(
    "call",
    [
        "open(path)",
        "path.open()",
        "os.open(path, 0)",
        "path.read_bytes()",
        "shutil.copy(a, b)",
        "hashlib.file_digest(f, 'md5')",
    ],
)
def test_a_bare_open_is_seen(call: str) -> None:
    """The file rule fails on a bare open()."""
    assert list(open_faults("takhin/storage/partition.py", ast.parse(call)))


@pytest.mark.parametrize("code", ["db.execute('SELECT 1')", "folder / 'LOCK'", "folder / f'{number}.db'"])
def test_the_format_on_disk_is_seen_elsewhere(code: str) -> None:
    """The rule of the format on disk fails on SQL and names elsewhere."""
    assert list(format_faults("takhin/copies/backup.py", ast.parse(code)))


def test_length_and_machine_are_seen() -> None:
    """The rules of size and of text fail on long code and on what is valid on one machine only."""
    long = "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX
    assert len(list(size_faults("x.py", ast.parse(long), FILE_LINES_MAX + 1))) == 2
    assert list(text_faults("x", "see https://py" + "pi.org/simple"))
    assert list(text_faults("x", "cd /ho" + "me/me/takhin"))
