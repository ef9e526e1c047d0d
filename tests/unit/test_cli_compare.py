"""`headwater view compare`, as users call it, on a store in a folder."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import headwater as hw
from headwater.cli import compare, main
from headwater.cli.definitions_file import load_definitions
from headwater.offline.sources import LogEvents

FEATURES = """
import polars as pl
import headwater as hw

orders = hw.stream(
    "orders",
    schema={"shop": pl.String, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")},
    event_time="at",
)
shop = hw.entity("shop", key="shop")


def view(version, rows, **aggregates):
    features = rows.group_by(shop).window("1h", "7d").agg(n=hw.count(), **aggregates)
    return hw.view("sales", version=version, features=features)


sales_1 = view(1, orders, total=hw.sum("amount"), top=hw.max("amount"))
"""
SECOND = """
sales_2 = view(
    2, orders.filter(pl.col("amount") > 0), total=hw.sum("amount"), mean=hw.mean("amount")
)
"""
STORE = "store"
AT = datetime(2026, 3, 1, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, in which both versions are applied, and events."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("features.py").write_text(FEATURES + SECOND, encoding="utf-8")
        Path("one.py").write_text(FEATURES, encoding="utf-8")
        assert main(["apply", "features.py", "--folder", STORE, "--yes"]) == 0
        with hw.local(load_definitions("features.py"), path=STORE) as store:
            store.push(
                "orders",
                [
                    {"shop": shop, "amount": amount, "at": (AT + timedelta(minutes=m)).isoformat()}
                    for m, (shop, amount) in enumerate(
                        [("a", 2.0), ("a", -1.0), ("a", 4.0), ("b", 5.0)]
                    )
                ],
            )
            store.settle()
    return folder


@pytest.fixture(autouse=True)
def inside(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["view", "compare", *arguments, "--folder", STORE])
    said = capsys.readouterr()
    return code, said.out, said.err


def facts(capsys, *arguments: str) -> dict:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_two_versions_are_told_apart_on_events_of_history(capsys) -> None:
    code, out, err = run(capsys, "sales@1", "sales@2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "sales@1 and sales@2 for 4 rows of history, seed 0:"
    row = next(line for line in lines if "total_1h" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["total_1h", "4", "2", "2", "0", "0", "1", "50.000%", "other rows: filter"]
    assert "only in sales@1: top_1h, top_7d" in lines
    assert "only in sales@2: mean_1h, mean_7d" in lines
    assert "total_1h of shop=a at 2026-03-01T08:01:00.000001+00:00: 1.0 -> 2.0" in lines
    assert '  + step        (filter (gt (col "amount") (lit int 0)))' in lines
    assert lines[-1] == "values differ: n_1h, n_7d, total_1h, total_7d"


def test_a_version_is_the_same_as_itself(capsys) -> None:
    code, out, _ = run(capsys, "sales@1", "sales@1", "--fail-on-difference")
    assert code == 0
    assert out.splitlines()[-1] == "every value is the same, bit for bit"
    assert "what changed" not in out


def test_a_difference_fails_only_where_that_is_asked_for(capsys) -> None:
    code, out, _ = run(capsys, "sales@1", "sales@2", "--fail-on-difference", "--json")
    assert code == 1
    assert json.loads(out)["is_same"] is False


def test_machines_get_one_document(capsys) -> None:
    found = facts(capsys, "sales@1", "sales@2", "--rows", "4")
    total = next(one for one in found["features"] if one["name"] == "total_7d")
    assert total.pop("examples")[1:] == [
        {
            "entity": {"shop": "a"},
            "at": "2026-03-01T08:02:00.000001+00:00",
            "old": 5.0,
            "new": 6.0,
        }
    ]
    assert total == {
        "name": "total_7d",
        "old_type": "Float64",
        "new_type": "Float64",
        "compared": 4,
        "equal": 2,
        "differing": 2,
        "only_old": 0,
        "only_new": 0,
        "largest_absolute": 1.0,
        "largest_relative": 0.5,
        "why": ["other rows: filter"],
    }
    assert (found["rows"], found["is_same"], found["output"]) == (4, False, None)


def test_the_same_seed_chooses_the_same_rows(capsys) -> None:
    first, again = (facts(capsys, "sales@1", "sales@2", "--rows", "2") for _ in range(2))
    assert first == again
    assert first["rows"] == 2


def spine(*hours: int) -> pl.DataFrame:
    at = [(AT + timedelta(hours=h)).replace(tzinfo=None) for h in hours]
    moments = pl.Series(at, dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.DataFrame({"shop": ["a"] * len(hours), "when": moments, "label": list(hours)})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_rows_of_a_file_are_compared_and_those_that_differ_kept(
    capsys, tmp_path, suffix, monkeypatch
) -> None:
    monkeypatch.setattr(compare, "_PART_ROWS", 2)
    rows, given, kept = spine(-1, 1, 48, 400, 2), tmp_path / f"in.{suffix}", tmp_path / "out"
    rows.write_csv(given) if suffix == "csv" else rows.write_parquet(given)
    kept = kept.with_suffix(f".{suffix}")
    found = facts(
        capsys, "sales@1", "sales@2", "--spine", str(given), "--time", "when", "--output", str(kept)
    )
    assert (found["rows"], found["spine"], found["output"]) == (5, str(given), str(kept))
    differing = pl.read_csv(kept) if suffix == "csv" else pl.read_parquet(kept)
    names = ["n_1h", "n_7d", "total_1h", "total_7d"]
    assert differing.columns == [
        "shop", "when", *(f"{side}.{name}" for name in names for side in ("old", "new")),
    ]  # fmt: skip
    # Before the first event, and when all have left the windows, the two agree.
    assert differing["old.n_7d"].to_list() == [3, 3, 3]
    assert differing["new.n_7d"].to_list() == [2, 2, 2]


def test_a_version_that_is_not_applied_comes_from_its_file(capsys, made: Path) -> None:
    third = 'sales_3 = view(3, orders, total=hw.sum("amount"), top=hw.min("amount"))\n'
    (made / "third.py").write_text(FEATURES + third, encoding="utf-8")
    code, _, err = run(capsys, "sales@1", "sales@3")
    assert code == 1
    assert 'view sales@3 is not applied to namespace "local"' in err
    assert "(known: sales@1, sales@2)" in err
    found = facts(capsys, "sales@1", "sales@3", "--file", "third.py")
    top = next(one for one in found["features"] if one["name"] == "top_1h")
    assert top["why"] == ["max(amount) -> min(amount)"]
    assert top["differing"] == 2
    # Nothing of it was applied.
    assert run(capsys, "sales@1", "sales@3")[0] == 1


def test_a_removed_version_says_that_it_was(capsys, made: Path) -> None:
    ninth = 'sales_9 = view(9, orders, total=hw.sum("amount"))\n'
    (made / "ninth.py").write_text(FEATURES + ninth, encoding="utf-8")
    assert main(["apply", "ninth.py", "--folder", STORE, "--yes"]) == 0
    assert main(["view", "remove", "sales", "9", "--folder", STORE, "--yes"]) == 0
    code, _, err = run(capsys, "sales@1", "sales@9")
    assert code == 1
    assert "view sales@9 was removed; name a file that defines it with --file" in err
    assert facts(capsys, "sales@1", "sales@9", "--file", "ninth.py")["rows"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sales", "sales@2"), 1, '"sales" names no version; write sales@1 (known: sales@1,'),
        (("sales@1", "sale@2"), 1, 'Did you mean "sales@2"?'),
        (("sales@1", "sales@2", "--rows", "0"), 2, "--rows 0: at least one is needed"),
        (("sales@1", "sales@2", "--time", "at"), 2, "--time needs --spine"),
        (("sales@1", "sales@2", "--spine", "one.py"), 2, "--spine needs --time"),
        (("sales@1", "sales@2", "--spine", "no", "--time", "t"), 78, "--spine no: there is no"),
        (("sales@1", "sales@2", "--output", "a.txt"), 2, "ends in .parquet or .csv"),
        (("sales@1", "sales@2", "--output", "x/a.csv"), 78, "there is no folder x; make it first"),
        (("sales@1", "sales@2", "--spine", "one.py", "--time", "t"), 2, "one.py can't be read"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_and_nothing_is_done(
    capsys, arguments, code, said
) -> None:
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_without_a_store_is_left_alone(capsys) -> None:
    assert main(["view", "compare", "a@1", "a@2", "--folder", "nowhere"]) == 1
    assert "there is no store in nowhere" in capsys.readouterr().err
    assert not Path("nowhere").exists()


def test_events_that_come_between_the_versions_count_for_neither(
    capsys, monkeypatch, made: Path, tmp_path
) -> None:
    """A live stream must not look like a difference of two versions."""
    shutil.copytree(made / STORE, tmp_path / STORE)
    monkeypatch.chdir(tmp_path)
    scan, scans = LogEvents.scan, []

    def and_then_push(self, stream, columns, span=(None, None)):
        yield from scan(self, stream, columns, span)
        scans.append(columns)
        if len(scans) == 2:  # the rows are chosen, the old version is computed
            producer = self._log.producer()
            event = b'{"shop": "b", "amount": 9.0, "at": "2026-03-01T08:00:30Z"}'
            producer.send("orders", 0, event)
            producer.flush()
            producer.close()

    monkeypatch.setattr(LogEvents, "scan", and_then_push)
    assert facts(capsys, "sales@1", "sales@1")["is_same"]
    assert len(scans) == 3
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert facts(capsys, "sales@1", "sales@1")["rows"] == 5
