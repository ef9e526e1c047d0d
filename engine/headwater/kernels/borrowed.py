"""Borrowed arrays: views without a reference count, for the length of one kernel call.

Numba counts references to every array it passes on, with an atomic add each way; for small kernels
called per tile that costs more than the work. A borrowed array has no owner, so there is nothing to
count. The caller of the outermost kernel holds the real one until the kernel returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["borrowed"]

_A = TypeVar("_A")


def _typed_borrowed(_typing: Any, array: Any) -> Any:  # noqa: ANN401 - Numba's signature
    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        source = context.make_array(array)(context, builder, arguments[0])
        target = context.make_array(array)(context, builder)
        cgutils.copy_struct(target, source)
        target.meminfo = cgutils.get_null_value(target.meminfo.type)
        target.parent = cgutils.get_null_value(target.parent.type)
        return target._getvalue()  # noqa: SLF001 - how Numba's own intrinsics return a struct

    return array(array), codegen


# Returns the same array without an owner; it must not outlive the call.
borrowed: Callable[[_A], _A] = intrinsic(_typed_borrowed)
