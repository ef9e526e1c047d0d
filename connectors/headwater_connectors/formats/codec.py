"""Codecs: one per format, all under the decode law."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from headwater_connectors.formats.avro import AvroCodec
from headwater_connectors.formats.decoded import REASONS, Decoded, Reason, Reject
from headwater_connectors.formats.json import JsonCodec
from headwater_connectors.formats.options import NO_OPTIONS, CodecOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

__all__ = [
    "CODECS",
    "REASONS",
    "Codec",
    "CodecFactory",
    "CodecOptions",
    "Decoded",
    "Reason",
    "Reject",
]


class Codec(Protocol):
    """Turns the values of records into typed columns.

    The decode law: `decode(batch)` equals the concatenation of `decode` of each value alone, in
    the bits of the frame and in the rejects, for any values and any batch. It may only fail as a
    whole where the outside world does (a schema registry that can't be reached), and then returns
    nothing: neither rows nor rejects.
    """

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch; a value that is no row becomes a reject and never stops the others."""
        ...


class CodecFactory(Protocol):
    """Makes a codec for one schema.

    Raises DefinitionError for a type the format can't carry and for options it doesn't know.
    """

    def __call__(
        self,
        schema: Mapping[str, pl.DataType],
        value_bytes_max: int = ...,
        options: CodecOptions = NO_OPTIONS,
    ) -> Codec:
        """Return the codec of a schema, refusing values of more bytes than the maximum."""
        ...


# One row per format, by the name that a stream's definition gives it.
CODECS: Mapping[str, CodecFactory] = MappingProxyType({"avro": AvroCodec, "json": JsonCodec})
