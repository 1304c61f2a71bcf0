"""The native library, the only part of the package that has to be compiled; all else is in pyproject.toml.

It is optional: where it cannot be built, the package is installed without it (see takhin/native.py). It is no
module of Python, and built like one only because every installer knows how.
"""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "takhin._native",
            sorted(str(path) for path in Path("native").glob("*.c")),
            depends=sorted(str(path) for path in Path("native").glob("*.h")),
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # for every later Python as well
)
