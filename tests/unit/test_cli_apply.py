"""plan, apply, view and features, as users call them, on the embedded log."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

import headwater as hw
from headwater.cli import main, output
from headwater.cli.definitions_file import load_definitions
from headwater.flow.local_folder import LocalFolder, local_settings
from headwater.flow.plans_topic import PlansTopic
from headwater_connectors.log.embedded import EmbeddedLog

FEATURES = """
import polars as pl
import headwater as hw

orders = hw.stream(
    "orders",
    schema={"shop": pl.String, "amount": pl.Float64, "ts": pl.Int64},
    event_time=hw.epoch("ts", "ms"),
)
sales = hw.view(
    "sales",
    version=1,
    owner="shops@example.com",
    description="what a shop sells",
    tags=["money"],
    features=(
        orders.filter(pl.col("amount") > 0)
        .group_by(hw.entity("shop", key="shop"))
        .window("1h", "7d", "lifetime")
        .agg(n=hw.count(), total=hw.sum("amount"))
    ),
)


@hw.on_demand(inputs=[sales, hw.request("basket", pl.Float64)])
def usual(row):
    return row.with_columns(share=pl.col("basket") / pl.col("total_1h"))


shops = hw.service("shops", [sales, usual], owner="web@example.com")
"""
STORE = "store"
T0_MS = 1_700_000_000_000


@pytest.fixture(autouse=True)
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("features.py")
    path.write_text(FEATURES, encoding="utf-8")
    return path


def edit(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main([*arguments, "--folder", STORE])
    said = capsys.readouterr()
    return code, said.out, said.err


def apply(capsys) -> str:
    code, out, err = run(capsys, "apply", "features.py", "--yes", "--author", "ann")
    assert code == 0, err
    return out


def test_plan_without_a_registry_says_what_it_always_said(capsys) -> None:
    assert main(["plan", "features.py"]) == 0
    out = capsys.readouterr().out
    assert "changes" not in out
    assert not list(Path().glob("*.db"))


def test_plan_on_a_new_folder_says_what_applying_would_do_and_makes_nothing(capsys) -> None:
    code, out, _ = run(capsys, "plan", "features.py")
    assert code == 0
    assert "view sales@1: new: state of its own, built from history" in out
    assert "there is no store in store yet" in out
    assert not Path(STORE).exists()


def test_what_is_applied_is_served_from_the_folder_without_the_file(capsys, features) -> None:
    out = apply(capsys)
    assert "service shops: new: 7 features of sales@1" in out
    assert out.splitlines()[-1] == 'applied: plan number 1 of namespace "local"'
    folder = LocalFolder(Path(STORE), local_settings(Path(STORE)))
    with closing(EmbeddedLog(folder.log)) as log:
        plan = PlansTopic(log, "local").plan()
    assert plan is not None
    features.unlink()
    with hw.local(plan.definitions, path=STORE) as store:
        store.push("orders", [{"shop": "a", "amount": 5.0, "ts": T0_MS}])
        store.settle()
        assert store.online("shops", shop=["a"], basket=[10.0])["total_lifetime"].to_list() == [5.0]


def test_applying_again_says_that_there_is_nothing_to_do(capsys) -> None:
    apply(capsys)
    code, out, _ = run(capsys, "apply", "features.py")
    assert code == 0
    assert "4 unchanged: orders, shop, sales@1, shops" in out
    assert "nothing to do" in out


def test_changed_logic_is_refused_with_its_lines_and_nothing_is_applied(capsys, features) -> None:
    apply(capsys)
    edit(features, ("> 0", "> 1"))
    code, out, _ = run(capsys, "plan", "features.py")
    assert code == 2
    assert '+ step        (filter (gt (col "amount") (lit int 1)))' in out
    code, out, err = run(capsys, "apply", "features.py", "--yes")
    assert code == 2
    assert "nothing was applied: view sales@1: refused: version 1 has other logic" in err
    assert "give the new logic version=2" in err
    assert "applied: plan number" not in out


def test_without_a_terminal_it_needs_yes(capsys) -> None:
    code, out, err = run(capsys, "apply", "features.py")
    assert code == 78
    assert "view sales@1: new" in out
    assert "run it again with --yes" in err
    assert run(capsys, "view", "list")[0] == 1


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("yes\n", 0), ("\n", 1), ("n\n", 1)])
def test_on_a_terminal_it_asks(capsys, monkeypatch, typed, code) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return typed

    monkeypatch.setattr(output.sys, "stdin", Terminal())
    found, out, _ = run(capsys, "apply", "features.py")
    assert found == code
    assert "do it? [y/N]" in out
    assert ("applied: plan number 1" in out) == (code == 0)


def test_json_names_every_change_and_asks_nobody(capsys, features) -> None:
    code, out, _ = run(capsys, "apply", "features.py", "--json")
    found = json.loads(out)
    assert (code, found["applied"], found["needed"]) == (1, None, True)
    code, out, _ = run(capsys, "apply", "features.py", "--json", "--yes")
    found = json.loads(out)
    assert (code, found["applied"]) == (0, 1)
    assert [(one["kind"], one["name"], one["action"]) for one in found["changes"]] == [
        ("stream", "orders", "new"),
        ("entity", "shop", "new"),
        ("view", "sales@1", "new"),
        ("service", "shops", "new"),
    ]
    edit(features, ("shops@example.com", "ops@example.com"))
    code, out, _ = run(capsys, "plan", "features.py", "--json")
    found = json.loads(out)
    assert code == 0
    assert "sales@1" in found["views"]
    (change,) = (one for one in found["applying"]["changes"] if one["action"] == "metadata")
    assert change["details"] == ["owner: shops@example.com -> ops@example.com"]


def test_a_new_version_is_told_what_it_is_built_from(capsys, features) -> None:
    apply(capsys)
    with hw.local(load_definitions("features.py"), path=STORE) as store:
        rows = [{"shop": "a", "amount": 1.5, "ts": T0_MS + n} for n in range(2_000)]
        store.push("orders", rows)
        store.settle()
    edit(features, ('"sales",\n    version=1', '"sales",\n    version=2'), ("> 0", "> 1"))
    code, out, _ = run(capsys, "plan", "features.py", "--json")
    found = json.loads(out)["applying"]
    assert code == 0
    history = found["history"]["orders"]
    assert history["events"] == 2_000
    assert 1_000 < history["size_bytes"] < 200_000
    assert history["begins_us"] is None
    (change,) = (one for one in found["changes"] if one["name"] == "sales@2")
    assert change["says"] == "new, beside sales@1: state of its own, built from history"
    assert change["history"][0].startswith("reads 2,000 events of orders, about ")
    code, out, _ = run(capsys, "apply", "features.py", "--yes")
    assert "1 not in this file, kept: sales@1" in out
    assert "sales@2 is new: its values say WARMING" in out


def test_a_stream_that_begins_late_names_the_windows_that_lack_history(capsys, features) -> None:
    # There is a record before the stream begins, so that not everything is known.
    folder = LocalFolder(Path(STORE), local_settings(Path(STORE)))
    with closing(EmbeddedLog(folder.log)) as log:
        log.create_topic("orders", partitions=1, append_time=False)
        with closing(log.producer()) as producer:
            producer.send("orders", 0, b"{}")
    edit(features, ('"ms"),', '"ms"), start="latest",'))
    code, out, _ = run(capsys, "plan", "features.py")
    assert code == 0
    assert "reads 0 events of orders, about 0 B" in out
    assert "history begins at " in out
    assert "the 7d window is complete from " in out
    assert "the lifetime window lacks what came before and stays WARMING" in out


def test_a_folder_in_use_is_named_and_plan_goes_on_without_it(capsys) -> None:
    apply(capsys)
    with hw.local(load_definitions("features.py"), path=STORE):
        code, out, err = run(capsys, "apply", "features.py", "--yes")
        assert code == 78
        assert "already in use by process" in err
        code, out, _ = run(capsys, "plan", "features.py")
        assert code == 0
        assert "the log can't be asked what new views are built from" in out
        # What people read needs no log.
        assert run(capsys, "view", "list")[0] == 0


def test_a_view_is_removed_when_no_service_uses_it(capsys, features) -> None:
    apply(capsys)
    edit(features, ('"sales",\n    version=1', '"sales",\n    version=2'), ("> 0", "> 1"))
    apply(capsys)
    code, _, err = run(capsys, "view", "remove", "sales", "2", "--yes")
    assert (code, 'used by service "shops"' in err) == (1, True)
    code, out, _ = run(capsys, "view", "remove", "sales", "1", "--yes", "--author", "bob")
    assert code == 0
    assert "view sales@1: removed: its state is freed" in out
    _, out, _ = run(capsys, "view", "list", "--json")
    assert [(one["version"], one["services"]) for one in json.loads(out)] == [(2, ["shops"])]
    _, out, _ = run(capsys, "view", "list", "--all", "--json")
    removed = {one["version"]: one["removed_by"] for one in json.loads(out)}
    assert removed == {1: "bob", 2: None}
    _, out, _ = run(capsys, "view", "list", "--all")
    assert "sales@1" in out
    assert "bob" in out
    code, _, err = run(capsys, "view", "remove", "sale", "1", "--yes")
    assert code == 1
    assert 'Did you mean "sales"' in err


def test_a_service_goes_back_to_what_it_was_without_the_file(capsys, features) -> None:
    apply(capsys)
    edit(features, ('"sales",\n    version=1', '"sales",\n    version=2'), ("> 0", "> 1"))
    apply(capsys)
    features.unlink()
    code, out, _ = run(capsys, "service", "roll-back", "shops", "--yes", "--author", "bob")
    assert code == 0
    assert "- view        sales@2 by shop" in out
    assert "+ view        sales@1 by shop" in out
    _, out, _ = run(capsys, "service", "history", "shops", "--json")
    assert [(one["number"], list(one["views"]), one["added_by"]) for one in json.loads(out)] == [
        (1, ["sales@1"], "ann"), (2, ["sales@2"], "ann"), (3, ["sales@1"], "bob"),
    ]  # fmt: skip
    _, out, _ = run(capsys, "service", "history", "shops")
    assert "sales@2" in out
    code, out, _ = run(capsys, "service", "roll-back", "shops", "--to", "1", "--yes")
    assert (code, "nothing to do" in out) == (0, True)
    code, _, err = run(capsys, "service", "roll-back", "shops", "--to", "9", "--yes")
    assert (code, "it has 1, 2, 3" in err) == (1, True)
    code, _, err = run(capsys, "service", "roll-back", "shop", "--yes")
    assert (code, 'Did you mean "shops"' in err) == (1, True)
    assert run(capsys, "view", "remove", "sales", "2", "--yes")[0] == 0
    code, _, err = run(capsys, "service", "roll-back", "shops", "--yes")
    assert code == 1
    assert 'service "shops" number 2 needs view sales@2, which was removed' in err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), {"n_1h", "n_7d", "n_lifetime", "total_1h", "total_7d", "total_lifetime", "share"}),
        (("TOTAL", "7d"), {"total_7d"}),
        (("share",), {"share"}),
        (("sells", "count"), {"n_1h", "n_7d", "n_lifetime"}),
        (("--owner", "web@"), {"share"}),
        (("--tag", "money", "7d"), {"n_7d", "total_7d"}),
        (("--tag", "mon"), set()),
        (("nothing", "like", "it"), set()),
    ],
)
def test_features_are_found_by_words_owner_and_tag(capsys, arguments, found) -> None:
    apply(capsys)
    code, out, _ = run(capsys, "features", *arguments, "--json")
    assert {row["feature"] for row in json.loads(out)} == found
    assert code == (0 if found else 1)
    _, out, _ = run(capsys, "features", *arguments)
    for name in found:
        assert name in out


def test_where_nothing_is_applied_every_command_says_what_to_do(capsys) -> None:
    for command in (["features"], ["view", "list"]):
        code, _, err = run(capsys, *command)
        assert code == 1
        assert "nothing is applied" in err
        assert "headwater apply features.py" in err
    code = main(["serve", "--folder", STORE, "--port", "0"])
    assert code == 1
    assert "nothing is applied" in capsys.readouterr().err


def test_a_registry_that_is_lost_is_written_again_from_the_folder(capsys) -> None:
    apply(capsys)
    Path(STORE, "registry.db").unlink()
    code, out, _ = run(capsys, "features", "share", "--json")
    assert (code, len(json.loads(out))) == (0, 1)
    code, out, _ = run(capsys, "apply", "features.py", "--yes")
    assert "nothing to do" in out
    assert Path(STORE, "registry.db").exists()


def test_another_registry_can_be_configured_for_a_folder(capsys, monkeypatch) -> None:
    monkeypatch.setenv("HEADWATER_REGISTRY__URL", "sqlite:///elsewhere.db")
    apply(capsys)
    assert Path("elsewhere.db").exists()
    assert not Path(STORE, "registry.db").exists()
