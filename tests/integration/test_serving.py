from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone

import numpy as np
import polars as pl
import pytest
from serving_harness import AT, AT_US, CLOCK_US, NAIVE, FakeReader, request_of

from headwater.errors import HeadwaterError, NotFoundError, StateError
from headwater.flow.answer import PlanChangedError, RequestError, UnavailableError
from headwater_serving.client import connect
from headwater_serving.server import Server


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


def test_a_plan_that_changes_within_a_call_costs_its_caller_nothing(client, reader):
    real, changes = reader.read, iter([PlanChangedError("service one has just changed")])

    def read(info, inputs, at_us):
        for change in changes:
            reader.one = replace(reader.one, revision="s2")
            raise change
        return real(info, inputs, at_us)

    reader.read = read
    vectors = client.online("one", tailnum=["N1"])
    assert vectors.revision == "s2"
    assert [info.revision for info, _, _ in reader.reads] == ["s2"]


def test_a_plan_that_changes_again_and_again_is_told_as_unavailable(client, reader):
    reader.failure = PlanChangedError("service one has just changed; ask for it again")
    with pytest.raises(UnavailableError, match="ask for it again"):
        client.online("one", tailnum=["N1"])
