"""Prefetch: ask for a cache line some events before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["prefetch"]


def _typed_prefetch(_typing: Any, array: Any, _index: Any) -> Any:  # noqa: ANN401
    signature = types.void(array, types.int64)

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        data = context.make_array(array)(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        word = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch.p0",
            (),
            ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word]),
        )
        # Read, kept in all levels, data.
        builder.call(function, [address, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return signature, codegen


# Asks for the cache line of `array[index]` (one dimension, contiguous); no effect on values.
prefetch: Callable[[NDArray[Any], int], None] = intrinsic(_typed_prefetch)
