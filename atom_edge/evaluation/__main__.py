"""The command line of lm-evaluation-harness, with `--model atom-edge` registered.

Up to 0.4.13 the harness has no means by which an installed package could register a model by
itself; later ones read this package's entry point, and plain `lm_eval` does the same as this.
"""

from lm_eval.__main__ import cli_evaluate

from atom_edge.evaluation.harness import register

if __name__ == "__main__":
    register()
    cli_evaluate()
