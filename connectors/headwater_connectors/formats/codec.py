"""Codecs: one per format, all under the decode law."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from headwater_connectors.formats.decoded import REASONS, Decoded, Reason, Reject
from headwater_connectors.formats.json import JsonCodec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

__all__ = ["CODECS", "REASONS", "Codec", "CodecFactory", "Decoded", "Reason", "Reject"]


class Codec(Protocol):
    """Turns the values of records into typed columns.

    The decode law: `decode(batch)` equals the concatenation of `decode` of each value alone, in
    the bits of the frame and in the rejects, for any values and any batch.
    """

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch; a value that is no row becomes a reject and never stops the others."""
        ...


class CodecFactory(Protocol):
    """Makes a codec for one schema; raises DefinitionError for a type the format can't carry."""

    def __call__(self, schema: Mapping[str, pl.DataType], value_bytes_max: int = ...) -> Codec:
        """Return the codec of a schema, refusing values of more bytes than the maximum."""
        ...


CODECS: Mapping[str, CodecFactory] = MappingProxyType({"json": JsonCodec})
