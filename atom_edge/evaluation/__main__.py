"""The command line of lm-evaluation-harness, with `--model atom-edge` registered.

The harness has no entry point by which an installed package could register a model by itself.
"""

from lm_eval.__main__ import cli_evaluate

from atom_edge.evaluation.harness import register

if __name__ == "__main__":
    register()
    cli_evaluate()
