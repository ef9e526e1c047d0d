"""Audits across plans that a running worker took on: each vector goes by the plan of its time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from audit_harness import Taken, by_shop, by_user, history_of, opened, payments, service
from harness import BASE_US, SECOND_US, moment

import headwater as hw
from headwater.flow.running import Running
from headwater.offline.audit import Audit
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from headwater.local_store import LocalStore
    from headwater.plan.plan import Plan

NEWER = hw.view(
    "by_user",
    version=2,
    features=payments.group_by(hw.entity("user", key="user"))
    .window("1h")
    .agg(n=hw.count(), low=hw.min("x")),
)
CUT_OVER = hw.service("payers", [NEWER, by_shop])
USERS = [f"u{n}" for n in range(6)]


def push(store: LocalStore, first: int) -> None:
    rows = [
        {"user": USERS[n % 6], "shop": n % 4, "x": n / 3, "at": BASE_US + n * SECOND_US}
        for n in range(first, first + 50)
    ]
    store.push("payments", rows)


def adopt(store: LocalStore, number: int, plan: Plan) -> None:
    store.worker.adoption.offer(Running.of(plan, number))
    deadline = time.monotonic() + 60
    while store.worker.current.now.number != number:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def ask(store: LocalStore, **more: object) -> None:
    at = moment(BASE_US + 300 * SECOND_US)
    store.answer("payers", at=at, user=USERS, shop=[n % 4 for n in range(6)], **more)


def test_what_was_served_before_and_after_a_cut_over_is_audited_together() -> None:
    first, second = compile_plan([service]), compile_plan([by_user, CUT_OVER])
    with opened() as store:
        taken = store.worker.reader.samples = Taken()  # type: ignore[assignment]
        push(store, 0)
        ask(store, amount=[1.5] * 6)
        store.settle()
        ask(store, amount=[1.5] * 6)
        adopt(store, 2, second)
        # In the middle of its past, and when it is there.
        push(store, 50)
        ask(store)
        store.settle()
        ask(store)
        # Taken away and back again: it begins anew.
        adopt(store, 3, first)
        push(store, 100)
        adopt(store, 4, second)
        push(store, 150)
        store.settle()
        ask(store)
        history = history_of(store)
        plans, starts = (second, first), store.worker.starts
        found = Audit(plans, taken.blocks(), lambda _plan: history, starts).run()
    assert [sample.origin.plan_number for sample in taken.samples] == [0, 0, 2, 2, 4]
    assert found.differences == []
    assert found.vectors == 5 * 6
    assert found.compared >= 2 * 13 * 6 + 2 * 4 * 6
    assert set(found.not_compared) <= {"the view's past was still on its way, so it has no value"}
