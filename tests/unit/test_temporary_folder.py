"""Where no temporary folder can be made, that is a setting to put right, and it is said."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING

import polars as pl
import pytest

import headwater as hw
from headwater.errors import ConfigError
from headwater.flow.warm_up import warm_up
from headwater.plan.plan import compile_plan
from headwater.state.store import Stores

if TYPE_CHECKING:
    from pathlib import Path

CLICKS = hw.stream(
    "clicks", schema={"user": pl.String, "ts": pl.Int64}, event_time=hw.epoch("ts", "ms")
)
COUNTS = hw.view(
    "counts",
    features=CLICKS.group_by(hw.entity("user", key="user")).window("1h").agg(n=hw.count()),
)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave nothing that can be written to but a folder that isn't there; return it."""
    folder = tmp_path / "nowhere"
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(folder)])
    return folder


def test_a_worker_that_can_make_no_temporary_folder_says_where_it_looked_and_what_to_do(
    nowhere: Path,
) -> None:
    plan = compile_plan([hw.service("all", [COUNTS])])
    with pytest.raises(ConfigError, match=rf"temporary folder.*{nowhere}.*TMPDIR"):
        warm_up(plan)


def test_a_temporary_folder_can_be_made_once_there_is_a_place(nowhere: Path) -> None:
    stores = Stores(None)
    with pytest.raises(ConfigError):
        stores.folder(0)
    nowhere.mkdir()
    assert nowhere in stores.folder(0).parents
    stores.close()
    assert list(nowhere.iterdir()) == []


def test_a_full_disk_is_named_with_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/headwater-x")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ConfigError, match=r"folder /full/headwater-x: No space left.*TMPDIR"):
        Stores(None).folder(0)
