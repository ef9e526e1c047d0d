"""The drivers: plain and Bytewax run the same stages over the same batches, and end alike."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, click, clicks, moment

import headwater as hw
from headwater.errors import StateError
from headwater.flow import plain_driver
from headwater.flow.pipeline import Pipeline, Tick

if TYPE_CHECKING:
    from collections.abc import Sequence

# Bytewax has no wheels for Python 3.13 and later.
needs_bytewax = pytest.mark.skipif(
    importlib.util.find_spec("bytewax") is None, reason="Bytewax is not installed here"
)
DRIVERS = ["plain_driver", pytest.param("bytewax_driver", marks=needs_bytewax)]
WAIT_S = 60


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"headwater.flow.{request.param}")


class Source:
    """Gives its batches one poll each, with ticks, and then only ticks."""

    def __init__(self, polls: Sequence[Sequence[Any]]) -> None:
        self._polls = list(polls)
        self.count = 0

    def poll(self) -> list[Any]:
        self.count += 1
        found = self._polls.pop(0) if self._polls else []
        return [*found, Tick(self.count, idle=not found)]

    def close(self) -> None:
        pass


class Sink:
    """A last stage that keeps what it gets and stops the run after an idle tick of each source."""

    def __init__(self, stop: threading.Event, sources: int = 1) -> None:
        self.calls: list[list[Any]] = []
        self._stop = stop
        self._left = sources

    def stage(self) -> Any:
        ended = False

        def keep(batches: Sequence[Any]) -> list[Any]:
            nonlocal ended
            self.calls.append(list(batches))
            if not ended and any(isinstance(b, Tick) and b.idle for b in batches):
                ended = True
                self._left -= 1
                if not self._left:
                    self._stop.set()
            return []

        return keep

    @property
    def batches(self) -> list[Any]:
        return [one for call in self.calls for one in call if not isinstance(one, Tick)]

    @property
    def ticks(self) -> list[Tick]:
        return [one for call in self.calls for one in call if isinstance(one, Tick)]


def ended_in_time(run: Any) -> None:
    """Run in a thread, so that a driver that doesn't end fails the test and not the session."""
    errors: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive(), "the driver did not end"
    if errors:
        raise errors[0]


def double(batches: Sequence[Any]) -> list[Any]:
    return [b if isinstance(b, Tick) else b * 2 for b in batches]


def test_every_batch_goes_through_every_stage_in_order(driver: Any) -> None:
    stop = threading.Event()
    sink = Sink(stop)
    source = Source([["a"], ["b", "c"], [], ["d"]])
    pipeline = Pipeline("some.name", source, (double, double, sink.stage()))
    # The idle poll in the middle stops it; what came before is through.
    ended_in_time(lambda: driver.run([pipeline], stop))
    assert sink.batches[:3] == ["aaaa", "bbbb", "cccc"]


def test_what_one_poll_brings_reaches_a_stage_together(driver: Any) -> None:
    stop = threading.Event()
    sink = Sink(stop)
    pipeline = Pipeline("p", Source([["a", "b"], ["c"]]), (double, sink.stage()))
    ended_in_time(lambda: driver.run([pipeline], stop))
    assert sink.calls[0] == ["aa", "bb", Tick(1, idle=False)]
    assert sink.calls[1] == ["cc", Tick(2, idle=False)]


def test_ticks_come_with_every_poll_and_when_nothing_does(driver: Any) -> None:
    stop = threading.Event()
    sink = Sink(stop)
    ended_in_time(lambda: driver.run([Pipeline("p", Source([["a"]]), (sink.stage(),))], stop))
    assert sink.ticks[:2] == [Tick(1, idle=False), Tick(2, idle=True)]


def test_every_pipeline_gets_its_turn(driver: Any) -> None:
    stop = threading.Event()
    sink = Sink(stop, sources=3)
    names = ["a.b", "a_b", "c"]  # the first two are one name to a careless driver
    pipelines = [
        Pipeline(name, Source([[f"{name} {n}"] for n in range(3)]), (sink.stage(),))
        for name in names
    ]
    ended_in_time(lambda: driver.run(pipelines, stop))
    assert sorted(sink.batches) == sorted(f"{name} {n}" for name in names for n in range(3))


def test_a_run_that_is_stopped_already_does_nothing(driver: Any) -> None:
    stop = threading.Event()
    stop.set()
    source = Source([["a"]])
    ended_in_time(lambda: driver.run([Pipeline("p", source, (double,))], stop))
    assert source.count == 0


def test_stop_ends_an_idle_run(driver: Any) -> None:
    stop = threading.Event()
    polled = threading.Event()

    def watch(batches: Sequence[Any]) -> list[Any]:
        polled.set()
        return []

    threading.Thread(target=lambda: polled.wait(WAIT_S) and stop.set(), daemon=True).start()
    ended_in_time(lambda: driver.run([Pipeline("p", Source([]), (watch,))], stop))


class _OddError(Exception):
    pass


@pytest.mark.parametrize("where", ["first stage", "second stage", "source"])
@pytest.mark.parametrize("kind", [_OddError, StateError])
def test_what_a_stage_or_a_source_raises_ends_the_run(driver: Any, where: str, kind: Any) -> None:
    stop = threading.Event()
    after: list[Any] = []

    def fail(*_batches: Any) -> list[Any]:
        raise kind("this very error")

    source: Any = Source([["a"], ["b"]])
    stages: list[Any] = [double, double, lambda batches: after.extend(batches) or []]
    if where == "source":
        source.poll = fail
    else:
        stages[0 if where == "first stage" else 1] = fail
    other = Pipeline("other", Source([["x"]] * 3), (double,))
    with pytest.raises(kind, match=r"^this very error$"):
        ended_in_time(lambda: driver.run([Pipeline("p", source, tuple(stages)), other], stop))
    assert after == []
    assert not stop.is_set()  # whose flag it is decides what else ends


@needs_bytewax
def test_a_users_operators_see_every_pipelines_batches() -> None:
    import bytewax.operators as op

    from headwater.flow import bytewax_driver

    stop = threading.Event()
    sink = Sink(stop, sources=2)

    def via(stream: Any) -> Any:
        marked = op.map("mark", stream, lambda b: b if isinstance(b, Tick) else f"<{b}>")
        return op.filter("drop", marked, lambda b: b != "<b>")

    pipelines = [Pipeline(n, Source([["a"], ["b"], ["c"]]), (sink.stage(),)) for n in "pq"]
    ended_in_time(lambda: bytewax_driver.run(pipelines, stop, via=via))
    assert sorted(sink.batches) == ["<a>", "<a>", "<c>", "<c>"]


def values(driver: Any, **more: Any) -> list[pl.DataFrame]:
    t = moment(BASE_US + 4_000 * SECOND_US)
    rows = [click(n, user=f"u{n % 7}", page=n % 3, x=n / 8) for n in range(500)]
    with hw.local([clicks()], driver=driver, clock=lambda: BASE_US, **more) as store:
        for n in range(0, 500, 100):
            store.push("clicks", rows[n : n + 100], arrival=t)
        store.settle()
        asked = {"user": [f"u{n}" for n in range(8)], "page": list(range(8))}
        spine = pl.DataFrame({**asked, "t": [t - timedelta(seconds=300 * n) for n in range(8)]})
        return [
            store.online("clicks_of", at=t, **asked),
            store.training_set("clicks_of", spine, time="t").collect(),
        ]


@needs_bytewax
def test_a_local_store_has_the_same_values_on_bytewax(tmp_path: Any) -> None:
    import bytewax.operators as op

    from headwater.flow import bytewax_driver, plain_driver

    def via(stream: Any) -> Any:
        return op.map("as it is", stream, lambda batch: batch)

    wanted = values(plain_driver.run)
    assert wanted[0]["n_lifetime"].sum() == 500
    with_operators = functools.partial(bytewax_driver.run, via=via)
    # With a folder a source is ingested and archived by one dataflow.
    for run, more in (
        (bytewax_driver.run, {}),
        (with_operators, {"path": tmp_path / "store", "partitions": 2}),
    ):
        for got, one in zip(values(run, **more), wanted, strict=True):
            assert got.equals(one)


def test_a_task_that_dies_ends_the_local_store_with_its_error(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.flow.shard_task import ShardTask
    from headwater_connectors.log.log import OffsetLostError

    def fail(*_args: Any) -> None:
        raise OffsetLostError("clicks", 0, 2, 5, 9)

    store = hw.local([clicks()], driver=driver.run, clock=lambda: BASE_US)
    store.push("clicks", [click(0)])
    store.settle()
    monkeypatch.setattr(ShardTask, "_apply", fail)
    store.push("clicks", [click(0)])
    for call in (store.settle, lambda: store.online("clicks_of", user=["a"], page=[1])):
        with pytest.raises(OffsetLostError, match="offset 2 is below the log's start 5"):
            call()
    store.close()


def test_the_plain_driver_does_not_wait_after_work_that_a_stage_had_of_its_own() -> None:
    class Stop:
        """Counts the waits; it is set when the work is done."""

        def __init__(self) -> None:
            self.waits = 0

        def is_set(self) -> bool:
            return not left

        def wait(self, _seconds: float) -> None:
            self.waits += 1

    left = [True] * 5

    def work(batches: Sequence[Any]) -> list[Any]:
        left.pop()
        return [replace(batch, idle=len(left) == 2) for batch in batches]

    stop = Stop()
    plain_driver.run([Pipeline("p", Source([]), (work,))], stop)  # type: ignore[arg-type]
    assert stop.waits == 1
