"""`atom_edge.ray` on a local cluster of two workers, of which one is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest
import ray
from ray.cluster_utils import Cluster

from atom_edge.errors import GenerationError
from atom_edge.ray import generate, score
from atom_edge.runtimes.session import AtomSession

SCRIPT = Path(__file__).parents[2] / "examples" / "python" / "bulk_ray.py"
ROWS = 400
# pandas' and Ray's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that does no work itself, and two workers of one core."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_rows_of_a_killed_worker_are_done_again(
    cluster: Cluster, small_bundle: Path, tmp_path: Path
) -> None:
    session = AtomSession.from_pretrained(small_bundle, threads=1)
    prompts = [f"The river {number}" for number in range(ROWS)]
    data = ray.data.from_items([{"prompt": prompt} for prompt in prompts], override_num_blocks=20)
    done = generate(data, small_bundle, workers=2, rows=20, max_new_tokens=8, temperature=0)
    found = {}
    for row in done.iter_rows():
        assert row["prompt"] not in found
        found[row["prompt"]] = row
        if len(found) == 20:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert sorted(found) == sorted(prompts)
    for prompt in prompts[::40]:
        reply = session.generate(prompt, max_new_tokens=8, temperature=0)
        row = found[prompt]
        assert (row["text"], row["finish_reason"]) == (reply.text, reply.finish_reason)
    (rated,) = score(ray.data.from_items([{"text": "The river is"}]), small_bundle).take_all()
    ids = session.tokenizer.encode("The river is")
    expected = 0.0
    for end in range(1, len(ids)):
        top = session.generate(ids[:end], max_new_tokens=1, temperature=0, logprobs=4096).logprobs
        expected += dict(top[0].top)[ids[end]]
    assert rated["logprob"] == pytest.approx(expected, abs=1e-3)
    assert rated["tokens"] == len(ids) - 1
    with pytest.raises(GenerationError, match="temperature"):
        generate(data, small_bundle, temperature=-1)


def test_the_script_reads_and_writes_parquet(small_bundle: Path, tmp_path: Path) -> None:
    prompts = ["The river", "A", "In the old house"]
    source, target = tmp_path / "prompts.parquet", tmp_path / "texts"
    pandas.DataFrame({"prompt": prompts}).to_parquet(source)
    command = [sys.executable, str(SCRIPT), "generate", str(source), str(target)]
    done = subprocess.run(
        [*command, "--bundle", str(small_bundle)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = pandas.read_parquet(target)
    assert sorted(found["prompt"]) == sorted(prompts)
    assert all(found["generation_tokens"] > 0)
