from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import grpc
import numpy as np
import polars as pl
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headwater.errors import ConfigError, HeadwaterError, NotFoundError, StateError, did_you_mean
from headwater.flow.answer import Answer, RequestError, ServiceInfo, Status
from headwater_proto.v1 import serving_pb2, serving_pb2_grpc
from headwater_proto.v1.column_pb2 import Column
from headwater_serving.client import Request, connect
from headwater_serving.codes import (
    DeadlineError,
    OverloadError,
    RevisionError,
    UnreachableError,
)
from headwater_serving.columns import encode_column
from headwater_serving.options import ServerOptions
from headwater_serving.server import SERVICE_NAME, Server

CLOCK_US = 1_385_000_000_000_000
AT = datetime(2013, 6, 1, 12, 0, 0, 1, tzinfo=UTC)
NAIVE = datetime(2013, 1, 1)  # noqa: DTZ001 - what is to be refused
AT_US = 1_370_088_000_000_001


class FakeReader:
    """Answers from a dictionary: mean delay per plane, and what depends on the request."""

    def __init__(self):
        self.means = {"N1": 10.0, "N2": -0.0, "N3": None}
        self.info = ServiceInfo(
            name="delay_model",
            revision="r1",
            join_keys={"tailnum": pl.String(), "origin": pl.String(), "dest": pl.String()},
            request_inputs={"dep_delay": pl.Float64(), "booked": pl.Datetime("us", "UTC")},
            entities={"plane": ("tailnum",), "route": ("origin", "dest")},
            features={
                "mean_delay_24h": pl.Float64(),
                "n_24h": pl.Int64(),
                "vs_day": pl.Float64(),
                "lead": pl.Duration("us"),
                "key": pl.String(),
                "small": pl.Float32(),
                "late": pl.Boolean(),
            },
        )
        self.one = ServiceInfo(
            "one",
            "s1",
            {"tailnum": pl.String()},
            {},
            {"plane": ("tailnum",)},
            {"n_24h": pl.Int64()},
        )
        self.reads = []
        self.descriptions = []
        self.failure = None
        self.hold = None
        self.entered = threading.Event()

    def services(self):
        return ["delay_model", "one"]

    def describe(self, service):
        self.descriptions.append(service)
        found = {"delay_model": self.info, "one": self.one}.get(service)
        if found is None:
            hint = did_you_mean(service, self.services())
            raise NotFoundError(f'no service "{service}".{hint}')
        return found

    def describe_features(self, features):
        known = {f"plane_delays.{name}": name for name in self.info.features}
        for name in features:
            if name not in known:
                raise NotFoundError(f'no feature "{name}".{did_you_mean(name, known)}')
        kept = {known[name]: self.info.features[known[name]] for name in features}
        return replace(self.info, name="", revision="f1", features=kept)

    def read(self, info, inputs, at_us):
        self.entered.set()
        if self.hold is not None:
            self.hold.wait(30)
        if self.failure is not None:
            raise self.failure
        self.reads.append((info, inputs, at_us))
        values, statuses = self.vectors(info, inputs)
        t_us = CLOCK_US if at_us is None else at_us
        return Answer(values, statuses, t_us, at_us is not None, {11: 7, 3: 2**40}, info.revision)

    def vectors(self, info, inputs):
        tailnum = inputs["tailnum"]
        mean = pl.Series([self.means.get(one) for one in tailnum], dtype=pl.Float64)
        known = np.array([one in self.means for one in tailnum], dtype=bool)
        empty = pl.Series([None] * len(inputs), dtype=pl.Float64)
        delay = inputs.to_dict().get("dep_delay", empty)
        booked = inputs.to_dict().get("booked", empty)
        every = {
            "mean_delay_24h": mean,
            "n_24h": pl.Series(np.arange(len(inputs))),
            "vs_day": delay - mean,
            "lead": booked.cast(pl.Int64).cast(pl.Duration("us")),
            "key": tailnum,
            "small": (mean + 0.1).cast(pl.Float32),
            "late": mean > 5,
        }
        values = pl.DataFrame({name: every[name] for name in info.features})
        statuses = np.where(known, np.uint8(Status.PRESENT), np.uint8(Status.NOT_FOUND))
        statuses = np.tile(statuses.astype(np.uint8), (values.width, 1))
        for row, series in zip(statuses, values.iter_columns(), strict=True):
            row[series.is_null().to_numpy() & known] = Status.NULL
        return values, statuses


@pytest.fixture
def reader():
    return FakeReader()


@pytest.fixture
def server(reader):
    with Server(reader) as running:
        yield running


@pytest.fixture
def client(server):
    with connect(server.target, timeout_s=20) as connected:
        yield connected


def request_of(planes=("N1",), **more):
    rows = len(planes)
    return {
        "plane": list(planes),
        "origin": ["JFK"] * rows,
        "dest": ["LAX"] * rows,
        "dep_delay": [42.0] * rows,
        "booked": [AT] * rows,
        **more,
    }


def test_values_come_back_to_the_bit_with_time_and_offsets(client, reader):
    vectors = client.online("delay_model", at=AT, **request_of(("N1", "N2", "N3", "N9")))
    info, inputs, at_us = reader.reads[0]
    expected, _ = reader.vectors(info, inputs)
    frame = vectors.to_polars()
    assert frame.schema == expected.schema
    assert frame.rows() == expected.rows()
    assert np.signbit(frame["mean_delay_24h"][1])
    assert at_us == vectors.t_us == AT_US
    assert vectors.t == AT
    assert vectors.t_from_request
    assert vectors.exchange_offsets == {3: 2**40, 11: 7}
    assert vectors.revision == "r1"
    assert len(vectors) == 4
    assert vectors.statuses["mean_delay_24h"] == ["PRESENT", "PRESENT", "NULL", "NOT_FOUND"]
    assert vectors.status_codes().shape == (7, 4)


def test_the_reader_gets_its_inputs_in_its_order_and_types(client, reader):
    client.online("delay_model", **request_of(("N1", None), dep_delay=np.array([1, 2], "i4")))
    _, inputs, _ = reader.reads[0]
    assert dict(inputs.schema) == {**reader.info.join_keys, **reader.info.request_inputs}
    assert inputs["tailnum"].to_list() == ["N1", None]
    assert inputs["dep_delay"].to_list() == [1.0, 2.0]


def test_without_a_time_the_worker_s_clock_decides(client, reader):
    vectors = client.online("delay_model", **request_of())
    assert reader.reads[0][2] is None
    assert vectors.t_us == CLOCK_US
    assert not vectors.t_from_request


def test_one_value_is_one_row_and_many_shapes_are_taken(client):
    scalars = {"plane": "N1", "origin": "JFK", "dest": "LAX", "dep_delay": 42, "booked": AT}
    expected = client.online("delay_model", **scalars).to_polars()
    assert expected.height == 1
    shapes = {
        "tailnum": np.array(["N1"]),
        "origin": pl.Series(["JFK"]),
        "dest": ("LAX",),
        "dep_delay": pl.Series([42], dtype=pl.Int8),
        "booked": [AT.astimezone(timezone(timedelta(hours=5)))],
    }
    assert client.online("delay_model", **shapes).to_polars().equals(expected)
    assert client.online("delay_model", shapes).to_polars().equals(expected)
    frame = pl.DataFrame({name: pl.Series(values) for name, values in shapes.items()})
    assert client.online("delay_model", frame).to_polars().equals(expected)


def test_no_rows_are_a_request_too(client):
    vectors = client.online("delay_model", **{name: [] for name in request_of()})
    assert vectors.to_polars().shape == (0, 7)
    assert len(vectors) == 0


def test_answers_as_dict_and_matrix(client):
    features = ["plane_delays.vs_day", "plane_delays.n_24h", "plane_delays.late"]
    vectors = client.online(features, **request_of(("N1", "N3")))
    assert vectors.to_dict() == {"vs_day": [32.0, None], "n_24h": [0, 1], "late": [True, None]}
    matrix = vectors.to_numpy()
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix, [[32.0, 0.0, 1.0], [np.nan, 1.0, np.nan]])
    assert vectors.features == ("vs_day", "n_24h", "late")


def test_text_does_not_become_a_matrix(client):
    with pytest.raises(RequestError, match=r'feature "lead" is Duration.*to_polars'):
        client.online("delay_model", **request_of()).to_numpy()


def test_vectors_show_themselves(client):
    vectors = client.online("delay_model", at=AT, **request_of())
    assert "2013-06-01T12:00:00.000001+00:00 (from the request), revision r1" in repr(vectors)
    assert "mean_delay_24h" in vectors._repr_html_()


def test_a_service_is_described_once(client, reader):
    for _ in range(3):
        client.online("one", plane="N1")
    # One for the description, then one look-up by the server itself for each request.
    assert reader.descriptions == ["one"] * 4
    assert client.services() == ["delay_model", "one"]


def test_a_description_survives_the_wire(client, reader):
    assert client.describe("delay_model") == reader.info
    assert client.describe(["plane_delays.n_24h"]).features == {"n_24h": pl.Int64()}


def test_a_new_revision_is_resolved_and_asked_again(client, reader):
    client.online("one", plane="N1")
    reader.one = replace(
        reader.one, revision="s2", features={"key": pl.String(), "n_24h": pl.Int64()}
    )
    vectors = client.online("one", plane="N1")
    assert vectors.revision == "s2"
    assert vectors.to_dict() == {"key": ["N1"], "n_24h": [0]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"plain": "N1"}, 'service "delay_model" has no input "plain". Did you mean "plane"?'),
        (
            {"tailnum": "N1"},
            'service "delay_model": input "tailnum" was given twice; leave one out',
        ),
        ({"route": "x"}, 'entity "route" of service "delay_model" has several keys: give "origin"'),
        ({"dep_delay": [1.0, 2.0]}, "differ in rows: tailnum 1, origin 1, dest 1, dep_delay 2"),
        ({"dep_delay": "42"}, "input \"dep_delay\" takes Float64; row 0 holds '42' (str)"),
        ({"dep_delay": pl.Series(["42"])}, 'input "dep_delay" takes Float64, not String'),
        ({"dep_delay": [[1.0]]}, "takes Float64; row 0 holds [1.0] (list)"),
        ({"dep_delay": np.ones((1, 1))}, "takes one dimension, not an array of shape (1, 1)"),
        ({"dep_delay": {"a": 1}}, "a list, an array, a series or one value, not dict"),
        ({"plane": 7}, 'input "plane" takes String; row 0 holds 7 (int)'),
        (
            {"booked": NAIVE},
            "2013-01-01 00:00:00, which has no time zone; write dat",
        ),
        ({"booked": pl.Series([NAIVE])}, '.dt.replace_time_zone("UTC")'),
        ({"booked": AT.date()}, "the date 2013-06-01, which names no moment"),
        ({"booked": np.array(["2013-01-01"], "M8[us]")}, '.dt.replace_time_zone("UTC")'),
        ({"at": NAIVE}, "at is 2013-01-01 00:00:00, which has no time zone"),
        ({"at": 5}, "at is a int; give a datetime with a time zone"),
    ],
)
def test_bad_input_is_refused_before_it_is_sent(client, reader, change, text):
    with pytest.raises(RequestError) as caught:
        client.online("delay_model", **request_of(**change))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert reader.reads == []


def test_a_missing_input_names_the_entity(client):
    request = request_of()
    del request["plane"]
    with pytest.raises(RequestError, match='needs input "tailnum" \\(or "plane"\\)'):
        client.online("delay_model", request)


@pytest.mark.parametrize("service", ["", [], [""], [3]])
def test_a_request_for_nothing_is_refused(client, service):
    with pytest.raises(RequestError, match="name"):
        client.online(service, plane="N1")


def test_an_unknown_service_or_feature_is_the_same_error_as_in_process(client):
    with pytest.raises(NotFoundError) as caught:
        client.online("delay_modle", plane="N1")
    assert str(caught.value) == 'no service "delay_modle". Did you mean "delay_model"?'
    with pytest.raises(NotFoundError, match=r'Did you mean "plane_delays\.n_24h"'):
        client.online(["plane_delays.n_24"], plane="N1")


class NarrowError(NotFoundError):
    pass


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (RequestError("at lies in\nthe future"), RequestError, "at lies in the future"),
        (NarrowError("gone"), NotFoundError, "gone"),
        (StateError("written by another engine"), StateError, "written by another engine"),
        (HeadwaterError("something else"), HeadwaterError, "something else"),
    ],
)
def test_errors_of_the_reader_keep_their_class_and_text(client, reader, raised, kind, text):
    reader.failure = raised
    with pytest.raises(kind) as caught:
        client.online("one", plane="N1")
    assert type(caught.value) is kind
    assert str(caught.value) == text


def test_an_unexpected_failure_is_logged_here_and_told_no_one(reader, caplog):
    reader.failure = KeyError("inner workings")
    with (
        Server(reader) as server,
        connect(server.target, timeout_s=20) as client,
        pytest.raises(HeadwaterError) as caught,
    ):
        client.online("one", plane="N1")
    assert "failed with INTERNAL: the server failed on this call" in str(caught.value)
    assert "inner workings" not in str(caught.value)
    (entry,) = [one.getMessage() for one in caplog.records if "call_failed" in one.getMessage()]
    assert "call=GetOnlineFeatures" in entry
    assert "reason=\"KeyError: 'inner workings'\"" in entry
    assert "in read" in entry


@pytest.mark.parametrize("flaw", ["rows", "columns", "statuses"])
def test_an_answer_that_breaks_the_contract_is_never_sent(client, reader, flaw):
    def read(info, inputs, at_us):
        answer = FakeReader.read(reader, info, inputs, at_us)
        if flaw == "rows":
            return replace(answer, values=pl.concat([answer.values, answer.values]))
        if flaw == "columns":
            return replace(answer, values=answer.values.rename({"n_24h": "other"}))
        return replace(answer, statuses=answer.statuses[:, :0])

    reader.read = read
    with pytest.raises(HeadwaterError, match="INTERNAL"):
        client.online("one", plane="N1")


def test_nobody_there_is_one_line_with_target_and_cure():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    with connect(target) as client, pytest.raises(UnreachableError) as caught:
        client.online("one", plane="N1")
    assert str(caught.value) == (
        f'no Headwater server answers at {target} (connection refused); start one with "headwater'
        ' run" or store.serve(port), or connect to another target'
    )


def test_a_slow_answer_is_a_deadline_error(server, reader):
    reader.hold = threading.Event()
    with connect(server.target, timeout_s=20) as patient:
        info = patient.describe("one")
    with connect(server.target, timeout_s=0.05) as client:
        client._infos["one"] = info
        with pytest.raises(DeadlineError, match=r"did not answer within 0.05 s; raise timeout_s="):
            client.online("one", plane="N1")
    reader.hold.set()


def test_a_closed_client_says_so(server):
    client = connect(server.target)
    client.close()
    with pytest.raises(HeadwaterError, match="closed; connect again"):
        client.services()


@pytest.mark.parametrize("target", ["", "http://127.0.0.1:6566"])
def test_a_target_is_host_and_port(target):
    with pytest.raises(ConfigError, match="write host:port"):
        connect(target)


def test_a_port_in_use_is_one_line(server, reader):
    second = Server(reader, port=server.port)
    with pytest.raises(ConfigError) as caught:
        second.start()
    assert str(caught.value) == (
        f"port {server.port} on 127.0.0.1 is in use; choose another with port= or --port"
    )


def test_a_host_that_is_not_ours_is_refused(reader):
    with pytest.raises(ConfigError, match=r"port 0 on 203.0.113.7 can't be bound"):
        Server(reader, host="203.0.113.7").start()
    with pytest.raises(ConfigError, match="is not between 0 and 65535"):
        Server(reader, port=70_000).start()


def test_a_stopped_server_frees_its_port_and_can_start_again(reader):
    server = Server(reader)
    port = server.start()
    with pytest.raises(ConfigError, match="runs already"):
        server.start()
    server.stop()
    server.stop()
    assert server.start() == port
    with connect(server.target, timeout_s=20) as client:
        assert client.services()
    server.stop()


def test_a_running_call_is_finished_before_the_end(server, reader):
    reader.hold = threading.Event()
    answers = []
    with connect(server.target, timeout_s=20) as client:
        caller = threading.Thread(target=lambda: answers.append(client.online("one", plane="N1")))
        caller.start()
        assert reader.entered.wait(20)
        stopper = threading.Thread(target=server.stop, args=(20,))
        stopper.start()
        reader.hold.set()
        caller.join(20)
        stopper.join(20)
    assert answers[0].to_dict() == {"n_24h": [0]}


def health_of(channel, service=""):
    stub = health_pb2_grpc.HealthStub(channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def test_health_follows_the_worker_and_ends_with_it(server, reader):
    with grpc.insecure_channel(server.target) as channel:
        assert health_of(channel) == health_of(channel, SERVICE_NAME) == "SERVING"
        server.set_serving(serving=False)
        assert health_of(channel) == health_of(channel, SERVICE_NAME) == "NOT_SERVING"
        server.set_serving(serving=True)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        stopper.join(20)


def reflected(target):
    with grpc.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([ask]), timeout=20)
        return [one.name for one in reply.list_services_response.service]


def test_reflection_is_there_only_when_asked_for(server, reader):
    with pytest.raises(grpc.RpcError) as caught:
        reflected(server.target)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with Server(reader, options=ServerOptions(reflection=True)) as open_server:
        assert SERVICE_NAME in reflected(open_server.target)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "server option workers is 0; it must be 1 or more"),
        ({"workers": 4, "streams_max": 4}, "streams hold a worker each"),
    ],
)
def test_options_that_cannot_work_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        ServerOptions(**options)


@contextmanager
def stub_of(server):
    with grpc.insecure_channel(server.target) as channel:
        yield serving_pb2_grpc.FeatureServiceStub(channel)


def raw(**fields):
    fields.setdefault("service", "one")
    fields.setdefault("inputs", [encode_column(pl.Series("tailnum", ["N1"]))])
    return serving_pb2.GetOnlineFeaturesRequest(**fields)


def code_and_text(stub, request):
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetOnlineFeatures(request, timeout=20)
    return caught.value.code(), caught.value.details()


def test_an_unpinned_answer_names_its_columns(server):
    with stub_of(server) as stub:
        response = stub.GetOnlineFeatures(raw(at_us=5), timeout=20)
        assert [(one.name, one.dtype) for one in response.values] == [("n_24h", "")]
        assert response.values[0].int64 == bytes(8)
        assert response.statuses == [bytes([serving_pb2.STATUS_PRESENT])]
        assert response.t_source == serving_pb2.TIME_SOURCE_REQUEST
        assert [one.shard for one in response.shard_offsets] == [3, 11]
        pinned = stub.GetOnlineFeatures(raw(revision="s1"), timeout=20)
        assert [one.name for one in pinned.values] == [""]
        assert pinned.t_source == serving_pb2.TIME_SOURCE_WORKER_CLOCK


def test_statuses_of_the_contract_are_those_of_the_engine():
    wire = {f"STATUS_{one.name}": one.value for one in Status}
    assert dict(serving_pb2.Status.items()) == {"STATUS_UNSPECIFIED": 0, **wire}


def test_the_server_trusts_no_client(server):
    twice = [encode_column(pl.Series("tailnum", ["N1"]))] * 2
    alias = [encode_column(pl.Series(name, ["N1"])) for name in ("tailnum", "plane")]
    cases = [
        (raw(service="two"), grpc.StatusCode.NOT_FOUND, 'no service "two"'),
        (raw(service=""), grpc.StatusCode.INVALID_ARGUMENT, "names neither a service nor"),
        (raw(revision="s0"), grpc.StatusCode.FAILED_PRECONDITION, "re-resolve it"),
        (raw(inputs=[]), grpc.StatusCode.INVALID_ARGUMENT, 'needs input "tailnum"'),
        (raw(inputs=twice), grpc.StatusCode.INVALID_ARGUMENT, "sent twice"),
        (raw(inputs=alias), grpc.StatusCode.INVALID_ARGUMENT, "given twice"),
        (
            raw(inputs=[encode_column(pl.Series("tailnum", [1]))]),
            grpc.StatusCode.INVALID_ARGUMENT,
            'input "tailnum" of service "one" takes String, not Int64',
        ),
        (
            raw(inputs=[Column(name="tailnum", rows=1, float64=b"short")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "float64 has 5 bytes where 8 are needed",
        ),
        (
            # No bytes behind it: only the limit keeps it from four billion rows of memory.
            raw(inputs=[Column(name="tailnum", rows=2**32 - 1, dtype="String")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "the limit is 10000, so split it",
        ),
    ]
    with stub_of(server) as stub:
        for request, code, text in cases:
            found = code_and_text(stub, request)
            assert found[0] is code
            assert text in found[1]


def test_limits_of_rows_features_and_bytes_are_told(reader):
    options = ServerOptions(rows_max=2, features_max=1, request_bytes_max=2_000)
    with Server(reader, options=options) as server, connect(server.target) as client:
        assert len(client.online("one", plane=["N1", "N2"])) == 2
        with pytest.raises(RequestError, match="has 3 rows; the limit is 2, so split it"):
            client.online("one", plane=["N1", "N2", "N3"])
        with pytest.raises(RequestError, match="2 features were asked for; the limit is 1"):
            client.describe(["a.b", "a.c"])
        with pytest.raises(OverloadError, match="send fewer or smaller requests"):
            client.online("one", plane=["N" * 3_000])


def test_too_many_calls_at_once_are_refused(reader):
    reader.hold = threading.Event()
    options = ServerOptions(workers=2, streams_max=1, concurrent_rpcs_max=1)
    with Server(reader, options=options) as server, connect(server.target, timeout_s=20) as client:
        client.describe("one")

        def call_until_taken():
            # The server may still be ending the description when the first call comes.
            while not reader.entered.is_set():
                with suppress(OverloadError):
                    client.online("one", plane="N1")

        caller = threading.Thread(target=call_until_taken)
        caller.start()
        assert reader.entered.wait(20)
        with pytest.raises(OverloadError, match="refused the call"):
            client.services()
        reader.hold.set()
        caller.join(20)


def test_a_stream_answers_in_order_each_at_its_own_time(client):
    requests = [
        Request({"plane": [f"N{k}"] * (k % 3)}, at=AT + timedelta(microseconds=k))
        for k in range(600)
    ]
    count = 0
    for k, vectors in enumerate(client.online_many("one", iter(requests))):
        assert vectors.t_us == AT_US + k
        assert vectors.to_dict() == {"n_24h": list(range(k % 3))}
        count += 1
    assert count == 600


def test_a_stream_equals_single_calls(client):
    planes = ["N1", "N2", "N3", "N9"]
    streamed = client.online_many("delay_model", (request_of((one,)) for one in planes))
    for one, vectors in zip(planes, streamed, strict=True):
        single = client.online("delay_model", **request_of((one,)))
        assert vectors.to_polars().equals(single.to_polars())
        assert vectors.statuses == single.statuses


def test_a_batched_stream_gives_each_request_its_own_rows(client, reader):
    sizes = [1, 0, 3, 2, 2, 7, 1, 1, 1, 0, 5]
    times = [None] * 5 + [AT] * 4 + [None] * 2
    requests = [
        Request(request_of([f"N{row}" for row in range(size)]), at)
        for size, at in zip(sizes, times, strict=True)
    ]
    answers = list(client.online_many("delay_model", requests, batch_rows=4))
    # Six, for the rows 1+0+3, 2+2 | 7, 1+1+1 at a time of their own | 0, 5.
    assert [len(inputs) for _, inputs, _ in reader.reads] == [4, 4, 7, 3, 0, 5]
    assert [len(one) for one in answers] == sizes
    for request, vectors in zip(requests, answers, strict=True):
        single = client.online("delay_model", request.inputs, at=request.at)
        got, expected = vectors.to_polars(), single.to_polars()
        # The fake numbers the rows of a read, which depends on the batch.
        assert got.drop("n_24h").equals(expected.drop("n_24h"))
        assert vectors.statuses == single.statuses
        assert vectors.status_codes().tolist() == single.status_codes().tolist()
        assert vectors.t_us == single.t_us


def test_matrices_of_one_batch_are_apart(client):
    requests = [{"plane": "N1"}, {"plane": ["N2", "N3"]}]
    first, second = client.online_many("one", requests, batch_rows=3)
    assert (first.to_numpy().tolist(), second.to_numpy().tolist()) == ([[0.0]], [[1.0], [2.0]])
    first.to_numpy()[:] = 9
    assert first.to_numpy().tolist() == [[0.0]]


def test_a_batch_of_no_rows_is_refused(client):
    with pytest.raises(RequestError, match="batch_rows is 0; it must be 1 or more"):
        next(client.online_many("one", [], batch_rows=0))


def test_a_stream_reads_no_further_ahead_than_its_bound(client, reader):
    drawn = []

    def requests():
        for k in range(5_000):
            drawn.append(k)
            yield {"plane": "N1"}

    answers = client.online_many("one", requests())
    for count, _ in enumerate(answers, start=1):
        assert len(drawn) <= count + 257
    assert count == 5_000


@pytest.mark.parametrize("batch_rows", [1, 100])
def test_a_bad_request_ends_a_stream_after_the_answers_before_it(client, batch_rows):
    requests = [{"plane": "N1"}, {"plain": "N2"}, {"plane": "N3"}]
    answers = client.online_many("one", requests, batch_rows=batch_rows)
    assert next(answers).to_dict() == {"n_24h": [0]}
    with pytest.raises(RequestError, match='Did you mean "plane"'):
        next(answers)


def test_a_failing_iterator_raises_its_own_error_to_the_caller(client):
    def requests():
        yield {"plane": "N1"}
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(client.online_many("one", requests()))


def test_an_error_of_the_server_ends_a_stream_as_the_same_class(client, reader):
    client.describe("one")
    reader.one = replace(reader.one, revision="s2")
    with pytest.raises(RevisionError, match="at revision s2, the request was made for s1"):
        list(client.online_many("one", [{"plane": "N1"}]))
    assert [len(one) for one in client.online_many("one", [{"plane": "N1"}])] == [1]


def test_open_streams_are_bounded_and_give_their_place_back(reader):
    options = ServerOptions(workers=3, streams_max=1)
    with Server(reader, options=options) as server, connect(server.target, timeout_s=20) as client:
        first = client.online_many("one", ({"plane": "N1"} for _ in range(10_000)))
        next(first)
        with pytest.raises(OverloadError, match="1 streams are open, which is the limit"):
            list(client.online_many("one", [{"plane": "N1"}]))
        assert client.services()
        first.close()
        for _ in range(1_000):
            try:
                assert len(list(client.online_many("one", [{"plane": "N1"}]))) == 1
            except OverloadError:
                continue
            break
        else:
            pytest.fail("the closed stream still holds its place")


def test_threads_share_a_client(client):
    def ask(k, found):
        for _ in range(20):
            found.append(client.online("one", plane=["N1"] * k).to_dict()["n_24h"])

    found = {k: [] for k in range(1, 5)}
    threads = [threading.Thread(target=ask, args=pair) for pair in found.items()]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert all(answers == [list(range(k))] * 20 for k, answers in found.items())
