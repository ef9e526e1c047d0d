"""Checkpoints in a folder or an object store, where any worker finds them: a shard can move."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from headwater.errors import ConfigError, StateError
from headwater.flow.checkpoint_files import Digests, blob_name, fetch, upload
from headwater.flow.checkpoint_manifest import (
    CheckpointManifest,
    StoredCheckpoint,
    last_part,
    manifest_name,
    pack,
    unpack,
)
from headwater.flow.checkpoint_owner import Owners
from headwater.state.replacement import replacement
from headwater_connectors.archive.errors import AlreadyExistsError, MissingBlobError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headwater.flow.checkpoint_owner import Owner
    from headwater.state.store import Mark, Store
    from headwater_connectors.archive.blobs import BlobStore

__all__ = ["CheckpointStore", "StoredCheckpoint"]

_GRACE_US = 3_600_000_000


def _now_us() -> int:
    return time.time_ns() // 1_000


def _epoch() -> str:
    return secrets.token_hex(8)


class CheckpointStore:
    """The checkpoints of all shards; one thread saves and prunes a shard.

    A manifest names blobs of its own writer only, so no writer waits for another, and a writer
    that lost its shard without noticing does no harm: see Owners for who deletes what. A store
    that fails, or doesn't answer in time, raises ArchiveError from every method.
    """

    def __init__(
        self,
        blobs: BlobStore,
        *,
        namespace: str,
        writer: str,
        keep: int = 2,
        grace_us: int = _GRACE_US,
        clock: Callable[[], int] = _now_us,
        epoch: Callable[[], str] = _epoch,
    ) -> None:
        """Use a store of blobs; nothing is read or written yet. `clock` is wall time in µs."""
        if keep < 1:
            msg = f"{keep} checkpoints of a shard are to be kept; keep at least 1"
            raise ConfigError(msg)
        self._blobs = blobs
        self._namespace = namespace
        self._keep = keep
        self._clock = clock
        self._owners = Owners(blobs, writer, grace_us, clock, epoch)
        self._digests: dict[str, Digests] = {}

    def latest(self, shard: int, *, exchange_id: str) -> StoredCheckpoint | None:
        """Return the checkpoint with the highest exchange offset; None if there is none."""
        return next(iter(self.candidates(shard, exchange_id=exchange_id)), None)

    def candidates(self, shard: int, *, exchange_id: str) -> list[StoredCheckpoint]:
        """Return the checkpoints of a shard for this exchange topic, newest first.

        An older one may go while it is restored, for there is a newer one then: ask again.
        """
        found = self._blobs.find(f"{self._place(shard, exchange_id)}/manifests/")
        parsed = (StoredCheckpoint.parse(shard, info.name) for info in found)
        return sorted((one for one in parsed if one is not None), reverse=True)

    def save(self, shard: int, store: Store, mark: Mark, *, exchange_id: str) -> int:
        """Store what a shard's store holds, unless there is as new a checkpoint already.

        `mark` is the last one written to `store`, or an older one; what is stored is the last.
        Uploads files that aren't there yet, then the manifest; returns the bytes uploaded. When
        it fails older checkpoints are as they were. StateError if the mark isn't in `store`, or
        after a pause so long that others may have cleaned up: what is there then is used again.
        """
        latest = self.latest(shard, exchange_id=exchange_id)
        if latest is not None and latest.next_offset >= mark.next_offset:
            return 0
        place = self._place(shard, exchange_id)
        copy = store.path.with_name(f".{store.path.name}.snapshot")
        shutil.rmtree(copy, ignore_errors=True)  # a dead process's: who has the store has this
        try:
            held = self._checked(store.snapshot(copy), shard, mark, store.path)
            owner = self._owners.begin(place)
            digests = self._digests.setdefault(place, Digests())
            files, size_bytes = upload(self._blobs, self._owners, owner, copy, digests)
        except OSError as error:
            msg = f"can't read the copy of state folder {store.path}: {error}; check the disk"
            raise StateError(msg) from error
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        manifest = CheckpointManifest(
            namespace=self._namespace,
            exchange_id=exchange_id,
            shard=shard,
            shards=held.shards,
            next_offset=held.next_offset,
            stamp=held.stamp,
            owner=owner.name,
            files=files,
        )
        return size_bytes + self._commit(owner, manifest)

    def _checked(self, held: Mark | None, shard: int, mark: Mark, path: Path) -> Mark:
        """Return the mark in a copy of a store, if it is what was to be saved."""
        if held is None or held.next_offset < mark.next_offset:
            at = "no checkpoint" if held is None else f"offset {held.next_offset}"
            msg = (
                f"state folder {path} holds {at}, and not yet offset {mark.next_offset}: write the"
                " checkpoint first"
            )
            raise StateError(msg)
        if (held.namespace, held.shard) != (self._namespace, shard):
            msg = (
                f'state folder {path} belongs to shard {held.shard} in "{held.namespace}", not'
                f' {shard} in "{self._namespace}"; use another folder'
            )
            raise StateError(msg)
        return held

    def _commit(self, owner: Owner, manifest: CheckpointManifest) -> int:
        """Write a manifest whose files are all there; return its bytes."""
        name, data = manifest_name(owner.place, manifest), pack(manifest)
        self._owners.renew(owner)
        began_us = self._clock()
        # It is there if an earlier try came through and only its answer was lost.
        with contextlib.suppress(AlreadyExistsError):
            self._blobs.put_if_absent(name, data)
        try:
            self._owners.renew(owner)
        except StateError:
            self._blobs.delete([name])
            raise
        owner.shown_us = began_us
        return len(data)

    def restore(self, checkpoint: StoredCheckpoint, into: Path) -> None:
        """Put a checkpoint in the place of a shard's folder, all of it or nothing.

        StateError names a file that is missing, cut or changed: an older checkpoint may do.
        ConfigError if the folder is in use, or can't be written.
        """
        manifest = self._manifest(checkpoint)
        place = self._place(manifest.shard, manifest.exchange_id)
        try:
            with replacement(into) as folder:
                for file in manifest.files:
                    fetch(self._blobs, blob_name(place, manifest.owner, file), file, folder)
        except OSError as error:
            msg = (
                f"can't restore shard {manifest.shard} to {into}: {error.strerror or error}; the"
                " folder needs space and permission"
            )
            raise ConfigError(msg) from error

    def prune(self, shard: int, *, exchange_id: str) -> None:
        """Delete all but the newest checkpoints, and the files that no checkpoint names.

        Only what this writer owns and what owners left that are gone, so that nothing is deleted
        that anyone is about to name.
        """
        place = self._place(shard, exchange_id)
        # In this order: who has stored a file has shown itself before.
        files = self._blobs.find(f"{place}/files/")
        shown = self._owners.shown(place)
        marked = set(shown)
        checkpoints = []
        for info in self._blobs.find(f"{place}/manifests/"):
            if (one := StoredCheckpoint.parse(shard, info.name)) is not None:
                checkpoints.append(one)
                shown[one.owner] = max(shown.get(one.owner, 0), info.modified_us)
        checkpoints.sort(reverse=True)
        kept, rest = checkpoints[: self._keep], checkpoints[self._keep :]
        owners = marked | shown.keys() | {_owner_of_file(info.name) for info in files}
        ours = {o for o in owners if self._owners.may_delete(place, o, shown.get(o, 0))}
        self._blobs.delete([one.name for one in rest if one.owner in ours])
        named: set[str] = set()
        for one in kept:
            if one.owner not in ours:
                continue
            try:
                manifest = self._manifest(one)
            except StateError:
                ours.discard(one.owner)  # nobody knows what it names
                continue
            named |= {blob_name(place, one.owner, file) for file in manifest.files}
        unnamed = [info.name for info in files if info.name not in named]
        self._blobs.delete([name for name in unnamed if _owner_of_file(name) in ours])
        left = {one.owner for one in kept}
        self._owners.bury(
            place, {o for o in marked - left if self._owners.is_gone(o, shown[o]) and o in ours}
        )

    def _place(self, shard: int, exchange_id: str) -> str:
        namespace, exchange = quote(self._namespace, safe=""), quote(exchange_id, safe="")
        return f"{namespace}/{exchange}/shard-{shard:03}"

    def _manifest(self, checkpoint: StoredCheckpoint) -> CheckpointManifest:
        where = self._blobs.path(checkpoint.name)
        try:
            manifest = unpack(self._blobs.get(checkpoint.name), where)
        except MissingBlobError as error:
            msg = f"checkpoint {where} is missing; use another one, or rebuild from the log"
            raise StateError(msg) from error
        place = self._place(manifest.shard, manifest.exchange_id)
        if manifest.namespace != self._namespace or checkpoint.name != manifest_name(
            place, manifest
        ):
            msg = (
                f"checkpoint {where} is that of shard {manifest.shard} at offset"
                f' {manifest.next_offset} in "{manifest.namespace}": files were moved; use an older'
                " checkpoint, or rebuild from the log"
            )
            raise StateError(msg)
        return manifest


def _owner_of_file(name: str) -> str:
    return last_part(name).rpartition("=")[0]
