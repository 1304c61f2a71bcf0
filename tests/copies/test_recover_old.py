"""`takhin recover` of files that an earlier version made, whose first page is damaged."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from takhin.schema import VERSION

from copies.folders import content, file, flip
from takhin.copies.recover import recover


def archive(version: int) -> Path:
    """A data folder as that version of the schema made it."""
    return Path(__file__).parents[1] / f"fixtures/schema-{version}.tar.xz"


@pytest.mark.parametrize("at", [0, 30, 70, 104, 2_000, 16_000])
@pytest.mark.parametrize("version", range(1, VERSION))
async def test_a_flipped_bit_in_the_first_page_of_an_upgraded_file(version, at, tmp_path):
    """The first page of an upgraded file differs from a new file's, but refers to the same pages."""
    with tarfile.open(archive(version)) as tar:
        tar.extractall(tmp_path / "data", filter="data")
    before = await content(tmp_path / "data")
    flip(file(tmp_path / "data"), at)
    (recovered,) = recover(tmp_path / "data")
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(tmp_path / "data") == before


@pytest.mark.parametrize("at", [104, 16_000])
@pytest.mark.parametrize("partition", [1, 2])
@pytest.mark.parametrize("version", range(2, VERSION))
async def test_a_flipped_bit_in_the_first_page_of_an_old_file(version, partition, at, tmp_path):
    """A small file that was not upgraded ends before the pages at which a new file's last tables begin."""
    for copy in ("data", "undamaged"):
        with tarfile.open(archive(version)) as tar:
            tar.extractall(tmp_path / copy, filter="data")
    flip(file(tmp_path / "data", partition), at)
    (recovered,) = recover(tmp_path / "data")
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(tmp_path / "data") == await content(tmp_path / "undamaged")
