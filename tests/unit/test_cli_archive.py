from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from archive_harness import FOLDER, ID, TOPIC, add, files, offsets, open_archive

from headwater.cli import main
from headwater_connectors.archive.snapshot import Snapshot

if TYPE_CHECKING:
    from headwater_connectors.archive.archive import Archive


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    archive = open_archive(tmp_path / "archive")
    for partition in (0, 1):
        for _ in range(3):
            add(archive, 4, partition=partition)
    (tmp_path / "work/headwater.toml").write_text(
        f'[worker]\narchive = "{tmp_path / "archive"}"\n', encoding="utf-8"
    )
    return archive


def told(capsys, *arguments: str, code: int = 0) -> Any:
    assert main(["archive", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_sound_archive_is_verified(archive, capsys) -> None:
    found = told(capsys, "verify")
    assert found["problems"] == 0
    assert [one["partition"] for one in found["partitions"]] == [0, 1]
    one = found["partitions"][0]
    assert (one["rows"], one["files"], one["manifests"], one["problems"]) == (12, 3, 3, [])
    assert main(["archive", "verify", TOPIC]) == 0
    assert f"{TOPIC}@{ID}[0]: 12 rows in 3 files" in capsys.readouterr().out


def test_damage_is_listed_and_the_exit_code_says_so(archive, tmp_path, capsys) -> None:
    paths = files(tmp_path / "archive" / FOLDER, ".parquet")
    data = bytearray(paths[0].read_bytes())
    data[50] ^= 1
    paths[0].write_bytes(data)
    paths[2].unlink()
    found = told(capsys, "verify", code=1)
    assert found["problems"] == 2
    damaged, missing = found["partitions"][0]["problems"]
    assert "rows/0-3-0.parquet is damaged between bytes 0 and" in damaged
    assert "rows/8-11-0.parquet is missing, although a manifest names it; restore" in missing
    assert main(["archive", "verify"]) == 1
    assert "2 problems" in capsys.readouterr().out


def test_files_are_compacted_and_replaced_ones_deleted_later(archive, capsys) -> None:
    found = told(capsys, "compact", TOPIC)
    assert [(one["files_before"], one["files_after"]) for one in found["partitions"]] == [
        (3, 1)
    ] * 2
    assert offsets(archive) == [*range(12), *range(12)]
    assert [one["files_before"] for one in told(capsys, "compact")["partitions"]] == [0, 0]
    assert [one["deleted_files"] for one in told(capsys, "retain")["partitions"]] == [0, 0]
    assert told(capsys, "verify")["problems"] == 0


def test_retention_drops_what_no_snapshot_holds(archive, capsys) -> None:
    named = told(capsys, "snapshot", "model-7")
    assert offsets(archive, snapshot=Snapshot.parse(named["snapshot"])) == [*range(12)] * 2
    assert told(capsys, "snapshots") == [named]
    assert main(["archive", "snapshots"]) == 0
    assert "model-7  20" in capsys.readouterr().out
    found = told(capsys, "retain", "--older-than", "90d")["partitions"]
    assert [(one["dropped_files"], one["held_by"]) for one in found] == [(0, ["model-7"])] * 2
    assert main(["archive", "retain", "--older-than", "90d"]) == 0
    assert "; held by model-7" in capsys.readouterr().out
    assert main(["archive", "remove-snapshot", "model-7"]) == 0
    would = told(capsys, "retain", "--older-than", "90d", "--dry-run")
    assert would["dry_run"] is True
    assert [one["dropped_rows"] for one in would["partitions"]] == [12, 12]
    assert len(offsets(archive)) == 24
    assert told(capsys, "retain", "--older-than", "90d")["partitions"] == would["partitions"]
    assert offsets(archive) == []


def test_how_long_history_is_kept_is_a_setting(archive, capsys) -> None:
    file = Path("headwater.toml")
    file.write_text(f"{file.read_text()}[archive]\nkeep_days = 30\n", encoding="utf-8")
    assert told(capsys, "retain", "--dry-run")["partitions"][0]["dropped_files"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["verify", "flihgts"], 1, 'no topic "flihgts" in the archive. Did you mean "flights"?'),
        (["compact", "--archive="], 78, "no archive is configured"),
        (["retain", "--older-than", "90"], 2, "is not a duration"),
        (["snapshot", "a/b"], 78, "can't name a snapshot"),
        (["remove-snapshot", "nobody"], 78, 'no snapshot "nobody"'),
        (["verify", "--archive", "ftp://a"], 78, "must be a folder, or a URL"),
        (["snapshot", "a", "--archive", "empty"], 1, "nothing is archived yet"),
    ],
)
def test_mistakes_are_told_in_one_line(archive, capsys, arguments, code, said) -> None:
    assert main(["archive", *arguments]) == code
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
