"""The installed package on emulated ARM boards, against the same on this machine."""

from __future__ import annotations

import platform
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect

from atom_edge import __version__
from atom_edge.runtimes.session import AtomSession

if TYPE_CHECKING:
    from tests.arm.conftest import Board

# The reference model is sure of these: at every step the best token leads by 0.44 or more. Kernels
# round differently on each CPU, which moves int8 logits by less, and enough to decide a near tie.
PROMPTS = ("Chemotherapy is", "How to check")
TOKENS = 64
# All in one process: under emulation its start takes longer than its work.
SCRIPT = f"""
import json, platform, sys
import atom_edge
from atom_edge import AtomSession
from atom_edge.errors import AtomEdgeError
from atom_edge.runtimes.cpu import int8_features

session = AtomSession.from_pretrained()
replies, pieces, errors = [], [], []
for prompt in {PROMPTS!r}:
    parts = list(session.stream(prompt, max_new_tokens={TOKENS}, temperature=0))
    replies.append([part.token_id for part in parts])
    pieces.append([part.text for part in parts])
sampled = session.generate("The", max_new_tokens=16, temperature=0.8, seed=7).token_ids
for arguments in ({{"temperature": -1}}, {{"max_new_tokens": 0}}):
    try:
        session.generate("The", **arguments)
    except AtomEdgeError as error:
        errors.append(type(error).__name__)
try:
    AtomSession.from_pretrained(provider="cuda")
except AtomEdgeError as error:
    errors.append(type(error).__name__)
heavy = sorted({{"torch", "transformers", "onnx"}} & set(sys.modules))
machine = [platform.machine(), sorted(int8_features())]
print(json.dumps([*machine, replies, pieces, sampled, errors, heavy]))
"""


def test_the_wheel_is_for_aarch64(wheel: Path, board: Board) -> None:
    assert wheel.name.endswith("-py3-none-linux_aarch64.whl")
    libraries = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    assert libraries == ["atom_edge/runtimes/native/libatom_edge.so"]
    code = (
        "import json; from atom_edge.runtimes import native; "
        "print(json.dumps(native.library_version(native.library())))"
    )
    assert board.evaluate(code) == __version__


def test_text_is_that_of_this_machine(board: Board) -> None:
    machine, features, replies, pieces, sampled, errors, heavy = board.evaluate(SCRIPT)
    assert platform.machine() != machine == "aarch64"
    assert features == (["dotprod"] if board.cpu == "cortex-a76" else [])
    session = AtomSession.from_pretrained()
    for prompt, reply, texts in zip(PROMPTS, replies, pieces, strict=True):
        expected = session.generate(prompt, max_new_tokens=TOKENS, temperature=0)
        assert reply == list(expected.token_ids)
        assert len(reply) == TOKENS
        assert "".join(texts) == expected.text
    assert len(sampled) == 16
    assert errors == ["GenerationError", "GenerationError", "ProviderError"]
    assert heavy == []


def test_chat_in_a_terminal(board: Board) -> None:
    command, *arguments = board.command(
        "-m", "atom_edge.cli", "chat", "--temperature", "0", "-n", "12"
    )
    terminal = pexpect.spawn(
        command,
        arguments,
        env=board.environment,
        encoding="utf-8",
        dimensions=(24, 80),
        timeout=120,
    )
    try:
        terminal.expect(r"\n(\x1b\[\?2004h)?> ")  # after bracketed paste is asked for
        terminal.sendline("The water cycle is")
        terminal.expect(r"\r\n(\x1b\[\?2004h)?> ")
        assert len(re.findall(r"\w+", terminal.before)) > 8
        terminal.sendline("/stats")
        terminal.expect(r"reply +12 tokens")
        terminal.sendline("/exit")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close()
    assert terminal.exitstatus == 0


def test_an_error_of_the_command_line(board: Board) -> None:
    result = board.run("-m", "atom_edge.cli", "generate", "The", "--bundle", "/tmp/none")
    assert result.returncode == 1
    assert "error: There is no bundle /tmp/none" in result.stderr
    assert "Traceback" not in result.stderr
