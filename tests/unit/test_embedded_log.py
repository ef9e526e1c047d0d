"""The embedded log: durable, held by one process, and clear about a folder it can't use."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ConfigError, StateError
from headwater_connectors.log import DeliveryError, EmbeddedLog, Limits, OffsetLostError
from headwater_connectors.log.batch import Batch
from headwater_connectors.log.cache import BatchCache
from headwater_connectors.log.frame import FrameError, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headwater_connectors.log import Log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


def read_all(log: Log, topic: str, partition: int = 0) -> list[bytes | None]:
    """Return the values of a partition, from its start to its end."""
    start, end = log.start_offsets(topic)[partition], log.end_offsets(topic)[partition]
    consumer = log.consumer(None)
    consumer.assign(topic, {partition: start})
    values: list[bytes | None] = []
    while len(values) < end - start:
        (records,) = consumer.poll(1_000, 0)
        assert records.offsets[0] == start + len(values)
        values += records.values
    return values


def send(log: Log, values: list[bytes], topic: str = "t", partition: int = 0) -> None:
    producer = log.producer()
    producer.send_many(topic, partition, values)
    producer.close()


def made(folder: Path, partitions: int = 1) -> EmbeddedLog:
    log = EmbeddedLog(folder)
    log.create_topic("t", partitions=partitions, append_time=False)
    return log


# Durability


def test_a_log_is_reopened_as_it_was_left(folder: Path) -> None:
    log = made(folder, partitions=2)
    log.create_topic("u", partitions=1, append_time=True)
    log.create_topic("gone", partitions=1, append_time=True)
    log.delete_topic("gone")
    producer = log.producer()
    producer.send("t", 0, None, key=b"k", headers=(("a", b"\x00"),), timestamp_us=-1)
    producer.send_many("t", 1, [b"%d" % n for n in range(100)])
    producer.flush()
    producer.send("t", 0, b"never flushed")
    log.delete_records("t", {1: 42})
    log.consumer("g").commit("t", {0: 1, 1: 50})
    topics = log.topics()
    log.close()

    log = EmbeddedLog(folder)
    assert log.topics() == topics
    assert log.start_offsets("t") == [0, 42]
    assert log.end_offsets("t") == [1, 100]
    assert log.consumer("g").committed("t") == {0: 1, 1: 50}
    consumer = log.consumer(None)
    consumer.assign("t", {0: 0})
    (records,) = consumer.poll(10, 0)
    assert (records.values, records.keys) == ((None,), (b"k",))
    assert (records.headers, records.timestamps_us.tolist()) == (((("a", b"\x00"),),), [-1])
    send(log, [b"100"], partition=1)
    assert read_all(log, "t", 1) == [b"%d" % n for n in range(42, 101)]
    log.close()


def test_an_emptied_partition_keeps_its_end(folder: Path) -> None:
    log = made(folder)
    send(log, [b"x"] * 10)
    log.delete_records("t", {0: 10})
    log.close()
    log = EmbeddedLog(folder)
    assert (log.start_offsets("t"), log.end_offsets("t")) == ([10], [10])
    log.close()


WRITER = """
import sys
from headwater_connectors.log import EmbeddedLog

log = EmbeddedLog(sys.argv[1])
log.create_topic("t", partitions=2, append_time=True)
consumer = log.consumer("g")
producer = log.producer()
n = log.end_offsets("t")[0]
while True:
    size = 1 + n % 700
    values = [b"%d-" % i + b"x" * (i % 90) for i in range(n, n + size)]
    producer.send_many("t", 0, values)
    for value in values:
        producer.send("t", 1, value)
    producer.flush()
    n += size
    consumer.commit("t", {0: n})
    if n > 3000:
        log.delete_records("t", {0: n - 3000, 1: n - 3000})
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill_and_no_flush_is_torn(folder: Path) -> None:
    ends = [0]
    for lines in (1, 3, 7, 20, 60):
        command = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged = 0
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            # It went on between the last line we read and its death.
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        assert writer.returncode == -signal.SIGKILL
        log = EmbeddedLog(folder)
        end, other_end = log.end_offsets("t")
        assert end >= acknowledged > ends[-1]
        assert end == other_end, "one flush, one transaction"
        assert log.consumer("g").committed("t")[0] in {end, acknowledged}
        for partition, start in enumerate(log.start_offsets("t")):
            expected = [b"%d-" % i + b"x" * (i % 90) for i in range(start, end)]
            assert read_all(log, "t", partition) == expected
        ends.append(end)
        log.close()


def test_a_sweep_cut_short_by_a_kill_is_finished_at_the_next_opening(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = made(folder)
    log.create_topic("gone", partitions=1, append_time=False)
    for n in range(200):
        send(log, [b"%d" % n])
        send(log, [b"x"], "gone")
    # As if the process had died before it freed anything.
    monkeypatch.setattr(log._storage, "sweep", lambda: False)
    log.delete_records("t", {0: 199})
    log.delete_topic("gone")
    log.close()
    assert _rows(folder) == 400
    log = EmbeddedLog(folder)
    assert read_all(log, "t") == [b"199"]
    log.close()
    assert _rows(folder) == 1


def test_the_space_of_deleted_records_is_used_again(folder: Path) -> None:
    log = made(folder)
    chunk = [os.urandom(100)] * 20_000
    sizes = []
    for n in range(1, 6):
        send(log, chunk)
        log.delete_records("t", {0: 20_000 * n})
        sizes.append(log._storage._writer.execute("PRAGMA page_count").fetchone()[0])
    log.close()
    assert sizes[-1] < 1.5 * sizes[0]


def test_a_flush_on_a_full_disk_fails_whole_and_the_log_goes_on(folder: Path) -> None:
    log = made(folder, partitions=2)
    send(log, [b"0"])
    writer = log._storage._writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 10}")
    producer = log.producer()
    producer.send("t", 0, b"1")
    producer.send_many("t", 1, [os.urandom(1_000)] * 3_000)
    with pytest.raises(DeliveryError, match=r"1 to t\[0\], 3000 to t\[1\].*full.*free space"):
        producer.flush()
    assert log.end_offsets("t") == [1, 0]
    writer.execute("PRAGMA max_page_count = 1000000")
    producer.send("t", 0, b"again")
    producer.flush()
    assert read_all(log, "t") == [b"0", b"again"]
    log.close()


# The bounds of a log inside one process


def test_a_full_buffer_is_appended_before_the_flush(folder: Path) -> None:
    log = EmbeddedLog(folder, limits=Limits(buffer_bytes_max=10_000, batch_bytes_max=1_000))
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    for n in range(1_000):
        producer.send("t", 0, b"%d" % n + bytes(100))
    assert log.end_offsets("t")[0] > 900
    producer.send_many("t", 0, [b"%d" % n + bytes(100) for n in range(1_000, 2_000)])
    assert log.end_offsets("t")[0] > 1_900
    producer.flush()
    assert read_all(log, "t") == [b"%d" % n + bytes(100) for n in range(2_000)]
    rows = log._storage._reader.execute("SELECT max(length(frame)) FROM batches").fetchone()
    assert rows[0] < 2_000
    log.close()


def test_a_poll_is_bounded_in_bytes(folder: Path) -> None:
    log = EmbeddedLog(folder, limits=Limits(batch_bytes_max=1_000, poll_bytes_max=5_000))
    log.create_topic("t", partitions=1, append_time=False)
    send(log, [b"x" * 100] * 1_000)
    consumer = log.consumer(None)
    consumer.assign("t", {0: 0})
    (records,) = consumer.poll(1_000, 0)
    assert 10 <= len(records) <= 60
    log.close()


def test_a_record_above_the_limit_is_refused_and_nothing_of_its_call_is_sent(
    folder: Path,
) -> None:
    log = EmbeddedLog(folder, limits=Limits(record_bytes_max=100))
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    producer.send("t", 0, b"v" * 60, key=b"k" * 40)
    with pytest.raises(DeliveryError, match=r"1 to t\[0\].*101 bytes is above the limit of 100"):
        producer.send("t", 0, b"v" * 60, key=b"k" * 41)
    with pytest.raises(DeliveryError, match=r"2 to t\[0\].*101 bytes"):
        producer.send_many("t", 0, [b"", b"x" * 101])
    producer.send_many("t", 0, [b"y" * 100] * 2)
    producer.flush()
    assert log.end_offsets("t") == [3]
    log.close()


def test_consumers_at_the_end_read_no_batch_from_the_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = made(folder)
    consumers = [log.consumer(None) for _ in range(3)]
    for consumer in consumers:
        consumer.assign("t", {0: 0})
    monkeypatch.setattr(log._storage, "_fetch", None)
    for n in range(5):
        send(log, [b"%d" % n])
        for consumer in consumers:
            assert [r.values for r in consumer.poll(10, 0)] == [(b"%d" % n,)]
    log.close()


def test_the_cache_forgets_what_was_unused_for_longest() -> None:
    def batch(size: int) -> Batch:
        return Batch(np.zeros(1, np.int64), (bytes(size),), None, None, size)

    one = batch(100).memory_bytes
    cache = BatchCache(3 * one)
    for base in (0, 1, 2):
        cache.put(7, base, batch(100))
    assert cache.find(7, 0) is not None
    cache.put(7, 3, batch(100))
    assert [cache.find(7, base) is not None for base in range(5)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert cache.find(8, 0) is None
    cache.put(7, 9, batch(1_000))
    assert cache.find(7, 9) is None
    assert cache.memory_bytes == 3 * one
    cache.drop(7, before=3)
    assert [cache.find(7, base) is not None for base in range(4)] == [False, False, False, True]
    assert cache.memory_bytes == one


# The folder


def test_a_second_opening_in_this_process_is_refused(folder: Path) -> None:
    log = EmbeddedLog(folder)
    with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()}; close it"):
        EmbeddedLog(folder)
    log.create_topic("t", partitions=1, append_time=False)
    log.close()
    EmbeddedLog(folder).close()


def test_an_opening_in_another_process_is_refused_until_that_one_dies(folder: Path) -> None:
    holder = """
        import sys, time
        from headwater_connectors.log import EmbeddedLog

        log = EmbeddedLog(sys.argv[1])
        print("open", flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(holder), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ConfigError, match=rf"in use by process {other.pid};"):
            EmbeddedLog(folder)
        other.kill()
    EmbeddedLog(folder).close()


def test_a_folder_with_other_files_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    for name in ("b.txt", "a.txt", "c.txt", "d.txt"):
        (folder / name).write_text("mine")
    with pytest.raises(StateError, match=r"holds other files \(a.txt, b.txt, c.txt, …\)"):
        EmbeddedLog(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "a.txt", "b.txt", "c.txt", "d.txt",
    ]  # fmt: skip


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(ConfigError, match="can't be used"):
        EmbeddedLog(folder)


def _garbage(database: Path) -> None:
    database.write_bytes(b"not a database" * 1_000)


def _foreign(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


def _older(database: Path) -> None:
    EmbeddedLog(database.parent).close()
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 0")
    connection.close()


def _malformed(database: Path) -> None:
    EmbeddedLog(database.parent).close()
    content = bytearray(database.read_bytes())
    # Keep the header and the schema, spoil every other page.
    content[16 << 10 :] = b"\xff" * (len(content) - (16 << 10))
    database.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_garbage, "not a database; it is damaged: restore it"),
        (_foreign, "database of another application; give another folder"),
        (_older, "has format 0, this release reads 1; open it with the release that wrote it"),
        (_malformed, "malformed; it is damaged: restore it"),
    ],
)
def test_a_database_that_cannot_be_read_is_named(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder.mkdir()
    database = folder / "log.sqlite"
    spoil(database)
    for _ in range(2):  # a refused opening does not hold the lock
        with pytest.raises(StateError, match=message) as caught:
            EmbeddedLog(folder)
        assert str(database) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_kill_while_the_database_is_laid_out_leaves_a_usable_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "log.lock").touch()
    connection = sqlite3.connect(folder / "log.sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    EmbeddedLog(folder).close()


def test_a_damaged_batch_is_named_and_the_next_one_can_be_read(folder: Path) -> None:
    log = made(folder)
    for n in range(3):
        send(log, [b"%d" % n] * 10)
    log.close()
    with sqlite3.connect(folder / "log.sqlite") as connection:
        (frame,) = connection.execute("SELECT frame FROM batches WHERE base = 10").fetchone()
        spoilt = frame[:-1] + bytes([frame[-1] ^ 1])
        connection.execute("UPDATE batches SET frame = ? WHERE base = 10", (spoilt,))
    connection.close()
    log = EmbeddedLog(folder)
    consumer = log.consumer(None)
    consumer.assign("t", {0: 0})
    with pytest.raises(StateError, match=r"log\.sqlite.*offsets 10 to 19 is damaged.*read from 20"):
        consumer.poll(30, 0)
    assert [len(r) for r in consumer.poll(10, 0)] == [10]
    consumer.assign("t", {0: 20})
    assert [len(r) for r in consumer.poll(10, 0)] == [10]
    log.close()


def test_a_missing_batch_is_a_named_hole(folder: Path) -> None:
    log = made(folder)
    producer = log.producer()
    for stamps in ([90] * 5 + [0] * 5, [0] * 10, [50] * 10):
        producer.send_many("t", 0, [b"x"] * 10, timestamps_us=stamps)
        producer.flush()
    log.close()
    with sqlite3.connect(folder / "log.sqlite") as connection:
        connection.execute("DELETE FROM batches WHERE base = 10")
    connection.close()
    log = EmbeddedLog(folder)
    consumer = log.consumer(None)
    consumer.assign("t", {0: 0})
    assert [len(r) for r in consumer.poll(30, 0)] == [10]
    with pytest.raises(StateError, match=r"t\[0\]: the record at offset 10 is missing"):
        consumer.poll(30, 0)
    # A search by time gets past it, also when what it looks for lies below the start.
    log.delete_records("t", {0: 5})
    assert log.offsets_at("t", 40) == [20]
    log.close()


def test_a_log_that_lost_its_tail_says_so_to_its_reader(folder: Path) -> None:
    log = made(folder)
    send(log, [b"x"] * 5)
    log.close()
    shutil.copytree(folder, folder.with_name("copy"))
    log = EmbeddedLog(folder)
    send(log, [b"x"] * 5)
    log.close()
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)
    log = EmbeddedLog(folder)
    consumer = log.consumer(None)
    consumer.assign("t", {0: 10})
    with pytest.raises(OffsetLostError, match="the log is shorter than it was"):
        consumer.poll(1, 0)
    log.close()


# Frames

ITEM = st.none() | st.binary(max_size=20)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3).map(tuple)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


@given(
    st.lists(st.tuples(INT64, ITEM, ITEM, HEADERS), min_size=1, max_size=20),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_a_frame_gives_back_its_batch_and_notices_a_changed_byte(
    rows: list[tuple], with_keys: bool, with_headers: bool, data: st.DataObject
) -> None:
    stamps, values, keys, headers = zip(*rows, strict=True)
    kept_keys, kept_headers = keys if with_keys else None, headers if with_headers else None
    frame = pack(Batch(np.array(stamps, np.int64), values, kept_keys, kept_headers, 0))
    batch = unpack(frame)
    assert batch.timestamps_us.tolist() == list(stamps)
    assert (batch.values, batch.keys, batch.headers) == (values, kept_keys, kept_headers)
    at = data.draw(st.integers(0, len(frame) - 1))
    changed = frame[:at] + bytes([frame[at] ^ data.draw(st.integers(1, 255))]) + frame[at + 1 :]
    with pytest.raises(FrameError):
        unpack(changed)
    with pytest.raises(FrameError):
        unpack(frame[:at])


def _rows(folder: Path) -> int:
    with sqlite3.connect(folder / "log.sqlite") as connection:
        (count,) = connection.execute("SELECT count(*) FROM batches").fetchone()
    connection.close()
    return count
