"""The other workers, as one of them reaches them: by what the group says, if they answer at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.flow.answer import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from simulation.coordinator import Group
    from simulation.host import Host

    from headwater.flow.peers import RowsRequest
    from headwater.flow.shard_reads import RowsAnswer

__all__ = ["HostPeers"]


class HostPeers:
    """Peers of one process; `answered` says which of them the last read of a shard came from."""

    def __init__(self, me: Host, group: Group, everyone: Callable[[], Iterable[Host]]) -> None:
        self.own_target = me.name
        self.answered: dict[int, Host] = {}
        self._me = me
        self._group = group
        self._everyone = everyone

    def owners(self) -> Mapping[int, str]:
        found = {}
        for name, member in self._group.members.items():
            found |= dict.fromkeys(member.owned, name)
        return found

    def refresh(self, timeout_s: float, *, is_wrong: bool = False) -> Mapping[int, str]:
        return self.owners()

    def read(self, target: str, request: RowsRequest, timeout_s: float) -> RowsAnswer:
        # Of two of one name, which one is reached is chance; here it is the first.
        for host in self._everyone():
            if host.name == target and host is not self._me and host.can_read():
                answer = host.worker.reader.read_rows(request)
                self.answered |= dict.fromkeys(answer.offsets, host)
                return answer
        msg = f"{target} doesn't answer"
        raise UnavailableError(msg)
