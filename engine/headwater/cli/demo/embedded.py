"""The demo in this process: a log in a folder, one worker, and a server on loopback."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import headwater as hw
from headwater.cli.demo.features import delay_model
from headwater.cli.demo.place import SAMPLES_PER_S
from headwater.flow.sample_files import SampleFiles
from headwater.flow.sample_log import SampleSettings
from headwater.flow.settings import WorkerSettings
from headwater.state.lane import lane_of
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_serving.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from headwater.cli.demo.place import Place
    from headwater.definitions.service import Service
    from headwater.definitions.view import View
    from headwater.flow.starts import Start
    from headwater.local_store import LocalStore
    from headwater.plan.plan import Plan
    from headwater_serving.client import Client

__all__ = ["embedded"]

_SETTINGS = WorkerSettings(
    namespace="demo",
    shards=4,
    read_back_us=None,
    keep_exchange=True,
    samples=SampleSettings(per_s=SAMPLES_PER_S),
)
# The first call of a cold machine compiles the kernels.
_TIMEOUT_S = 120.0


@contextmanager
def embedded(
    folder: Path,
    port: int,
    progress: Progress,  # noqa: ARG001 - nothing takes long enough to be shown
) -> Iterator[Place]:
    """Open the demo's place in `folder`; serve on `port`, 0 for a free one."""
    with (
        hw.local([delay_model], path=folder / "store", settings=_SETTINGS) as store,
        connect(store.serve(port).target, timeout_s=_TIMEOUT_S) as client,
    ):
        yield _Embedded(store, folder / "store", client)


class _Embedded:
    """A Place in which nothing goes wrong."""

    def __init__(self, store: LocalStore, folder: Path, client: Client) -> None:
        assert store.worker.archive is not None
        self.plans: list[Plan] = [store.plan]
        self.log = store.log
        self.archive = store.worker.archive
        self.namespace = _SETTINGS.namespace
        self.exchange = store.worker.exchange
        self.starts: Mapping[str, Start] = store.worker.starts
        self.clients: Sequence[Client] = (client,)
        self._store = store
        self._folder = folder

    def push(self, topic: str, values: Sequence[bytes]) -> None:
        self._store.push_bytes(topic, values)

    def taken_in(self) -> int:
        shards = self._store.worker.shards.values()
        total = 0
        for name in self._store.plan.streams:
            topic = self.log.topic(name)
            for partition in range(topic.partitions):
                lanes = [
                    lane_of(topic.id, one.id, partition)
                    for one in self._store.plan.bindings_of(name)
                ]
                done = [shard.applied.get(lane, -1) for shard in shards for lane in lanes]
                total += min(done) + 1
        return total

    def interrupt(self, pushed: int) -> None:
        """There is one worker, and it is this process."""

    def restore(self) -> None:
        """There is nothing to put right."""

    def settle(self) -> None:
        self._store.settle()

    def apply(self, parts: Sequence[Service | View]) -> None:
        self._store.apply(parts)
        self.plans.append(self._store.plan)

    def samples(self) -> SampleFiles:
        reader = self._store.worker.reader
        assert reader.samples is not None
        taken, reader.samples = reader.samples, None
        taken.close()
        return SampleFiles(FolderBlobs(self._folder / "samples"), self.namespace)
