"""Streams in Avro: what a definition says, and that their values are those of JSON."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from schema_registry_server import SchemaRegistryServer, avro_bytes, framed_bytes

import headwater as hw
from headwater.cli import main
from headwater.flow.answer import RequestError
from headwater.plan.describe import plan_facts, plan_text
from headwater.plan.fingerprint import canonical_stream
from headwater.plan.plan import compile_plan
from headwater_connectors.formats import schema_registry
from headwater_connectors.formats.confluent_framing import framed
from headwater_connectors.formats.schema_registry import RegistryError

FLIGHT = {
    "type": "record",
    "name": "Flight",
    "doc": "A departure.",
    "fields": [
        {"name": "plane", "type": "string", "doc": "The tail number."},
        {"name": "delay", "type": ["null", "double"], "default": None},
        {"name": "left_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
SCHEMA = {"plane": pl.String, "delay": pl.Float64, "left_at": pl.Datetime("ms", "UTC")}
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {
        "plane": f"N{n % 7}",
        "delay": None if n % 5 == 0 else n / 3,
        "left_at": datetime(2025, 3, 1, 9, n % 60, n % 13, tzinfo=UTC),
    }
    for n in range(300)
]


@pytest.fixture(autouse=True)
def no_registry(monkeypatch):
    monkeypatch.delenv("HEADWATER_SCHEMA_REGISTRY__URL", raising=False)


def stream_of(how: Any = "json", **more: Any) -> Any:
    return hw.stream("flights", schema=SCHEMA, event_time="left_at", format=how, **more)


def service_of(how: Any) -> Any:
    plane = hw.entity("plane", key="plane")
    features = (
        stream_of(how)
        .group_by(plane)
        .window("1h", "6h")
        .agg(
            n=hw.count(), mean=hw.mean("delay"), std=hw.std("delay"), last=hw.last("left_at"),
        )
    )  # fmt: skip
    return hw.service("late", [hw.view("delays", features=features)])


def read(how: Any, values: list[bytes]) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    planes = [f"N{n}" for n in range(8)]
    spine = pl.DataFrame({"plane": planes, "t": [NOON] * 8})
    with hw.local([service_of(how)]) as store:
        store.push_bytes("flights", values)
        store.settle()
        reasons = store.dead_letters("flights")["reason"].to_list()
        online = store.online("late", plane=planes, at=NOON)
        return online, store.training_set("late", spine, time="t").collect(), reasons


def json_values() -> list[bytes]:
    return [json.dumps({**row, "left_at": row["left_at"].isoformat()}).encode() for row in ROWS]


def test_a_stream_in_avro_has_the_values_of_the_same_stream_in_json():
    online, training, reasons = read("json", [*json_values(), b"{"])
    assert reasons == ["not_json"]
    assert online["n_6h"].sum() == len(ROWS)
    bare = [avro_bytes(FLIGHT, row) for row in ROWS]
    behind_a_frame = [framed(3, value) for value in bare]
    with SchemaRegistryServer() as registry:
        registry.register(FLIGHT, 7)
        older = {**FLIGHT, "fields": [*FLIGHT["fields"][:1], FLIGHT["fields"][2]]}
        registry.register(older, 6)
        without = {name for name, value in ROWS[0].items() if value is None}
        assert without == {"delay"}
        by_id = [
            framed_bytes(6, older, row) if row["delay"] is None else framed_bytes(7, FLIGHT, row)
            for row in ROWS
        ]
        ways = {
            "bare": (hw.avro(schema=FLIGHT), bare),
            "framed": (hw.avro(schema=FLIGHT, framing="confluent"), behind_a_frame),
            "registry": (hw.avro(registry=registry.url), by_id),
        }
        for how, values in ways.values():
            found = read(how, [*values, values[0][:-1]])
            assert found[0].equals(online)
            assert found[1].equals(training)
            assert found[2] == ["not_avro"]


def test_a_store_stops_with_the_reason_when_the_registry_is_down(monkeypatch):
    monkeypatch.setattr(schema_registry, "PAUSES_S", (0.0, 0.0))
    with SchemaRegistryServer() as registry:
        url = registry.url
    with hw.local([service_of(hw.avro(registry=url))]) as store:
        store.push_bytes("flights", [framed_bytes(7, FLIGHT, ROWS[0])])
        with pytest.raises(RegistryError, match="gave no answer for /schemas/ids/7"):
            store.settle()


def test_the_registry_of_a_stream_may_be_left_to_the_deployment(monkeypatch):
    with pytest.raises(hw.ConfigError, match="HEADWATER_SCHEMA_REGISTRY__URL"):
        hw.local([service_of("avro")])
    with SchemaRegistryServer() as registry:
        registry.register(FLIGHT, 7)
        monkeypatch.setenv("HEADWATER_SCHEMA_REGISTRY__URL", registry.url)
        online, _, reasons = read("avro", [framed_bytes(7, FLIGHT, row) for row in ROWS])
    assert online["n_6h"].sum() == len(ROWS)
    assert reasons == []


AVRO_FEATURES = """
import headwater as hw
import polars as pl

flights = hw.stream(
    "flights",
    schema={"plane": pl.String, "delay": pl.Float64, "left_at": pl.Datetime("ms", "UTC")},
    event_time="left_at",
    format="avro",
)
grouped = flights.group_by(hw.entity("plane", key="plane")).window("1h", "6h")
one = hw.view("delays", version=1, features=grouped.agg(n=hw.count()))
two = hw.view("delays", version=2, features=grouped.agg(n=hw.count("delay")))
"""


def test_history_is_decoded_with_the_registry_that_the_settings_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features.py").write_text(AVRO_FEATURES)
    command = ["view", "compare", "delays@1", "delays@2", "--file", "features.py"]
    with SchemaRegistryServer() as registry:
        registry.register(FLIGHT, 7)
        with monkeypatch.context() as deployed:
            deployed.setenv("HEADWATER_SCHEMA_REGISTRY__URL", registry.url)
            with hw.local([service_of("avro")], path=tmp_path / "store") as store:
                store.push_bytes("flights", [framed_bytes(7, FLIGHT, row) for row in ROWS])
                store.settle()
        # What isn't archived yet has to be decoded, and only the file says by what.
        shutil.rmtree(tmp_path / "store" / "archive")
        (tmp_path / "headwater.toml").write_text(f'[schema_registry]\nurl = "{registry.url}"\n')
        assert main([*command, "--folder", "store", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == len(ROWS)
    (tmp_path / "headwater.toml").unlink()
    assert main([*command, "--folder", "store"]) == 78
    assert "HEADWATER_SCHEMA_REGISTRY__URL" in capsys.readouterr().err


def test_rows_are_not_pushed_as_json_into_a_stream_of_avro():
    with (
        hw.local([service_of(hw.avro(schema=FLIGHT))]) as store,
        pytest.raises(RequestError, match=r"read as avro .* use push_bytes"),
    ):
        store.push("flights", ROWS)


def test_a_column_that_no_record_can_fill_is_refused_before_any_is_read():
    wrong = json.loads(json.dumps(FLIGHT).replace('"double"', '"string"'))
    with pytest.raises(hw.DefinitionError, match='column "delay": string is not Float64'):
        hw.local([service_of(hw.avro(schema=wrong))])


# --- Definitions ---


def test_a_schema_is_read_from_its_file_when_the_stream_is_defined(tmp_path):
    path = tmp_path / "flight.avsc"
    path.write_text(json.dumps(FLIGHT, indent=2))
    from_file = [hw.avro(schema=path), hw.avro(schema=str(path))]
    path.unlink()
    assert from_file == [hw.avro(schema=FLIGHT)] * 2
    hash(from_file[0])


def test_what_a_format_means_is_in_the_fingerprint_and_where_schemas_are_is_not():
    def text(how: Any) -> str:
        found = stream_of(how)
        return canonical_stream(found, found.schema)

    documented = json.loads(json.dumps(FLIGHT).replace("A departure.", "Something else."))
    other = json.loads(json.dumps(FLIGHT).replace("millis", "micros"))
    assert "(format json)" in text("json")
    assert "(format avro)" in text("avro")
    assert text(hw.avro()) == text("avro") == text(hw.avro(registry="http://a:1"))
    assert text(hw.avro(schema=FLIGHT)) == text(hw.avro(schema=documented))
    different = [
        "json",
        "avro",
        hw.avro(aliases={"delay": "late_by"}),
        hw.avro(aliases={"delay": ["late_by", "minutes"]}),
        hw.avro(schema=FLIGHT),
        hw.avro(schema=FLIGHT, framing="confluent"),
        hw.avro(schema=other),
    ]
    assert len({text(how) for how in different}) == len(different)


def test_an_alias_counts_for_a_view_that_reads_its_column_alone():
    renamed = stream_of(hw.avro(aliases={"delay": "late_by"}))
    reading, apart = ["plane", "delay"], ["plane"]
    assert canonical_stream(renamed, reading) != canonical_stream(stream_of("avro"), reading)
    assert canonical_stream(renamed, apart) == canonical_stream(stream_of("avro"), apart)


def test_a_plan_shows_the_format():
    plan = compile_plan([service_of(hw.avro(registry="http://registry:8081/"))])
    facts = plan_facts(plan)
    assert facts["streams"]["flights"]["format"] == "avro (schemas from http://registry:8081)"
    json.dumps(facts)
    assert "stream flights: avro (schemas from http://registry:8081), 3 columns" in plan_text(plan)
    assert str(stream_of("avro").format) == "avro (schemas from the schema registry)"
    assert str(stream_of(hw.avro(schema=FLIGHT)).format) == "avro (bare, one schema)"
    assert str(stream_of().format) == "json"


def test_an_alias_finds_a_field_by_its_former_name():
    older = json.loads(json.dumps(FLIGHT).replace('"delay"', '"late_by"'))
    how = hw.avro(schema=older, aliases={"delay": "late_by"})
    online, _, _ = read(how, [avro_bytes(older, {**row, "late_by": row["delay"]}) for row in ROWS])
    assert online.equals(read("json", json_values())[0])


REFUSED = {
    "both": (lambda: hw.avro(schema=FLIGHT, registry="http://a:1"), "give one of them"),
    "a word for a framing": (lambda: hw.avro(framing="boxed"), '"boxed" is neither|neither "bare"'),
    "bare without a schema": (lambda: hw.avro(framing="bare"), "give it with schema="),
    "no file": (lambda: hw.avro(schema="no/such.avsc"), "looked for .*no/such.avsc"),
    "no record": (lambda: hw.avro(schema={"type": "string"}), "no record"),
    "no fields": (lambda: hw.avro(schema={"type": "record", "name": "R"}), "no record"),
    "no data": (
        lambda: hw.avro(schema={**FLIGHT, "x": {1, 2}}),
        "not plain data",
    ),
    "no URL": (lambda: hw.avro(registry="registry"), "not a URL"),
    "a password": (lambda: hw.avro(registry="http://u:p@r:1"), "holds no password"),
    "an unknown column": (lambda: stream_of(hw.avro(aliases={"dealy": "x"})), '"delay"'),
    "a column that is no field": (
        lambda: hw.stream(
            "f",
            schema={**SCHEMA, "origin": pl.String},
            event_time="left_at",
            format=hw.avro(schema=FLIGHT),
        ),
        'has no field "origin"',
    ),
    "a column that can be no field": (
        lambda: hw.stream(
            "f", schema={**SCHEMA, "a b": pl.String}, event_time="left_at", format="avro"
        ),
        'can be called "a b"',
    ),
    "a format that is none": (lambda: stream_of("avor"), 'Did you mean "avro"'),
    "a format of another kind": (lambda: stream_of(3), 'format "3" is not one of'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_mean_nothing_is_refused_where_it_is_written(name):
    make, message = REFUSED[name]
    with pytest.raises(hw.DefinitionError, match=message):
        make()


def test_a_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "bad.avsc"
    path.write_text("{")
    with pytest.raises(hw.DefinitionError, match=r"bad\.avsc: not JSON"):
        hw.avro(schema=path)
    path.write_bytes(b"\xff")
    with pytest.raises(hw.DefinitionError, match=r"bad\.avsc: not JSON"):
        hw.avro(schema=path)
