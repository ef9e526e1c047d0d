"""Stored plans that can't be read: damaged, foreign or too big, each refused in one line."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import polars as pl
import pytest
from harness import clicks_plan

import headwater as hw
from headwater.definitions import expression
from headwater.errors import DefinitionError, StateError
from headwater.plan import document
from headwater.plan.document import read_document, write_document
from headwater.plan.plan import compile_plan


def written() -> bytes:
    return write_document(compile_plan([service()]), "shop")


def service() -> Any:
    stream = hw.stream(
        "clicks",
        schema={"user": pl.String, "x": pl.Float64, "at": pl.Int64},
        event_time=hw.epoch("at", "us"),
    )
    view = hw.view(
        "by_user",
        features=stream.filter(pl.col("x") > 1)
        .group_by(hw.entity("user", key="user"))
        .window("1h")
        .agg(n=hw.count()),
    )

    @hw.on_demand(inputs=[view])
    def twice(row):
        return row.with_columns(twice=pl.col("n_1h") * 2)

    return hw.service("clicks_of", [view, twice])


def changed(change: Any) -> bytes:
    """Return a document whose definitions were changed by hand, with a checksum that fits."""
    raw = msgspec.json.decode(written())
    change(raw["definitions"])
    raw["sha256"] = hashlib.sha256(msgspec.json.encode(raw["definitions"])).hexdigest()
    return msgspec.json.encode(raw)


def test_equal_definitions_give_equal_documents() -> None:
    assert written() == written()
    assert write_document(clicks_plan(), "a") != write_document(clicks_plan(), "b")


def test_logic_that_is_known_is_not_probed_again(monkeypatch) -> None:
    content = written()
    read_document(content, "shop")
    monkeypatch.setattr(expression, "find_leak", None)
    assert read_document(content, "shop").views.keys() == {"by_user@1"}


def test_a_byte_that_was_changed_or_lost_is_noticed() -> None:
    content = written()
    for at in range(0, len(content), 7):
        for damaged in (content[:at], content[:at] + b"~" + content[at + 1 :]):
            with pytest.raises(StateError, match="stored plan"):
                read_document(damaged, "shop")


def test_a_plan_of_another_namespace_names_both() -> None:
    with pytest.raises(StateError, match=r'of namespace "shop", not "dev".*--namespace dev'):
        read_document(written(), "dev")


def test_a_plan_of_another_engine_names_both() -> None:
    content = written().replace(b"polars=2", b"polars=9")
    with pytest.raises(StateError, match=r"polars=9.*this is .*polars=2.*apply"):
        read_document(content, "shop")


def test_a_plan_of_another_format_is_left_alone() -> None:
    with pytest.raises(StateError, match="format 7, this version reads 1"):
        read_document(b'{"format":7,"things":[]}', "shop")


def test_a_plan_that_is_too_big_is_neither_written_nor_read(monkeypatch) -> None:
    content = written()
    monkeypatch.setattr(document, "DOCUMENT_BYTES_MAX", len(content) - 1)
    with pytest.raises(StateError, match="at most"):
        read_document(content, "shop")
    with pytest.raises(DefinitionError, match="split them"):
        written()


def test_deep_nesting_is_refused() -> None:
    content = b'{"format":1,"definitions":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(StateError, match="damaged"):
        read_document(content, "shop")


def test_logic_that_is_not_what_was_written_is_refused() -> None:
    def another_window(raw: Any) -> None:
        raw["views"]["by_user@1"]["windows"][0]["width_us"] *= 2

    with pytest.raises(StateError, match=r"view by_user@1 reads as .* was written as"):
        read_document(changed(another_window), "shop")

    def another_revision(raw: Any) -> None:
        raw["services"]["clicks_of"]["revision"] = "0" * 16

    with pytest.raises(StateError, match="service clicks_of reads"):
        read_document(changed(another_revision), "shop")


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["views"]["by_user@1"].update(stream="other"),
        lambda raw: raw["views"]["by_user@1"].update(entity="other"),
        lambda raw: raw["views"]["by_user@1"].update(steps="AAAA"),
        lambda raw: raw["views"]["by_user@1"].update(more=1),
        lambda raw: raw["views"]["by_user@1"]["aggregates"][0].update(kind="median"),
        lambda raw: raw["views"]["by_user@1"]["aggregates"][0].update(ddof=1),
        lambda raw: raw["views"]["by_user@1"].update(windows=[]),
        lambda raw: raw["services"]["clicks_of"].update(parts=["by_user@2"]),
        lambda raw: raw["streams"]["clicks"].update(start="yesterday"),
        lambda raw: raw["streams"]["clicks"].update(
            columns=[["user", {"Datetime": ["Weeks", None]}]]
        ),
        lambda raw: raw["streams"]["clicks"].update(columns=[["user", {"Array": 1}]]),
        lambda raw: raw["streams"]["clicks"].update(columns=[["user", None]]),
    ],
)
def test_definitions_that_do_not_fit_together_are_refused_in_one_line(change: Any) -> None:
    content = changed(change)
    assert content != written()
    with pytest.raises(StateError, match="stored plan"):
        read_document(content, "shop")


class Trap:
    """Runs when it is unpickled."""

    sprung = False

    def __call__(self, values: pl.Series) -> pl.Series:
        return values

    def __reduce__(self) -> Any:
        return setattr, (Trap, "sprung", True)


def test_a_pickled_function_is_never_unpickled() -> None:
    expr = pl.col("x").map_batches(Trap(), return_dtype=pl.Boolean)
    raw = expr.meta.serialize()
    steps = msgspec.msgpack.encode([("filter", [("", raw)])])

    def smuggle(found: Any) -> None:
        found["views"]["by_user@1"]["steps"] = msgspec.to_builtins(steps)

    with pytest.raises(StateError, match="stored plan can't be read"):
        read_document(changed(smuggle), "shop")
    assert not Trap.sprung


def test_a_type_that_depends_on_other_rows_is_not_written() -> None:
    view = next(iter(clicks_plan().views.values())).view

    @hw.on_demand(inputs=[view, hw.request("colour", pl.Categorical)])
    def known(row):
        return row.with_columns(known=pl.col("colour").is_not_null())

    plan = compile_plan([hw.service("s", [view, known])])
    with pytest.raises(DefinitionError, match=r'"colour" can\'t be stored: .*keep the string'):
        write_document(plan, "shop")
