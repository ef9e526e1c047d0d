"""Checkpoints in an object store: what one worker saves there another restores."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from checkpoint_harness import (
    EXCHANGE,
    SHARD,
    advance,
    check,
    checkpoints_in,
    newest,
    offsets,
    save,
)
from object_store_server import BUCKET, options_of, s3_server

from headwater.state.store import Store
from headwater_connectors.archive.location import blobs_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as found:
        yield found


def test_a_shard_moves_by_way_of_an_s3_server(tmp_path: Path, endpoint: str) -> None:
    blobs = blobs_of(f"s3://{BUCKET}/checkpoints", options_of(endpoint))
    # What a host may be called becomes part of the names.
    ours = checkpoints_in(tmp_path, blobs=blobs, writer="worker:1 (a)")
    (tmp_path / "a").mkdir()
    with closing(Store(tmp_path / "a" / "shard-003")) as store:
        for end in (10, 20, 30):
            save(ours, store, end)
        advance(store, 40)
        assert offsets(ours) == [30, 20, 10]
        ours.prune(SHARD, exchange_id=EXCHANGE)
    theirs = checkpoints_in(tmp_path, blobs=blobs, writer="worker-b")
    assert offsets(theirs) == [30, 20]
    (tmp_path / "b").mkdir()
    theirs.restore(newest(theirs), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 30)
