"""A plan as one JSON document: what the registry keeps and workers read.

A document carries its namespace, its engine's stamp and a checksum, and beside each view and
service the fingerprint that must come out again. No pickle, no source text.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from headwater.errors import DefinitionError, StateError
from headwater.plan.packed import Packed
from headwater.plan.plan import compile_plan
from headwater.plan.stamp import engine_stamp

if TYPE_CHECKING:
    from headwater.plan.plan import Plan

__all__ = ["DOCUMENT_BYTES_MAX", "Document", "read_document", "write_document"]

DOCUMENT_BYTES_MAX = 16 << 20

_FORMAT = 1
_CURE = "apply the definitions again: headwater apply"
# What hand-made or foreign definitions can raise while they are put together.
_MISFITS = (
    IndexError, KeyError, RecursionError, TypeError, ValueError, pl.exceptions.PolarsError,
)  # fmt: skip


class Document(msgspec.Struct, frozen=True):
    """The envelope: readable whatever engine wrote the definitions in it."""

    format: int
    namespace: str = ""
    engine: str = ""
    sha256: str = ""
    definitions: msgspec.Raw = msgspec.Raw()

    @classmethod
    def decode(cls, content: bytes) -> Document:
        """Return the envelope of a document; raise StateError if it is cut, changed or too big."""
        if len(content) > DOCUMENT_BYTES_MAX:
            msg = (
                f"the stored plan has {len(content)} bytes, at most {DOCUMENT_BYTES_MAX} are read;"
                " split the definitions into two namespaces"
            )
            raise StateError(msg)
        try:
            found = msgspec.json.decode(content, type=cls)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            msg = f"the stored plan is damaged ({error}); {_CURE}"
            raise StateError(msg) from error
        if found.format != _FORMAT:
            msg = (
                f"the stored plan has format {found.format}, this version reads {_FORMAT}; use the"
                " version that wrote it"
            )
            raise StateError(msg)
        if _sha256(found.definitions) != found.sha256:
            msg = f"the stored plan fails its checksum: it was changed or cut; {_CURE}"
            raise StateError(msg)
        return found

    @property
    def is_of_this_engine(self) -> bool:
        """Whether the engine that wrote it computes the same values as this one."""
        return self.engine == str(engine_stamp())

    def packed(self) -> Packed:
        """Return the definitions as plain data, whatever engine wrote them."""
        try:
            return msgspec.json.decode(self.definitions, type=Packed)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _unreadable(error) from error

    def plan(self, namespace: str) -> Plan:
        """Return the compiled plan; raise StateError if it is of another namespace or engine."""
        if self.namespace != namespace:
            msg = (
                f'the stored plan is of namespace "{self.namespace}", not "{namespace}"; apply the'
                f" definitions to this one: headwater apply --namespace {namespace}"
            )
            raise StateError(msg)
        if not self.is_of_this_engine:
            msg = (
                f"the stored plan is of the engine {self.engine}, this is {engine_stamp()}: values"
                f" could differ; run the same versions, or {_CURE}"
            )
            raise StateError(msg)
        packed = self.packed()
        try:
            plan = compile_plan(packed.definitions())
        except _MISFITS as error:
            raise _unreadable(error) from error
        _check(packed, plan)
        return plan


def write_document(plan: Plan, namespace: str) -> bytes:
    """Return a plan as a document; equal plans give equal bytes.

    Raises DefinitionError for a type that can't be stored, and for a document that is too big.
    """
    definitions = msgspec.Raw(msgspec.json.encode(Packed.of(plan)))
    envelope = Document(_FORMAT, namespace, str(plan.stamp), _sha256(definitions), definitions)
    content = msgspec.json.encode(envelope)
    if len(content) > DOCUMENT_BYTES_MAX:
        msg = (
            f"the definitions take {len(content)} bytes, at most {DOCUMENT_BYTES_MAX} can be"
            " stored; split them into two namespaces"
        )
        raise DefinitionError(msg)
    return content


def read_document(content: bytes, namespace: str) -> Plan:
    """Return the plan of a document: its fingerprints, revisions and layouts are as they were.

    Raises StateError for a document that is damaged, of another namespace, or of another engine.
    """
    return Document.decode(content).plan(namespace)


def _check(packed: Packed, plan: Plan) -> None:
    """Refuse definitions that mean something else than what was written."""
    written = {f"view {name}": one.fingerprint for name, one in packed.views.items()}
    written |= {f"service {name}": one.revision for name, one in packed.services.items()}
    read = {f"view {name}": one.fingerprint for name, one in plan.views.items()}
    read |= {f"service {name}": one.revision for name, one in plan.services.items()}
    for name in {**written, **read}:
        if written.get(name) != read.get(name):
            msg = (
                f"the stored plan's {name} reads as {read.get(name)} and was written as"
                f" {written.get(name)}; {_CURE}"
            )
            raise StateError(msg)


def _unreadable(error: Exception) -> StateError:
    return StateError(f"the stored plan can't be read ({' '.join(str(error).split())}); {_CURE}")


def _sha256(definitions: msgspec.Raw) -> str:
    return hashlib.sha256(bytes(definitions)).hexdigest()
