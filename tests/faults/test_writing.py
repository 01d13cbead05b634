"""A destination holds the old bundle or the new one, whatever happens to the writer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from atom_edge.staging import clear_leftovers, scratch_folder, write_file

SEED = 13


def attack(subject: str, mode: str, place: Path, *numbers: int) -> dict[str, int]:
    script = Path(__file__).with_name("writer.py")
    command = [sys.executable, str(script), subject, mode, str(place), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    print(f"seed {SEED}: {counts}")
    return counts


@pytest.mark.parametrize(("subject", "times"), [("bundle", 200), ("file", 100), ("checkpoint", 15)])
def test_a_writer_killed_at_random_moments(subject: str, times: int, tmp_path: Path) -> None:
    counts = attack(subject, "kill", tmp_path / "place" / subject, SEED, times)
    assert counts["old"] > times / 10
    assert counts["new"] > 0


@pytest.mark.parametrize("subject", ["bundle", "file", "checkpoint", "snapshot"])
def test_each_operation_of_a_write_fails_once(subject: str, tmp_path: Path) -> None:
    counts = attack(subject, "fail", tmp_path / "place" / subject)
    assert counts["old"] >= 3
    if subject != "file":  # when the old one cannot be removed, the new one is there all the same
        assert counts["new"] > 0


@pytest.mark.parametrize("subject", ["bundle", "file"])
def test_writers_at_the_same_time(subject: str, tmp_path: Path) -> None:
    assert attack(subject, "race", tmp_path / "place" / subject, 12)["wrote"] >= 1


def test_a_bundle_that_a_killed_writer_had_moved_away_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".bundle.0123abcd.old").mkdir()
    (tmp_path / ".bundle.0123abcd.old" / "manifest.json").write_text("{}")
    (tmp_path / ".bundle.89ab0123.partial").mkdir()
    (tmp_path / ".bundle.notes").write_text("precious")
    clear_leftovers(tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle.notes", "bundle"]
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_a_scratch_folder_outlives_no_process(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "work"
    script = (
        "import os, pathlib, signal, sys\n"
        "from atom_edge.staging import scratch_folder\n"
        "with scratch_folder(pathlib.Path(sys.argv[1])) as scratch:\n"
        "    (scratch / 'half').write_text('done')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(place)])
    assert killed.returncode == -9
    (left,) = place.parent.iterdir()
    with scratch_folder(place) as first, scratch_folder(place) as second:
        assert set(place.parent.iterdir()) == {first, second}
        assert left not in (first, second)
    assert list(place.parent.iterdir()) == []


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "chat.txt", b"before")

    def failing(_: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="full"):
        write_file(tmp_path / "chat.txt", b"after")
    assert (tmp_path / "chat.txt").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1
