"""docs/changing-features.md on Kafka: every command says what the page says, beside a worker."""

from __future__ import annotations

import json
import re
import shlex
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from subprocess import run
from typing import TYPE_CHECKING

import pytest
from cluster_process import WorkerProcess, run_headwater, wait_until
from doc_page import blocks_of, commands_of, file_of

import headwater as hw
from headwater.cli.status import ask_worker
from headwater.errors import HeadwaterError
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[2] / "docs/changing-features.md"
# The page says of the embedded store that this is its namespace.
SETTINGS = """
namespace = "{namespace}"
[kafka]
bootstrap_servers = "{servers}"
[worker]
state = "state"
archive = "archive"
checkpoints = "checkpoints"
"""
CODES = {"headwater plan edited.py": 2}


class Reader:
    """Somebody who follows the page in an empty folder, on a broker with the topic it reads."""

    def __init__(self, broker: Broker, folder: Path, namespace: str) -> None:
        self.folder = folder
        self.checked = 0
        self.plan = 0
        settings = SETTINGS.format(namespace=namespace, servers=broker.bootstrap_servers)
        (folder / "headwater.toml").write_text(settings, encoding="utf-8")
        self.worker = WorkerProcess("one", folder, definitions=None)

    def write(self, text: str) -> str:
        """Write a block of Python to its file."""
        name = file_of(text) or "block.py"
        (self.folder / name).write_text("import headwater as hw\n" + text, encoding="utf-8")
        return name

    def run_script(self, text: str) -> None:
        done = run(
            [sys.executable, self.write(text)],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def command(self, command: str, lines: list[str], *more: str) -> None:
        """Run a command of the page; it must print the lines that the page shows."""
        arguments = [*shlex.split(command)[1:], *more]
        done = run_headwater(arguments, self.folder)
        said = f"{command}\n{done.stdout}{done.stderr}"
        assert done.returncode == CODES.get(command, 0), said
        for line in lines:
            assert line in done.stdout, said
            self.checked += 1
        applied = re.search(r"^applied: plan number (\d+)", done.stdout, re.MULTILINE)
        self.plan = int(applied[1]) if applied else self.plan

    def start_worker(self) -> None:
        self.worker.start()
        self.worker.wait_ready()

    def wait_total(self, shop: str, total: float) -> None:
        """Return when the worker answers this for a shop."""
        with hw.connect(self.worker.target, timeout_s=10) as store:

            def is_right() -> bool:
                try:
                    answer = store.online("till", shop=[shop])
                except HeadwaterError:
                    return False
                return answer["total_1h"].to_list() == [total]

            wait_until(is_right, self.worker.said)

    def wait_plan(self) -> None:
        wait_until(
            lambda: ask_worker(self.worker.target).plan == self.plan,
            lambda: ask_worker(self.worker.target),
        )


class Orders:
    """The topic of the page, with its events; those of other shops come now."""

    def __init__(self, log: KafkaLog) -> None:
        log.create_topic("orders", partitions=2, append_time=False)
        self.producer = log.producer()
        self.push("a", "2026-11-25T08:00:00Z", 9.5, -9.5, 20.0)

    def push(self, shop: str, at: str, *amounts: float) -> None:
        for amount in amounts:
            order = {"shop": shop, "amount": amount, "ordered_at": at}
            self.producer.send("orders", 0, json.dumps(order).encode())
        self.producer.flush()

    def push_now(self, shop: str) -> None:
        """Let a shop sell for 5 and take 2 back."""
        self.push(shop, datetime.now(UTC).isoformat(), 5.0, -2.0)


@pytest.fixture(scope="module")
def orders(broker: Broker) -> Iterator[Orders]:
    with closing(KafkaLog(broker.bootstrap_servers)) as log:
        made = Orders(log)
        yield made
        made.producer.close()


def test_the_page_holds_on_kafka_while_a_worker_runs(
    broker: Broker, tmp_path: Path, orders: Orders
) -> None:
    reader = Reader(broker, tmp_path, "local")
    try:
        for language, text in blocks_of(PAGE):
            if language == "python" and file_of(text):
                reader.write(text)
            elif language == "python" and "store.push(" in text and 'path="store"' in text:
                # What the page pushes into its folder is in the topic.
                reader.start_worker()
                reader.wait_plan()
            elif language == "python" and 'path="store"' in text:
                orders.push_now("b")
                reader.wait_total("b", 5.0)
            elif language == "python":
                reader.run_script(text)
            elif language == "console" and "--bootstrap-servers" not in text:
                for command, lines in commands_of(text.replace(" --folder store", "")):
                    reader.command(command, lines)
        assert reader.checked > 15
        reader.wait_plan()
        reader.wait_total("b", 5.0)
        assert reader.worker.stop() == 0
    finally:
        reader.worker.kill()


def test_the_sections_on_kafka_hold_by_themselves(
    broker: Broker, tmp_path: Path, orders: Orders
) -> None:
    reader = Reader(broker, tmp_path, "shop")
    try:
        for language, text in blocks_of(PAGE):
            if language == "python" and file_of(text):
                reader.write(text)
            elif language == "console" and "--bootstrap-servers" in text:
                here = text.replace("127.0.0.1:9092", broker.bootstrap_servers)
                for command, lines in commands_of(here):
                    if command.startswith("headwater run "):
                        reader.start_worker()
                        orders.push_now("c")
                        reader.wait_total("c", 3.0)
                        continue
                    asks = command.startswith("headwater apply ") and "--yes" not in command
                    reader.command(command, lines, *(["--yes"] if asks else []))
        reader.wait_plan()
        reader.wait_total("c", 5.0)
        assert reader.worker.stop() == 0
    finally:
        reader.worker.kill()
