"""The harness's three requests, and its own command line with the model registered."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.harness import AtomEdgeLM, register
from atom_edge.evaluation.models import Model
from atom_edge.runtimes.session import AtomSession

from .conftest import CONTEXT, Exact

ROOT = Path(__file__).parents[3]
TEXT = "Water runs down the hill and into the river, which carries it to the sea. " * 15


@pytest.fixture(scope="module")
def lm(bundle_model: Model) -> AtomEdgeLM:
    return AtomEdgeLM(bundle_model)


def ask(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


def test_loglikelihood(lm: AtomEdgeLM, exact: Exact) -> None:
    pairs = [("The sun", " is hot"), ("The sun ", "is hot"), ("", "The sun"), ("The sun", " is")]
    found = lm.loglikelihood(ask("loglikelihood", *pairs))
    encode = lm.model.tokenizer.encode
    whole, context = encode("The sun is hot"), encode("The sun")
    options = [
        (whole, len(whole) - len(context)),
        (whole, len(whole) - len(context)),  # a space at the end belongs to what follows
        ([lm.eot_token_id, *context], len(context)),
        (encode("The sun is"), len(encode("The sun is")) - len(context)),
    ]
    expected = [float(exact(*one)[0].sum()) for one in options]
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-3)


def test_rolling_loglikelihood_predicts_each_token_once(lm: AtomEdgeLM, exact: Exact) -> None:
    ids = lm.model.tokenizer.encode(TEXT)
    assert 2 * CONTEXT < len(ids) < 3 * CONTEXT
    stream = [lm.eot_token_id, *ids]
    # Whole windows of the context one after another; the last one sees as much as fits.
    sums = [exact(stream[start : start + CONTEXT + 1], CONTEXT)[0].sum() for start in (0, CONTEXT)]
    sums.append(exact(stream[-(CONTEXT + 1) :], len(ids) - 2 * CONTEXT)[0].sum())
    short = lm.model.tokenizer.encode("A short text.")
    expected = [float(sum(sums)), float(exact([lm.eot_token_id, *short], len(short))[0].sum())]
    found = lm.loglikelihood_rolling(ask("loglikelihood_rolling", (TEXT,), ("A short text.",)))
    assert found == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("name", ["bundle_model", "snapshot_model"])
def test_generation_is_greedy_and_ends_before_a_stop(
    name: str, small_bundle: Path, request: pytest.FixtureRequest
) -> None:
    lm = AtomEdgeLM(request.getfixturevalue(name))
    session = AtomSession.from_pretrained(small_bundle, threads=1)
    whole = session.generate("The sun", max_new_tokens=30, temperature=0).text
    last = session.generate(TEXT, max_new_tokens=1, temperature=0)
    stop = whole[10:14]
    arguments = [
        ("The sun", {"until": [], "max_gen_toks": 30}),
        ("The sun", {"until": ["never said", stop], "max_gen_toks": 30, "do_sample": False}),
        ("The sun", {"until": stop, "max_gen_toks": 30}),
        (TEXT, {"max_gen_toks": 1}),
    ]
    before = whole[: whole.index(stop)]
    found = lm.generate_until(ask("generate_until", *arguments), disable_tqdm=True)
    assert found == [whole, before, before, last.text]
    assert last.truncated_tokens > 0


def test_what_is_evaluated_must_be_named_once(small_bundle: Path) -> None:
    with pytest.raises(EvaluationError, match="bundle=DIR or as snapshot=DIR"):
        AtomEdgeLM()
    with pytest.raises(EvaluationError, match="bundle=DIR or as snapshot=DIR"):
        AtomEdgeLM(bundle=str(small_bundle), snapshot=str(small_bundle))


def test_the_harness_finds_the_model_by_name() -> None:
    register()
    register()
    assert get_model("atom-edge") is AtomEdgeLM
    assert get_model("dummy") is not None  # and its own models still
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = project["entry-points"]["lm_eval.models"].items()
    entry = importlib.metadata.EntryPoint(name, value, "lm_eval.models")
    assert (name, entry.load()) == ("atom-edge", AtomEdgeLM)


def test_the_harness_s_own_command_line(small_bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": "The sun is", "good": " hot", "bad": " cold", "label": 0}] * 2
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "heat.yaml").write_text(
        f"""
        task: heat
        dataset_path: json
        dataset_kwargs: {{data_files: {{test: {data}}}}}
        test_split: test
        output_type: multiple_choice
        doc_to_text: "{{{{text}}}}"
        doc_to_choice: ["{{{{good}}}}", "{{{{bad}}}}"]
        doc_to_target: label
        metric_list: [{{metric: acc}}]
        """,
        encoding="utf-8",
    )
    command = [
        *(sys.executable, "-m", "atom_edge.evaluation", "--model", "atom-edge"),
        *("--model_args", f"bundle={small_bundle},threads=1", "--tasks", "heat"),
        *("--include_path", str(tmp_path)),
    ]
    environment = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "|heat" in done.stdout
    assert "|acc" in done.stdout
