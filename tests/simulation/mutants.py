"""Mutants: deliberate breakages of the rules, put into the real stages for as long as needed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from msgspec.structs import replace

from headwater.flow.adoption import Adoption
from headwater.flow.backfill import Backfill
from headwater.flow.checkpoints import Checkpoints
from headwater.flow.freshness import Freshness, Guard
from headwater.flow.ingest import Ingest
from headwater.flow.publisher import Publisher
from headwater.flow.shard_opener import ShardOpener
from headwater.flow.shard_task import ShardTask
from headwater.flow.shards import Shards
from headwater.state.lane import parts_of
from headwater.state.loading import Loading
from headwater.state.shard import Shard
from headwater_connectors.log.log import NotAMemberError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["MUTANTS", "mutated"]

_Change = tuple[type, str, "Callable[..., Any]"]


def _apply_what_is_old() -> _Change:
    """Apply every record as it comes, whatever the lane has applied."""
    real = ShardTask._chained

    def chained(self, shard, header, body, done, offset, arrival_us):
        done = min(done, header.from_offset)
        return real(self, shard, header, body, done, offset, arrival_us)

    return ShardTask, "_chained", chained


def _apply_overlaps_whole() -> _Change:
    """Skip what is wholly old; of what is partly old apply all."""
    real = ShardTask._chained

    def chained(self, shard, header, body, done, offset, arrival_us):
        if header.to_offset > done:
            done = min(done, header.from_offset)
        return real(self, shard, header, body, done, offset, arrival_us)

    return ShardTask, "_chained", chained


def _ignore_holes() -> _Change:
    """Go on above a hole as if nothing was missing."""
    real = ShardTask._chained

    def chained(self, shard, header, body, done, offset, arrival_us):
        done = max(done, header.from_offset)
        return real(self, shard, header, body, done, offset, arrival_us)

    return ShardTask, "_chained", chained


def _read_with_other_columns() -> _Change:
    """Take rows that were written for another definition of their stream for our own."""

    def is_foreign(self, header):
        return False

    return ShardTask, "_is_foreign", is_foreign


def _rows_before_their_mark() -> _Change:
    """Write rows first and the mark after them, in two batches."""

    def write_checkpoint(self, checkpoint, *, flush=False):
        before = self.store.mark() or replace(checkpoint.mark, next_offset=0, applied={})
        size = self.store.write(before, checkpoint.rows)
        self.store.write(checkpoint.mark, [])
        if flush:
            self.store.flush()
        self.persisted_epoch = checkpoint.epoch
        return size

    return Shard, "write_checkpoint", write_checkpoint


def _mark_of_now() -> _Change:
    """Write the rows that were copied out with a mark of when they are written."""
    real = Shard.write_checkpoint

    def write_checkpoint(self, checkpoint, *, flush=False):
        checkpoint.mark = replace(
            checkpoint.mark, next_offset=self.next_offset, applied=dict(self.applied)
        )
        return real(self, checkpoint, flush=flush)

    return Shard, "write_checkpoint", write_checkpoint


def _commit_before_told() -> _Change:
    """Commit without telling the shards that had no rows."""

    def tell(self, partition, to_offset, *, at_end):
        pass

    return Publisher, "tell", tell


def _commit_unacknowledged() -> _Change:
    """Commit what was sent, without waiting for its acknowledgement."""

    def commit(self, partitions):
        offsets = {partition: self._next[partition] for partition in partitions}
        try:
            self._consumer.commit(self._topic, offsets)
        except NotAMemberError:
            self._commit_failed = True
        else:
            self._committed.update(offsets)

    return Ingest, "_commit", commit


def _forget_what_is_applied() -> _Change:
    """Let the exchange forget what is applied, though no checkpoint has it yet."""
    real = Checkpoints._write

    def write(self, taken, now_us):
        for shard, _ in taken:
            self._forget(shard.number, shard.next_offset)
        real(self, taken, now_us)

    return Checkpoints, "_write", write


def _forget_what_is_not_stored() -> _Change:
    """Let the exchange forget what is in a local checkpoint, though others have no such one."""
    real = Checkpoints._write

    def write(self, taken, now_us):
        real(self, taken, now_us)
        for shard, checkpoint in taken:
            self._forget(shard.number, checkpoint.mark.next_offset)

    return Checkpoints, "_write", write


def _new_views_without_their_past() -> _Change:
    """Let a new view begin with what comes live."""

    def begin(self, opened):
        for shard in opened:
            shard.unbuilt.clear()

    return Backfill, "begin", begin


def _new_views_past_their_seam() -> _Change:
    """Give a new view its past up to the source's end: above the seam that comes live too."""
    real = Backfill._stretches

    def stretches(self, shard, view_id, awaited):
        topic = self._current.plan.views[view_id].stream.topic
        ends = self._history._log.end_offsets(topic)
        found = real(self, shard, view_id, awaited)
        return {lane: replace(one, seam=ends[parts_of(lane)[2]] - 1) for lane, one in found.items()}

    return Backfill, "_stretches", stretches


def _read_before_its_past_is_there() -> _Change:
    """Show what a view has while its past is still on its way."""

    def check_loaded(self, view_id):
        del self.loading[view_id]

    return Shard, "_check_loaded", check_loaded


def _cursors_of_now() -> _Change:
    """Share the cursors with a checkpoint: written later, they are ahead of its rows."""
    return Loading, "copy", lambda self: self


def _adopt_while_a_checkpoint_is_written() -> _Change:
    """Don't wait for the copy that is being written of the plan before."""
    real = Adoption._adopt

    def adopt(self, offered):
        with patch.object(self._checkpoints, "wait", lambda: None):
            real(self, offered)

    return Adoption, "_adopt", adopt


def _new_lanes_without_their_past() -> _Change:
    """Let a lane that is new begin with its first record, and its views with it."""

    def begin_lane(self, lane, offset):
        self.applied[lane] = offset
        for view_id in list(self.loading):
            self._check_loaded(view_id)

    return Shard, "begin_lane", begin_lane


def _keep_lanes_that_left() -> _Change:
    """Let a lane that comes back go on where it was when its views left."""
    return Shard, "_of_plan", lambda self, applied: dict(applied)


def _keep_rows_that_left() -> _Change:
    """Leave the rows of a view that left on disk, and find them when it comes back."""
    return Shard, "remove", lambda self, view_ids: None


def _remove_rows_before_their_mark() -> _Change:
    """Remove the rows of a view that left, and let the next checkpoint take it out of the mark."""

    def remove(self, view_ids):
        if view_ids and (self.has_store or self._stores.exists(self.number)):
            for view_id in view_ids:
                self.store.delete_view(view_id)

    return Shard, "remove", remove


def _trust_what_a_crash_has_left() -> _Change:
    """Take it that of a view that no mark names there are no rows."""
    real = Shard.remove

    def remove(self, view_ids):
        mark = self.store.mark() if self.has_store or self._stores.exists(self.number) else None
        real(self, view_ids if mark is None else mark.seen & set(view_ids))

    return Shard, "remove", remove


def _ingest_keeps_its_plan() -> _Change:
    """Send nothing for the keys of a new plan until ingest starts again."""
    return Publisher, "_adopt", lambda self, running, positions: None


def _ingest_from_the_end() -> _Change:
    """Take a partition on where its topic ends, not where the group has committed."""
    real = Ingest.assigned

    def assigned(self, partitions):
        begun = real(self, partitions)
        if self._source_end is None:
            return begun
        ends = self._source_end._log.end_offsets(self._topic)
        for partition in partitions:
            self._next[partition] = self._committed[partition] = ends[partition]
            self._publisher.begin(partition, ends[partition])
        self._producer.flush()
        return {partition: self._next[partition] for partition in partitions}

    return Ingest, "assigned", assigned


def _go_on_where_committed() -> _Change:
    """Read the exchange from the group's offset, whatever the checkpoint says."""
    real = ShardOpener.first_offsets

    def first_offsets(self, shards):
        ends = self._log.end_offsets(self._exchange.name)
        return {number: ends[number] for number in real(self, shards)}

    return ShardOpener, "first_offsets", first_offsets


def _keep_lost_shards() -> _Change:
    """Keep a shard that went to another worker, and go on with it when it comes back."""
    real = Shards.revoked

    def revoked(self, partitions, *, lost):
        kept = {number: self.held[number] for number in partitions} if lost else {}
        closed = [number for number in partitions if number not in kept]
        real(self, closed, lost=lost)

    return Shards, "revoked", revoked


def _silent_progress() -> _Change:
    """Send no progress for what needs none: a lost last record stays unnoticed."""

    def progress(self, partition, to_offset, **_):
        pass

    return Publisher, "progress", progress


def _never_stale() -> _Change:
    """Take every answer for a fresh one."""

    def is_stale(self, shard, next_offset, view):
        return False

    return Guard, "is_stale", is_stale


def _end_as_of_its_record() -> _Change:
    """Take a source to be at its end when its record comes, not when it was asked."""
    real = Freshness.at_end

    def at_end(self, shard, lane, after_offset):
        real(self, shard, lane, 1 << 60)

    return Freshness, "at_end", at_end


def _silent_lanes() -> _Change:
    """Take a lane that nothing was heard of for one that has nothing to say."""
    real = Freshness.age_us

    def age_us(self, shard, next_offset, lanes, now_us):
        found = self._shards.get(shard)
        heard = () if found is None else found.lanes
        return real(self, shard, next_offset, [lane for lane in lanes if lane in heard], now_us)

    return Freshness, "age_us", age_us


def _horizon_from_memory() -> _Change:
    """Leave the horizon out of what a shard goes on from."""
    real = Shard._resume

    def resume(self):
        real(self)
        self.horizon_us = -(1 << 62)

    return Shard, "_resume", resume


MUTANTS: dict[str, Callable[[], _Change]] = {
    one.__name__.strip("_"): one
    for one in (
        _apply_what_is_old,
        _apply_overlaps_whole,
        _ignore_holes,
        _read_with_other_columns,
        _rows_before_their_mark,
        _mark_of_now,
        _commit_before_told,
        _commit_unacknowledged,
        _forget_what_is_applied,
        _forget_what_is_not_stored,
        _new_views_without_their_past,
        _new_views_past_their_seam,
        _read_before_its_past_is_there,
        _cursors_of_now,
        _adopt_while_a_checkpoint_is_written,
        _new_lanes_without_their_past,
        _keep_lanes_that_left,
        _keep_rows_that_left,
        _remove_rows_before_their_mark,
        _trust_what_a_crash_has_left,
        _ingest_keeps_its_plan,
        _ingest_from_the_end,
        _go_on_where_committed,
        _keep_lost_shards,
        _silent_progress,
        _horizon_from_memory,
        _never_stale,
        _end_as_of_its_record,
        _silent_lanes,
    )
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Run with a mutant in place of the real thing."""
    where, attribute, change = MUTANTS[name]()
    with patch.object(where, attribute, change):
        yield
