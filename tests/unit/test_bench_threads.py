from __future__ import annotations

import sys
import threading

import pytest

from bench.threads import cpu_s_by_name, threads_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_every_thread_of_a_process_is_told_with_what_it_used() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        found = {number: seconds for number, _, seconds in threads_of("self")}
    finally:
        stop.set()
        thread.join()
    assert {threading.get_native_id(), thread.native_id} <= found.keys()
    assert all(seconds >= 0 for seconds in found.values())


def test_threads_of_one_kind_count_as_one(monkeypatch) -> None:
    stats = [(1, "GC Thread#0", 100), (2, "GC Thread#11", 50), (3, "rdk:broker-1", 25)]
    monkeypatch.setattr(
        "bench.threads.threads_of", lambda _pid: [(n, name, t / 100) for n, name, t in stats]
    )
    assert cpu_s_by_name(7) == {"GC Thread": 1.5, "rdk:broker": 0.25}


def test_a_process_that_is_not_ours_tells_nothing() -> None:
    assert cpu_s_by_name(None) == {}
    assert list(threads_of(2**30)) == []
