"""`atom-edge bench`: its figures fit together, and every output can be read again."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atom_edge.chart import Bar, bar_chart
from atom_edge.cli import app
from atom_edge.runtimes.cpu import cpu_name

SMALL = ["--prompt", "16", "--generate", "4", "--threads", "1", "--repetitions", "2"]


def bench(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_every_combination_and_consistent_rates(small_int8_bundle: Path) -> None:
    lists = ["--batch", "1,3", "--position", "0,20"]
    results = json.loads(bench(str(small_int8_bundle), *SMALL, *lists, "--json"))["results"]
    assert [(r["test"], r["batch_size"]) for r in results] == [
        (test, batch) for batch in (1, 3) for test in ("pp16", "tg4", "pp16 @ 20", "tg4 @ 20")
    ]
    for result in results:
        tokens = (result["prompt_tokens"] or result["new_tokens"]) * result["batch_size"]
        rates = [tokens / seconds for seconds in result["seconds"]]
        assert len(rates) == 2
        assert result["tokens_per_second"] == pytest.approx(sum(rates) / 2)


def test_csv_markdown_and_picture(small_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    text = bench(str(small_bundle), *SMALL, "-o", "csv", "--picture", str(picture))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["test"] for row in rows] == ["pp16", "tg4"]
    assert all(float(row["tokens/s"]) > 0 for row in rows)
    labels = [element.text for element in ET.parse(picture).getroot().iter() if element.text]
    assert "tg4, 1 thread, batch 1" in labels
    assert any(cpu_name() in label for label in labels)
    assert bench(str(small_bundle), *SMALL, "-o", "md").startswith("| test | threads |")


def test_a_picture_as_png_is_one(small_bundle: Path, tmp_path: Path) -> None:
    bench(str(small_bundle), *SMALL, "--picture", str(tmp_path / "bench.png"))
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    refused = CliRunner().invoke(app, ["bench", str(small_bundle), "--picture", "bench.gif"])
    assert refused.exit_code == 2


def test_repetitions_are_as_many_as_two_seconds_hold(small_bundle: Path) -> None:
    arguments = (str(small_bundle), "--prompt", "16", "--generate", "4", "--json")
    for result in json.loads(bench(*arguments))["results"]:
        assert len(result["seconds"]) >= 5
        assert sum(result["seconds"]) > 1.5


def test_what_does_not_fit_the_context_is_refused_before_it_runs(small_bundle: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(small_bundle), *SMALL, "--position", "120"])
    assert "pp16 @ 120 ends at token 136, and the context is 128" in str(result.exception)
    assert CliRunner().invoke(app, ["bench", "--threads", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "--batch", "two"]).exit_code == 2


def test_bars_are_in_proportion() -> None:
    svg = bar_chart("a < b", "s", [Bar("one", 10), Bar("two", 20, highlighted=True)])
    root = ET.fromstring(svg)
    widths = [float(r.attrib["width"]) for r in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], rel=1e-3)
    assert any(text.text == "a < b (s)" for text in root.iter("{http://www.w3.org/2000/svg}text"))
