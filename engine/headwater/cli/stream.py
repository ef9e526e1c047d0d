"""`headwater stream reset`: let a stream go on after its topic was made again or lost records."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path  # noqa: TC003 - the command line reads the annotations

from cyclopts import App, Parameter

from headwater.cli.output import is_agreed, write_json, write_text

__all__ = ["reset", "stream"]

stream = App(name="stream", default_parameter=Parameter(negative=()), result_action="return_value")


@stream.command
def reset(
    topic: str,
    /,
    *,
    yes: bool = False,
    json: bool = False,
    config: Path | None = None,
    namespace: str | None = None,
    bootstrap_servers: str | None = None,
) -> int:
    """Let a stream go on after its topic was deleted and made again, or lost offsets to retention.

    It says what it will do and asks first; workers go by it when they start again. A stream that
    has lost nothing is left as it is.

    Parameters
    ----------
    topic
        The stream's topic.
    yes
        Do it without asking.
    json
        Print one JSON document, for machines; it needs --yes, or nothing is done.
    config
        The configuration file (default: headwater.toml, if it is here).
    namespace
        The namespace.
    bootstrap_servers
        Where Kafka is, host:port.
    """
    from headwater.config import load_config
    from headwater.flow.plans_topic import PlansTopic
    from headwater.flow.stream_reset import plan_reset
    from headwater_connectors.log.kafka import KafkaLog

    settings = load_config(
        config,
        flags={
            "--namespace": ("namespace", namespace),
            "--bootstrap-servers": ("kafka.bootstrap_servers", bootstrap_servers),
        },
    )
    with closing(KafkaLog(settings.kafka.bootstrap_servers, config=settings.kafka.config)) as log:
        plans = PlansTopic(log, settings.namespace)
        found = plan_reset(log, plans, settings.namespace, topic, lambda: time.time_ns() // 1_000)
        if not json:
            write_text("\n".join(found.sentences()))
        done = found.is_needed and (yes or (not json and is_agreed()))
        if done:
            found.apply(plans)
        if json:
            lost = {str(p): list(stretch) for p, stretch in found.lost.items()}
            facts = {"stream": topic, "needed": found.is_needed, "done": done, "lost": lost}
            write_json({**facts, "topic_id": found.start.topic_id, "says": found.sentences()})
        elif done:
            write_text("done; start the workers again")
    return 0 if done or not found.is_needed else 1
