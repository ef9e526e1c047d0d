"""Workers whose archive and checkpoints are in an object store."""

from __future__ import annotations

import pytest
from object_store_server import BUCKET, options_of, s3_server

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_worker_that_dies_leaves_its_state_and_history_in_the_object_store(namespace) -> None:
    with (
        s3_server() as endpoint,
        namespace(place=f"s3://{BUCKET}/a", object_store=options_of(endpoint)) as cluster,
    ):
        cluster.push(2_000)
        (first,) = cluster.started("first")
        cluster.assert_right(first)
        assert first.stop() == 0
        # There is nothing on its disk: what it has comes from the store.
        (second,) = cluster.started("second")
        assert "event=restored" in second.said()
        cluster.push(1_000)
        cluster.assert_right(second)
        assert second.stop() == 0
        cluster.assert_archived()
