"""What every command says of itself, and what `inspect` and `doctor` show."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from atom_edge.cli import app
from atom_edge.cli.figures import figure_rows
from atom_edge.manifest import Figure, Measured, Validation

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # it is a group


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "-h"], env={"COLUMNS": "120"}).stdout
    assert shown == CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"}).stdout
    examples = re.findall(r"atom-edge (.+)", shown.partition("Examples:")[2])
    assert examples
    group = typer.main.get_command(app)
    for example in examples:
        name, *arguments = shlex.split(example)
        assert name == command
        group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]  # a group


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "atom_edge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("atom-edge ")


def test_the_shell_completes_commands() -> None:
    result = CliRunner().invoke(
        app,
        [],
        prog_name="atom-edge",
        env={
            "_ATOM_EDGE_COMPLETE": "complete_bash",
            "COMP_WORDS": "atom-edge ins",
            "COMP_CWORD": "1",
        },
    )
    assert "inspect" in result.stdout


def test_inspect_fits_a_screen_and_all_shows_the_rest() -> None:
    screen = CliRunner().invoke(app, ["inspect"], env={"COLUMNS": "80"}).stdout
    assert "int8" in screen
    assert "None" not in screen
    everything = CliRunner().invoke(app, ["inspect", "--all"], env={"COLUMNS": "80"}).stdout
    assert "sha256" in everything
    assert len(screen.splitlines()) < len(everything.splitlines()) / 3


def test_extras_that_are_missing_are_named_with_what_to_type() -> None:
    """In a process that cannot find the packages of the extras."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'lm_eval'): sys.modules[name] = None\n"
        "from atom_edge.cli import main; main()"
    )
    for command, extra in (("pretrain", "train"), ("eval", "eval"), ("export", "export")):
        arguments = ["atom-card"] if command == "pretrain" else []
        result = subprocess.run(
            [sys.executable, "-c", code, command, *arguments], capture_output=True, text=True
        )
        assert result.returncode == 1
        assert f"pip install '.[{extra}]'" in result.stderr, result.stderr


def test_a_validation_is_shown_by_what_is_nearest_to_its_limit() -> None:
    figures = (
        Figure("mean_kl.lengths", 0.001, None, 0.004),
        Figure("mean_kl.prefill", 0.0031, 0.0001, 0.004),
        Figure("logit_difference.lengths", 1.1),
        Figure("perplexity_ratio.prefill", 1.01, 0.001, 1.008),
        Figure("same_top_token.prefill", 0.98, 0.002),
    )
    validation = Validation(measured=(Measured("model", "8-bit weights", figures),))
    assert list(figure_rows(validation, everything=False)) == [
        ("graph 'model'", "", "", ""),
        ("  8-bit weights", "", "", ""),
        ("  mean KL, prefill", "0.00310 ± 0.00010", "0.004", "passed"),
        ("  perplexity ratio, prefill", "1.01000 ± 0.00100", "1.008", "FAILED"),
        ("  same top token, prefill", "0.98000 ± 0.00200", "", ""),
        ("  checks", "2 of 3 hold", "", "FAILED"),
    ]
    assert len(list(figure_rows(validation, everything=True))) == 7
