"""What a request to a service of a plan looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.flow.answer import RequestError, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from headwater.plan.plan import Plan, ViewPlan

__all__ = ["join_keys_of", "service_info"]


def service_info(plan: Plan, name: str) -> ServiceInfo:
    """Return what a request to a service looks like; raise NotFoundError for an unknown one."""
    found = plan.service(name)
    service = found.service
    names = service.column_names()
    return ServiceInfo(
        name=name,
        revision=found.revision,
        join_keys=join_keys_of(found.views),
        request_inputs={one.name: one.dtype for od in service.on_demands for one in od.request},
        entities={view.entity.name: view.entity.key for view in found.views},
        features={n: dtype for n, (_, _, dtype) in zip(names, service.columns, strict=True)},
    )


def join_keys_of(views: Sequence[ViewPlan]) -> dict[str, pl.DataType]:
    """Return the keys to ask for some views with; raise RequestError where their types differ."""
    keys: dict[str, pl.DataType] = {}
    for view in views:
        for key, dtype in view.key_dtypes.items():
            if keys.setdefault(key, dtype) != dtype:
                msg = (
                    f'key "{key}" is {dtype} in view "{view.view.name}" and {keys[key]} in another;'
                    " ask for their features in two requests"
                )
                raise RequestError(msg)
    return keys
