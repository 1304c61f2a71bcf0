"""What has to be compiled; all else is in pyproject.toml.

Both parts are optional: where one cannot be built, the package is installed without it. takhin/native.py is
about the library of brokers, which is no module of Python, and built like one only because every installer
knows how; takhin/client/compiled.py is about the part of clients, which is one.
"""

from pathlib import Path

from setuptools import Extension, setup

HEADERS = sorted(map(str, Path("native").rglob("*.h")))


def compiled(name: str, *sources: Path) -> Extension:
    return Extension(
        name,
        sorted(map(str, sources)),
        depends=HEADERS,
        extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
        py_limited_api=True,
        optional=True,
    )


setup(
    ext_modules=[
        compiled("takhin._native", *Path("native").glob("*.c")),
        compiled("takhin.client._compiled", Path("native/wire.c"), *Path("native/client").glob("*.c")),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # for every later Python as well
)
