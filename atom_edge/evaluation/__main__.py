"""The command line of lm-evaluation-harness, with `--model atom-edge` registered.

Up to 0.4.13 the harness has no means by which an installed package could register a model by
itself; later ones read this package's entry point, and plain `lm_eval` does the same as this.
"""

from atom_edge.evaluation import hide_inner_bars


def main() -> None:
    """Run the harness's command line."""
    hide_inner_bars()
    from lm_eval.__main__ import cli_evaluate

    from atom_edge.evaluation.harness import register

    register()
    cli_evaluate()


if __name__ == "__main__":
    main()
