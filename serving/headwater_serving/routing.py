"""Routing: the workers of a namespace as peers, by Kafka's group membership and over gRPC."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from headwater.errors import HeadwaterError
from headwater.flow.answer import RequestError, UnavailableError
from headwater.flow.shard_reads import NotOwnerError
from headwater_serving.codes import DeadlineError, OverloadError
from headwater_serving.owner_table import OwnerTable
from headwater_serving.peer_client import PeerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headwater.flow.peers import RowsAnswer, RowsRequest

__all__ = ["KafkaPeers"]

_CONNECTIONS_MAX = 64
_PAUSE_S = 1.0


class _Client(Protocol):
    """What is needed of a peer client."""

    def read(self, request: RowsRequest, timeout_s: float) -> RowsAnswer: ...

    def close(self) -> None: ...


class _Connection:
    """A client, when it last answered, and until when it isn't asked."""

    __slots__ = ("answered_at", "client", "paused_until")

    def __init__(self, client: _Client) -> None:
        self.client = client
        self.answered_at = float("-inf")
        self.paused_until = float("-inf")


class KafkaPeers:
    """The other workers, found by `owners` and asked over gRPC; may be shared by threads.

    `owners` asks Kafka who has which shard (shard → `host:port`); it may return None while a group
    is rebalancing. A worker that lets a call's time pass without a word, as one does that stands
    still, is left alone for a second, so that it doesn't hold every thread here; then one call
    tries again.
    """

    def __init__(
        self,
        owners: Callable[[], Mapping[int, str] | None],
        *,
        own_target: str,
        connect: Callable[[str], _Client] = PeerClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own_target = own_target
        self._table = OwnerTable(owners, clock=clock)
        self._connect = connect
        self._clock = clock
        self._connections: OrderedDict[str, _Connection] = OrderedDict()
        self._lock = threading.Lock()

    def owners(self) -> Mapping[int, str]:
        """Return shard → worker as last known, at once; this process is among them."""
        return self._table.known()

    def refresh(self, timeout_s: float, *, is_wrong: bool = False) -> Mapping[int, str]:
        """Look again who has which shard, for at most so long; return what is known then.

        What was seen a moment ago will do, unless it `is_wrong`.
        """
        return self._table.refresh(timeout_s, is_wrong=is_wrong)

    def read(self, target: str, request: RowsRequest, timeout_s: float) -> RowsAnswer:
        """Return rows of another worker's own shards.

        Raises NotOwnerError where it doesn't have them all, OverloadError or RequestError where it
        refuses as much at once, and UnavailableError for everything else that may pass.
        """
        assert target != self.own_target, "a worker doesn't call itself"
        connection = self._connection(target)
        began_at = self._clock()
        try:
            answer = connection.client.read(request, timeout_s)
        except (NotOwnerError, UnavailableError, OverloadError, RequestError):
            self._answered(connection)
            raise
        except HeadwaterError as error:
            if isinstance(error, DeadlineError):
                self._silent(connection, began_at)
            raise UnavailableError(str(error)) from error
        self._answered(connection)
        return answer

    def close(self) -> None:
        """Close every connection and stop looking."""
        self._table.close()
        with self._lock:
            connections = list(self._connections.values())
            self._connections.clear()
        for connection in connections:
            connection.client.close()

    def _connection(self, target: str) -> _Connection:
        """Return the connection to a worker; raise UnavailableError while it is left alone."""
        closing: list[_Connection] = []
        with self._lock:
            found = self._connections.get(target)
            if found is None:
                closing = self._drop_others()
                found = self._connections[target] = _Connection(self._connect(target))
            self._connections.move_to_end(target)
            now = self._clock()
            is_paused = now < found.paused_until
            if not is_paused and found.paused_until > float("-inf"):
                # This call tries; until it has its answer the others don't.
                found.paused_until = now + _PAUSE_S
        for one in closing:
            one.client.close()
        if is_paused:
            raise UnavailableError(f"{target} did not answer a moment ago; it is asked again soon")
        return found

    def _drop_others(self) -> list[_Connection]:
        """Take out connections to workers that have gone, and the longest unused beyond the limit.

        Whoever waits on one of them would wait for nothing.
        """
        here = set(self._table.known().values())
        gone = [target for target in self._connections if target not in here]
        over = len(self._connections) - len(gone) - _CONNECTIONS_MAX + 1
        kept = [target for target in self._connections if target in here]
        return [self._connections.pop(target) for target in [*gone, *kept[: max(0, over)]]]

    def _answered(self, connection: _Connection) -> None:
        with self._lock:
            connection.answered_at = self._clock()
            connection.paused_until = float("-inf")

    def _silent(self, connection: _Connection, began_at: float) -> None:
        with self._lock:
            # One slow answer among others isn't silence.
            if connection.answered_at < began_at:
                connection.paused_until = self._clock() + _PAUSE_S
