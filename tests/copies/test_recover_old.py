"""`takhin recover` of files that an earlier version made, whose first page is damaged."""

from __future__ import annotations

import tarfile
from itertools import product
from pathlib import Path

import pytest
from takhin.schema import VERSION

from copies.folders import content, file, flip
from takhin.copies.recover import recover


def archive(version: int) -> Path:
    """A data folder as that version of the schema made it."""
    return Path(__file__).parents[1] / f"fixtures/schema-{version}.tar.xz"


ALL_OLD = range(1, VERSION)
SOME = [*((version, 104) for version in ALL_OLD), *((VERSION - 1, at) for at in (0, 30, 70, 2_000, 16_000))]
EVERY = product(ALL_OLD, [0, 30, 70, 104, 2_000, 16_000])
SOME_SMALL = [(version, *of) for version in ALL_OLD[1:] for of in ((1, 104), (2, 16_000))]
EVERY_SMALL = product(ALL_OLD[1:], [1, 2], [104, 16_000])


def the_rest_in_soak(every, some):
    return [*some, *(pytest.param(*case, marks=pytest.mark.soak) for case in every if case not in some)]


@pytest.mark.parametrize(("version", "at"), the_rest_in_soak(EVERY, SOME))
async def test_a_flipped_bit_in_the_first_page_of_an_upgraded_file(version, at, tmp_path):
    """The first page of an upgraded file differs from a new file's, but refers to the same pages."""
    with tarfile.open(archive(version)) as tar:
        tar.extractall(tmp_path / "data", filter="data")
    before = await content(tmp_path / "data")
    flip(file(tmp_path / "data"), at)
    (recovered,) = recover(tmp_path / "data")
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(tmp_path / "data") == before


@pytest.mark.parametrize(("version", "partition", "at"), the_rest_in_soak(EVERY_SMALL, SOME_SMALL))
async def test_a_flipped_bit_in_the_first_page_of_an_old_file(version, partition, at, tmp_path):
    """A small file that was not upgraded ends before the pages at which a new file's last tables begin."""
    for copy in ("data", "undamaged"):
        with tarfile.open(archive(version)) as tar:
            tar.extractall(tmp_path / copy, filter="data")
    flip(file(tmp_path / "data", partition), at)
    (recovered,) = recover(tmp_path / "data")
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(tmp_path / "data") == await content(tmp_path / "undamaged")
