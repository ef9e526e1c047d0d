"""The variable that chooses how records are fetched: documented, and in no setting's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.config import load_config
from headwater.errors import ConfigError
from headwater_connectors.log.kafka_columnar import SWITCH

PAGE = (Path(__file__).parents[2] / "docs/running.md").read_text(encoding="utf-8")


def test_the_settings_are_read_where_the_variable_is_set() -> None:
    config = load_config(environ={SWITCH: "plain", "HEADWATER_WORKER__PORT": "7000"})
    assert config.worker.port == 7000


def test_one_that_is_like_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"no setting for {SWITCH}ED"):
        load_config(environ={f"{SWITCH}ED": "plain"})


def test_the_page_on_workers_names_the_variable_and_links_the_page_on_containers() -> None:
    assert f"`{SWITCH}=plain`" in PAGE
    assert "(docker.md)" in PAGE
