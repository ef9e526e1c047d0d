from __future__ import annotations

import json
import socket

import polars as pl
import pytest
from schema_registry_server import SchemaRegistryServer, avro_bytes, framed_bytes

from headwater.errors import ConfigError
from headwater_connectors.formats import avro, schema_registry
from headwater_connectors.formats.avro import AvroCodec
from headwater_connectors.formats.confluent_framing import framed, schema_id_of
from headwater_connectors.formats.options import CodecOptions
from headwater_connectors.formats.schema_registry import (
    RegistryError,
    RegistrySettings,
    SchemaRegistry,
)

PASSWORD = "hunter2"
OLD = {
    "type": "record",
    "name": "Click",
    "fields": [{"name": "user", "type": "string"}, {"name": "n", "type": "int"}],
}
NEW = {
    "type": "record",
    "name": "Click",
    "fields": [
        {"name": "n", "type": ["null", "double"], "default": None},
        {"name": "page", "type": "string", "default": ""},
        {"name": "user", "type": "string"},
    ],
}
COLUMNS = {"user": pl.String(), "n": pl.Float64()}


class Clock:
    def __init__(self):
        self.s = 0.0
        self.slept = []

    def __call__(self):
        return self.s

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.s += seconds


@pytest.fixture
def registry():
    with SchemaRegistryServer() as server:
        yield server


@pytest.fixture
def clock():
    return Clock()


def codec_of(url, clock, basic_auth="", settings_url=None, columns=COLUMNS):
    settings = RegistrySettings(url if settings_url is None else settings_url, basic_auth)
    options = CodecOptions({"registry": url}, settings)
    return AvroCodec(columns, options=options, clock_s=clock, sleep=clock.sleep)


def reasons(decoded):
    return [(reject.row, reject.reason) for reject in decoded.rejects]


# --- What is asked and kept ---


def test_the_frame_is_a_zero_byte_and_four_bytes_of_the_id():
    assert framed(0x01020304, b"body") == b"\0\1\2\3\4body"
    assert schema_id_of(b"\0\1\2\3\4") == 0x01020304
    assert schema_id_of(b"\0\1\2\3") is None
    assert schema_id_of(b"\1\1\2\3\4body") is None


def test_writers_of_different_schemas_share_a_batch(registry, clock):
    registry.register(OLD, 1)
    registry.register(NEW, 70_000)
    codec = codec_of(registry.url, clock)
    values = [
        framed_bytes(1, OLD, {"user": "a", "n": 1}),
        framed_bytes(70_000, NEW, {"user": "b", "n": 2.5, "page": "/"}),
        b'{"user":"c"}',
        b"\0\0\0",
        framed_bytes(1, OLD, {"user": "d", "n": 4}),
        framed_bytes(2, OLD, {"user": "e", "n": 5}),
    ]
    decoded = codec.decode(values)
    assert decoded.frame.rows() == [("a", 1.0), ("b", 2.5), ("d", 4.0)]
    assert decoded.rows.tolist() == [0, 1, 4]
    assert decoded.frame.n_chunks() == 1
    assert reasons(decoded) == [(2, "not_framed"), (3, "not_framed"), (5, "unknown_schema")]
    assert sorted(registry.requests) == [f"/schemas/ids/{n}" for n in (1, 2, 70_000)]
    for value, expected in zip(values, ["a", "b", None, None, "d", None], strict=True):
        alone = codec.decode([value])
        assert alone.frame["user"].to_list() == ([] if expected is None else [expected])
    assert len(registry.requests) == 3


def test_an_unknown_id_is_asked_again_after_a_while(registry, clock):
    codec = codec_of(registry.url, clock)
    value = framed_bytes(9, OLD, {"user": "a", "n": 1})
    assert reasons(codec.decode([value])) == [(0, "unknown_schema")]
    registry.register(OLD, 9)
    assert reasons(codec.decode([value])) == [(0, "unknown_schema")]
    assert len(registry.requests) == 1
    clock.s += 31
    assert codec.decode([value]).frame.rows() == [("a", 1.0)]
    clock.s += 10_000
    codec.decode([value])
    assert len(registry.requests) == 2


def test_only_so_many_schemas_are_kept(registry, clock, monkeypatch):
    monkeypatch.setattr(avro, "SCHEMAS_MAX", 3)
    codec = codec_of(registry.url, clock)
    for n in range(8):
        registry.register(OLD, n)
        codec.decode([framed_bytes(n, OLD, {"user": "a", "n": 1}), framed(100 + n, b"x")])
        assert len(codec._layouts) <= 3
    assert codec.decode([framed_bytes(0, OLD, {"user": "a", "n": 1})]).rows.size == 1


def test_schemas_that_can_never_be_read_are_dead_letters(registry, clock):
    registry.register("syntax = 'proto3';", 1, schemaType="PROTOBUF")
    registry.register('"string"', 2)
    registry.register("{", 3)
    registry.register({"type": "record", "name": "R", "fields": [{"name": "a"}]}, 4)
    registry.register(OLD, 5, references=[{"name": "X", "subject": "gone", "version": 1}])
    registry.register(OLD, 6)
    codec = codec_of(registry.url, clock)
    decoded = codec.decode(
        [*(framed(n, b"\2a\2") for n in range(1, 6)), framed_bytes(6, OLD, {"user": "a", "n": 1})]
    )
    assert reasons(decoded) == [(n, "unusable_schema") for n in range(5)]
    assert decoded.rows.tolist() == [5]
    assert "PROTOBUF" in decoded.rejects[0].message
    asked = len(registry.requests)
    codec.decode([framed(1, b"x")])
    assert len(registry.requests) == asked


def test_schemas_that_refer_to_others_are_read(registry, clock):
    money = {"type": "record", "name": "Money", "fields": [{"name": "cents", "type": "long"}]}
    item = {
        "type": "record",
        "name": "Item",
        "fields": [{"name": "price", "type": "Money"}, {"name": "fee", "type": "Money"}],
    }
    order = {
        "type": "record",
        "name": "Order",
        "fields": [
            {"name": "items", "type": {"type": "array", "items": "Item"}},
            {"name": "total", "type": "Money"},
            {"name": "user", "type": "string"},
        ],
    }
    to_money = {"name": "Money", "subject": "a/money", "version": 2}
    registry.register_subject("a%2Fmoney", 2, money)
    registry.register_subject("item", 1, item, references=[to_money])
    registry.register(
        order, 1, references=[{"name": "Item", "subject": "item", "version": 1}, to_money]
    )
    body = b"\2\2\4\0" + b"\6" + b"\2u"
    decoded = codec_of(registry.url, clock).decode([framed(1, body)])
    assert decoded.frame["user"].to_list() == ["u"]
    assert registry.requests.count("/subjects/a%2Fmoney/versions/2") == 1


def test_references_without_an_end_are_refused(registry, clock):
    for n in range(200):
        reference = {"name": "X", "subject": "s", "version": n + 1}
        registry.register_subject("s", n, OLD, references=[reference])
    registry.register(OLD, 1, references=[{"name": "X", "subject": "s", "version": 0}])
    decoded = codec_of(registry.url, clock).decode([framed(1, b"x")])
    assert reasons(decoded) == [(0, "unusable_schema")]
    assert len(registry.requests) < 100


# --- A registry that doesn't answer ---

FAULTS = {
    "errors of its own": [(500, b"x")] * 3,
    "too many requests": [(429, b"")] * 3,
    "closed connections": ["drop"] * 3,
    "all kinds": ["drop", (503, b""), (502, b"<html>")],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_registry_that_gives_no_answer_stops_reading_and_loses_nothing(registry, clock, name):
    registry.register(OLD, 1)
    registry.faults.extend(FAULTS[name])
    codec = codec_of(registry.url, clock)
    values = [framed_bytes(1, OLD, {"user": "a", "n": 1}), b"bad"]
    with pytest.raises(RegistryError, match=r"gave no answer .* in 3 tries") as caught:
        codec.decode(values)
    assert "\n" not in str(caught.value)
    assert clock.slept == [0.5, 2.0]
    decoded = codec.decode(values)
    assert decoded.rows.tolist() == [0]
    assert reasons(decoded) == [(1, "not_framed")]


def test_a_registry_that_stumbles_once_is_asked_again(registry, clock):
    registry.register(OLD, 1)
    registry.faults.extend(["drop", (503, b"")])
    decoded = codec_of(registry.url, clock).decode([framed_bytes(1, OLD, {"user": "a", "n": 1})])
    assert decoded.rows.size == 1
    assert len(registry.requests) == 3


def test_a_registry_that_is_not_there_stops_reading(clock):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RegistryError, match="refused"):
            codec_of(url, clock).decode([framed(1, b"x")])
    # Records that need no schema need no registry either.
    assert reasons(codec_of(url, clock).decode([None, b"{}"])) == [
        (0, "tombstone"),
        (1, "not_framed"),
    ]


def test_a_silent_registry_times_out(registry, clock, monkeypatch):
    monkeypatch.setattr(schema_registry, "TRY_TIMEOUT_S", 0.05)
    registry.faults.extend([(0.5, "s")] * 3)
    with pytest.raises(RegistryError, match="timed out"):
        codec_of(registry.url, clock).decode([framed(1, b"x")])


def test_an_answer_that_trickles_in_times_out(registry, clock, monkeypatch):
    registry.register(OLD, 1)
    slow = SchemaRegistry(registry.url, RegistrySettings(), clock_s=clock, sleep=clock.sleep)
    monkeypatch.setattr(clock, "s", 0.0)
    times = iter(range(0, 10_000, 6))
    slow._clock_s = lambda: next(times)
    with pytest.raises(RegistryError, match="not all there after 5 s"):
        slow.schema(1)


def test_an_answer_without_an_end_is_not_read_to_it(registry, clock):
    registry.register("x" * (schema_registry.RESPONSE_BYTES_MAX + 1), 1)
    decoded = codec_of(registry.url, clock).decode([framed(1, b"x")])
    assert reasons(decoded) == [(0, "unusable_schema")]


MISTAKES = {
    "something else": ((404, b"<html>"), "does not answer /schemas/ids/1 as a schema registry"),
    "another API": ((404, b'{"error_code":404}'), "status 404, error_code 404"),
    "a web page": ((200, b"<html>"), "an answer that is no schema"),
    "a redirect": ((302, b"http://127.0.0.1:1/"), "status 302"),
    "no rights": ((403, b""), "refuses a request without credentials"),
    "a bad request": ((400, b"{}"), "status 400"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_url_that_is_no_registry_stops_reading(registry, clock, name):
    answer, message = MISTAKES[name]
    registry.faults.append(answer)
    with pytest.raises(ConfigError, match=message):
        codec_of(registry.url, clock).decode([framed(1, b"x")])
    assert len(registry.requests) == 1


# --- Credentials ---


def test_credentials_are_sent_to_the_deployments_registry_and_to_no_other(clock):
    with (
        SchemaRegistryServer(basic_auth=f"reader:{PASSWORD}") as ours,
        SchemaRegistryServer() as theirs,
    ):
        for server in (ours, theirs):
            server.register(OLD, 1)
        value = framed_bytes(1, OLD, {"user": "a", "n": 1})
        for url in (ours.url, theirs.url, ""):
            codec = codec_of(url, clock, f"reader:{PASSWORD}", settings_url=ours.url + "/")
            assert codec.decode([value]).rows.size == 1
        assert theirs.authorizations == [None]
        assert len(ours.authorizations) == 2
        assert None not in ours.authorizations


@pytest.mark.parametrize("basic_auth", ["", "reader:wrong"])
def test_refused_credentials_stop_reading_and_are_not_shown(clock, basic_auth):
    with SchemaRegistryServer(basic_auth=f"reader:{PASSWORD}") as server:
        codec = codec_of(server.url, clock, basic_auth)
        with pytest.raises(ConfigError, match=r"refuses .* \(status 401\)") as caught:
            codec.decode([framed(1, b"x")])
    assert "wrong" not in str(caught.value)


def test_settings_show_no_password():
    settings = RegistrySettings("http://r:8081", f"reader:{PASSWORD}")
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in repr(CodecOptions({}, settings))


def test_settings_come_from_the_environment(registry, monkeypatch):
    registry.register(OLD, 1)
    monkeypatch.setenv("HEADWATER_SCHEMA_REGISTRY__URL", registry.url)
    codec = AvroCodec(COLUMNS)
    assert codec.decode([framed_bytes(1, OLD, {"user": "a", "n": 1})]).rows.size == 1


def test_a_codec_without_a_registry_says_how_to_name_one(monkeypatch):
    monkeypatch.delenv("HEADWATER_SCHEMA_REGISTRY__URL", raising=False)
    with pytest.raises(ConfigError, match=r"HEADWATER_SCHEMA_REGISTRY__URL, or write hw\.avro"):
        AvroCodec(COLUMNS)


BAD_SETTINGS = {
    "no URL": (("registry:8081", ""), "not the URL of a registry"),
    "a file": (("file:///etc/passwd", ""), "not the URL of a registry"),
    "a port that is none": (("http://r:x", ""), "not the URL of a registry"),
    "a query": (("http://r:1/?a=b", ""), "not the URL of a registry"),
    "a password in the URL": ((f"http://u:{PASSWORD}@r:1", ""), "holds credentials"),
    "a password alone": (("http://r:1", PASSWORD), "user:password"),
    "credentials for nobody": (("", f"u:{PASSWORD}"), "HEADWATER_SCHEMA_REGISTRY__URL is not"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_settings_that_cannot_be_are_refused_without_showing_them(name):
    arguments, message = BAD_SETTINGS[name]
    with pytest.raises(ConfigError, match=message) as caught:
        RegistrySettings(*arguments)
    assert PASSWORD not in str(caught.value)


def test_the_server_of_these_tests_speaks_as_confluents_does(registry):
    registry.register(OLD, 1)
    status, body = registry.answer("/schemas/ids/1", None)
    assert (status, json.loads(json.loads(body)["schema"])) == (200, OLD)
    assert json.loads(registry.answer("/schemas/ids/2", None)[1])["error_code"] == 40403
    assert avro_bytes(OLD, {"user": "a", "n": 1}) == b"\2a\2"
