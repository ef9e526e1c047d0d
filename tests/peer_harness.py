"""Workers that share the shards of one local store: each serves any read, over real gRPC."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.flow.freshness import Freshness, Guard
from headwater.flow.reader import ShardReader
from headwater.flow.status import WorkerStatus
from headwater_serving.client import connect
from headwater_serving.peer_servicer import Peer
from headwater_serving.routing import KafkaPeers
from headwater_serving.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headwater.local_store import LocalStore
    from headwater.state.shard import Shard
    from headwater_serving.client import Client

__all__ = ["PATIENCE_S", "Cluster", "Member", "cluster_of"]

PATIENCE_S = 20.0
LANE = "lane"


@dataclass(slots=True)
class Member:
    """One worker: the shards it has, its reader, and what reaches it."""

    shards: dict[int, Shard]
    reader: ShardReader
    freshness: Freshness
    server: Server
    client: Client
    peers: KafkaPeers

    @property
    def target(self) -> str:
        return self.server.target


class Cluster:
    """Workers over the shards of one store; `owners` is what Kafka would say."""

    def __init__(self, store: LocalStore, stack: ExitStack) -> None:
        self.store = store
        self.count = len(store.worker.shards)
        self.owners: dict[int, str] = {}
        self.members: list[Member] = []
        # What the boot clocks show, and how far the exchange is, as far as this cluster is told.
        self.now_us = 1_000_000
        self._stack = stack

    def add(self, numbers: Sequence[int], **guard: Any) -> Member:
        """Start a worker that has these shards."""
        worker = self.store.worker
        shards = {number: worker.shards[number] for number in numbers}
        freshness = Freshness(lambda: self.now_us)
        server = Server(None, port=0)  # type: ignore[arg-type]
        peers = _LatePeers(lambda: dict(self.owners), server)
        reader = ShardReader(
            self.store.worker.current,
            shards,
            worker.memory,
            self.store.clock,
            starts=worker.starts,
            shard_count=self.count,
            guard=Guard(freshness, lambda _: [LANE], **guard),
            peers=peers,
        )
        server._reader = reader
        server._peer = Peer(reader.read_rows, lambda: _status(server))
        server.start()
        self._stack.callback(server.stop, 0)
        self._stack.callback(peers.close)
        self._stack.callback(reader.close)
        client = self._stack.enter_context(connect(server.target, timeout_s=PATIENCE_S))
        member = Member(shards, reader, freshness, server, client, peers)
        self.members.append(member)
        for number in numbers:
            self.owners[number] = member.target
            freshness.opened(number)
        self.freshen(member)
        return member

    def freshen(self, *members: Member) -> None:
        """Let workers learn that they have applied everything, as a probe and a record would."""
        self.now_us += 1
        for member in members or self.members:
            # The last record of each shard came between the probe and the source's end.
            last = {number: shard.next_offset - 1 for number, shard in member.shards.items()}
            member.freshness.observe(self.now_us, last)
            for number, offset in last.items():
                member.freshness.at_end(number, LANE, offset + 1)

    def move(self, number: int, source: Member, target: Member, between: Any = None) -> None:
        """Hand a shard over, as a rebalance does: nobody has it for a moment."""
        lock = self.store.worker.memory.lock
        with lock:
            shard = source.shards.pop(number)
        source.freshness.closed(number)
        if between is not None:
            between()
        with lock:
            target.shards[number] = shard
        target.freshness.opened(number)
        self.freshen(target)
        self.owners[number] = target.target


class _LatePeers(KafkaPeers):
    """Peers of a worker whose own address is known once its server has a port."""

    def __init__(self, owners: Any, server: Server) -> None:
        super().__init__(owners, own_target="")
        self._server = server

    def owners(self) -> Mapping[int, str]:
        self.own_target = self._server.target
        return super().owners()


def _status(server: Server) -> WorkerStatus:
    return WorkerStatus(
        worker="w",
        target=server.target,
        namespace="local",
        started_us=7,
        tasks=(),
        state_bytes=1,
        backlog_rows=2,
        dead_letters=3,
    )


@contextmanager
def cluster_of(store: LocalStore) -> Iterator[Cluster]:
    """Open a cluster of no workers yet over a store that has settled."""
    with ExitStack() as stack:
        yield Cluster(store, stack)


@contextmanager
def background(step: Any) -> Iterator[list[BaseException]]:
    """Repeat a step in a thread until the block ends; what it raised comes back in a list."""
    stop = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                step()
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        stop.set()
        thread.join(PATIENCE_S)
