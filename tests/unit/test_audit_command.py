"""`headwater audit` on the folder of an embedded store."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from audit_harness import (
    ROWS,
    SHARDS,
    USERS,
    corrupt,
    corrupt_on_disk,
    opened,
    service,
    stream_and_ask,
)
from harness import BASE_US, SECOND_US, moment

from headwater.cli import main
from headwater.flow.sample_log import SampleSettings
from headwater.plan.ops import COUNT_ROWS
from headwater.plan.plan import compile_plan
from headwater.state.store import Stores
from headwater_connectors.archive.sealed import seal

if TYPE_CHECKING:
    from pathlib import Path

    from headwater.local_store import LocalStore

ALL = SampleSettings(per_s=1e9)
DEFINITIONS = "from audit_harness import against, by_shop, by_user, service\n"


def ask(store: LocalStore) -> None:
    store.answer("payers", at=moment(BASE_US + 3_000 * SECOND_US), **ROWS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has streamed, and has then answered once."""
    folder = tmp_path_factory.mktemp("audit") / "store"
    with opened(folder) as store:
        stream_and_ask(store, chunks=4)
    with opened(folder, samples=ALL) as store:
        ask(store)
    return folder


@pytest.fixture
def folder(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features.py").write_text(DEFINITIONS, encoding="utf-8")
    shutil.copytree(served, tmp_path / "store")
    return tmp_path / "store"


def told(capsys: Any, folder: Path, *arguments: str, code: int = 0) -> Any:
    found = main(["audit", "features.py", "--folder", str(folder), *arguments, "--json"])
    out, error = capsys.readouterr()
    assert found == code, out + error
    return json.loads(out)


def sample_files(folder: Path) -> list[Path]:
    return sorted((folder / "samples/local/local").iterdir())


def test_what_was_served_right_is_said_to_be(folder, capsys) -> None:
    found = told(capsys, folder)
    assert (found["vectors"], found["differing"], found["files"]) == (len(USERS), 0, 1)
    assert found["compared"] == 13 * len(USERS)
    assert found["differences"] == found["not_compared"] == found["skipped"] == []
    assert main(["audit", "features.py", "--folder", str(folder)]) == 0
    assert capsys.readouterr().out == (
        f"compared {13 * len(USERS)} values of {len(USERS)} vectors: none differs\n"
    )


def test_a_corrupted_tile_is_named_with_both_values(folder, capsys) -> None:
    shutil.rmtree(folder / "samples")
    with opened(folder, samples=ALL) as store:
        # Rows come back from disk when an event touches them.
        store.push("payments", [{"user": "u7", "shop": 1, "x": 1.0, "at": BASE_US}])
        store.settle()
        corrupt(store, "u7", COUNT_ROWS, tile=0, word=0, change=lambda n: n + 1)
        ask(store)
    found = told(capsys, folder, code=1)
    (one,) = found["differences"]
    assert (one["service"], one["feature"], one["entity"]) == (
        "payers", "by_user.n_lifetime", "user=u7",
    )  # fmt: skip
    assert int(one["served"]) == int(one["recomputed"]) + 1
    assert one["t"] == moment(BASE_US + 3_000 * SECOND_US).isoformat().replace("+00:00", "Z")
    assert main(["audit", "features.py", "--folder", str(folder)]) == 1
    out = capsys.readouterr().out
    for text in ("by_user.n_lifetime", "user=u7", one["served"], one["recomputed"], "1 differ"):
        assert text in out


def test_a_tile_that_was_corrupted_on_disk_is_named(folder, capsys) -> None:
    shutil.rmtree(folder / "samples")
    stores = Stores(folder / "state")
    corrupt_on_disk(stores, SHARDS, compile_plan([service]).views["by_user@1"], "u5")
    stores.close()
    with opened(folder, samples=ALL) as store:
        ask(store)
    found = told(capsys, folder, code=1)
    assert {(one["feature"], one["entity"]) for one in found["differences"]} == {
        ("by_user.n_lifetime", "user=u5")
    }


def test_without_samples_nothing_is_compared_and_the_exit_code_says_so(folder, capsys) -> None:
    shutil.rmtree(folder / "samples")
    found = told(capsys, folder, code=1)
    assert (found["vectors"], found["compared"]) == (0, 0)
    assert main(["audit", "features.py", "--folder", str(folder)]) == 1
    assert (
        f"nothing was compared: no samples of that time in {folder}/samples/local;"
        in capsys.readouterr().out
    )


class _Later(msgspec.Struct):
    format: int = 2


def test_damaged_files_are_named_and_the_others_compared(folder, capsys) -> None:
    (good,) = sample_files(folder)
    data = good.read_bytes()
    where = good.parent
    for digit, damaged in enumerate(
        [data[:-40], data.replace(b'"t_us":17', b'"t_us":18', 1), seal(_Later())[0], b""]
    ):
        assert damaged != data
        (where / f"{1:020d}-{1:020d}-{digit:08x}.json").write_bytes(damaged)
    found = told(capsys, folder)
    assert (found["files"], found["compared"]) == (1, 13 * len(USERS))
    assert len(found["skipped"]) == 4
    text = "\n".join(found["skipped"])
    assert "is torn" in text
    assert "fails its checksum" in text
    assert "samples of format 2, this version reads 1" in text
    assert main(["audit", "features.py", "--folder", str(folder)]) == 0
    assert capsys.readouterr().out.count("not read: ") == 4
    good.unlink()
    assert told(capsys, folder, code=1)["compared"] == 0


def test_only_what_was_served_in_time_is_compared(folder, capsys) -> None:
    assert told(capsys, folder, "--since", "1h")["vectors"] == len(USERS)
    assert told(capsys, folder, "--until", "1h", code=1)["vectors"] == 0
    assert told(capsys, folder, "--until", "2200-01-01")["vectors"] == len(USERS)
    assert told(capsys, folder, "--since", "2200-01-01T00:00:00Z", code=1)["vectors"] == 0


def test_the_newest_requests_come_first_up_to_the_limit(folder, capsys) -> None:
    with opened(folder, samples=ALL) as store:
        for _ in range(3):
            ask(store)
    assert told(capsys, folder)["vectors"] == 4 * len(USERS)
    found = told(capsys, folder, "--limit", str(len(USERS) + 1))
    assert found["vectors"] == 2 * len(USERS)
    assert found["files"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--since", "yesterday"], 2, "--since: 'yesterday' is not a duration"),
        (["--limit", "0"], 2, "--limit 0: compare at least one vector"),
        (["--folder", "nowhere"], 78, "no store in folder nowhere"),
    ],
)
def test_a_mistake_is_told_in_one_line(folder, capsys, arguments, code, text) -> None:
    given = arguments if "--folder" in arguments else ["--folder", str(folder), *arguments]
    assert main(["audit", "features.py", *given]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_without_definitions_it_goes_by_what_is_applied(folder, capsys) -> None:
    assert main(["audit", "--folder", str(folder)]) == 1
    assert "nothing is applied" in capsys.readouterr().err
    assert main(["apply", "features.py", "--folder", str(folder), "--yes"]) == 0
    capsys.readouterr()
    assert main(["audit", "--folder", str(folder)]) == 0
    assert "none differs" in capsys.readouterr().out


def test_what_was_served_before_the_last_change_is_compared_by_the_plan_of_then(
    folder, tmp_path, capsys
) -> None:
    def step(*command: str) -> None:
        assert main([*command, "--folder", str(folder), "--yes"]) == 0
        capsys.readouterr()
        assert main(["audit", "--folder", str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["compared"], found["not_compared"]) == (13 * len(USERS), [])

    step("apply", "features.py")
    (tmp_path / "features.py").write_text(
        "import headwater as hw\nfrom audit_harness import by_shop\n"
        'service = hw.service("payers", [by_shop])\n',
        encoding="utf-8",
    )
    step("apply", "features.py")
    step("view", "remove", "by_user", "1")


def test_of_very_many_differences_some_are_kept_and_all_counted(
    folder, capsys, monkeypatch
) -> None:
    shutil.rmtree(folder / "samples")
    with opened(folder, samples=ALL) as store:
        touched = [{"user": f"u{n}", "shop": 1, "x": 1.0, "at": BASE_US} for n in range(20)]
        store.push("payments", touched)
        store.settle()
        for n in range(20):
            corrupt(store, f"u{n}", COUNT_ROWS, tile=0, word=0, change=lambda n: n + 1)
        ask(store)
    monkeypatch.setattr("headwater.offline.audited_columns._DIFFERENCES_MAX", 3)
    found = told(capsys, folder, code=1)
    assert found["differing"] >= 20
    assert len(found["differences"]) == 3
    assert main(["audit", "features.py", "--folder", str(folder)]) == 1
    assert f"and {found['differing'] - 3} more differences" in capsys.readouterr().out
