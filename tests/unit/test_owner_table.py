"""The owner table: looked up in the background and on demand, never in a caller's way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from headwater.errors import HeadwaterError
from headwater_serving.owner_table import OwnerTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE_S = 20.0


class Kafka:
    """Says who owns what, when it is let."""

    def __init__(self) -> None:
        self.answer: Mapping[int, str] | Exception | None = {0: "a"}
        self.looks = 0
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()

    def look(self) -> Mapping[int, str] | None:
        self.looks += 1
        self.entered.set()
        assert self.hold.wait(PATIENCE_S)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


@pytest.fixture
def table(kafka: Kafka) -> Iterator[OwnerTable]:
    made = OwnerTable(kafka.look, every_s=PATIENCE_S, pause_s=0.0)
    yield made
    kafka.hold.set()
    made.close()


def test_nobody_is_asked_before_the_table_is_used(kafka: Kafka, table: OwnerTable) -> None:
    assert kafka.looks == 0
    assert table.refresh(PATIENCE_S) == {0: "a"}
    assert table.known() == {0: "a"}


def test_what_is_known_is_there_at_once_however_long_a_look_takes(
    kafka: Kafka, table: OwnerTable
) -> None:
    assert table.refresh(PATIENCE_S) == {0: "a"}
    kafka.hold.clear()
    kafka.answer = {0: "b"}
    assert table.refresh(0.01) == {0: "a"}
    assert table.known() == {0: "a"}
    kafka.hold.set()
    assert table.refresh(PATIENCE_S) == {0: "b"}


def test_a_wrong_table_waits_for_a_look_that_begins_after_it(
    kafka: Kafka, table: OwnerTable
) -> None:
    kafka.hold.clear()
    table.known()
    assert kafka.entered.wait(PATIENCE_S)
    found = []
    caller = threading.Thread(target=lambda: found.append(table.refresh(PATIENCE_S, is_wrong=True)))
    caller.start()
    kafka.entered.clear()
    kafka.hold.set()  # the look that was under way may have seen too little
    caller.join(PATIENCE_S)
    assert found == [{0: "a"}]
    assert kafka.looks >= 2


def test_looks_are_not_repeated_in_a_hurry(kafka: Kafka) -> None:
    table = OwnerTable(kafka.look, every_s=PATIENCE_S, pause_s=PATIENCE_S)
    for _ in range(50):
        assert table.refresh(PATIENCE_S) == {0: "a"}
    assert kafka.looks == 1
    table.close()


def test_a_wrong_table_is_looked_up_anew_however_new_it_is(kafka: Kafka) -> None:
    table = OwnerTable(kafka.look, every_s=PATIENCE_S, pause_s=0.01)
    table.refresh(PATIENCE_S)
    for n in range(1, 5):
        kafka.answer = {0: f"w{n}"}
        assert table.refresh(PATIENCE_S, is_wrong=True) == {0: f"w{n}"}
    table.close()


@pytest.mark.parametrize("answer", [None, HeadwaterError("no broker"), KeyError("surprise")])
def test_a_look_that_finds_nothing_leaves_the_table(
    kafka: Kafka, table: OwnerTable, answer: Exception | None
) -> None:
    table.refresh(PATIENCE_S)
    kafka.answer = answer
    assert table.refresh(PATIENCE_S) == {0: "a"}
    kafka.answer = {1: "b"}
    assert table.refresh(PATIENCE_S) == {1: "b"}


def test_the_table_is_looked_up_now_and_then_by_itself(kafka: Kafka) -> None:
    table = OwnerTable(kafka.look, every_s=0.01)
    table.refresh(PATIENCE_S)
    kafka.answer = {0: "b"}
    deadline = threading.Event()
    for _ in range(2_000):
        if table.known() == {0: "b"}:
            break
        deadline.wait(0.01)
    assert table.known() == {0: "b"}
    table.close()


def test_a_closed_table_keeps_what_it_knows(kafka: Kafka, table: OwnerTable) -> None:
    table.refresh(PATIENCE_S)
    table.close()
    assert table.known() == table.refresh(PATIENCE_S) == {0: "a"}
    assert kafka.looks == 1
    unused = OwnerTable(kafka.look)
    unused.close()
    assert unused.refresh(0.01) == {}
