"""Generate or rate the texts of a Parquet data set on a Ray cluster.

usage: bulk_ray.py generate PROMPTS.parquet OUT --workers 8 [--bundle DIR] [--cuda]
       bulk_ray.py score TEXTS.parquet OUT --workers 8 [--bundle DIR] [--cuda]
needs: pip install 'atom-edge[cpu,ray]' on every machine of the cluster, and the bundle in the same
       folder on each. Without a cluster Ray starts one on this machine.

`generate` reads the column `prompt` and adds `text`; `score` reads `text` and adds `logprob`, the
sum of natural log-probabilities, and `tokens`.
"""

import argparse

import ray

from atom_edge.ray import generate, score


def main() -> None:
    """Read, work, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["generate", "score"])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--bundle")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cuda", action="store_true")
    given = parser.parse_args()
    data = ray.data.read_parquet(given.source)
    provider = "cuda" if given.cuda else "cpu"
    if given.work == "generate":
        options = {"max_new_tokens": 64, "temperature": 0.8, "seed": 1}
        done = generate(data, given.bundle, workers=given.workers, provider=provider, **options)
    else:
        done = score(data, given.bundle, workers=given.workers, provider=provider)
    done.write_parquet(given.target)


if __name__ == "__main__":
    main()
