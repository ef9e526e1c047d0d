from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress

import grpc
import polars as pl
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headwater.errors import ConfigError, HeadwaterError
from headwater.flow.answer import RequestError, Status
from headwater_proto.v1 import serving_pb2, serving_pb2_grpc
from headwater_proto.v1.column_pb2 import Column
from headwater_serving.client import connect
from headwater_serving.codes import (
    DeadlineError,
    OverloadError,
    UnreachableError,
)
from headwater_serving.columns import encode_column
from headwater_serving.options import ServerOptions
from headwater_serving.server import SERVICE_NAME, Server


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
