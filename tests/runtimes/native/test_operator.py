"""The operator computes the decoder, the same bits however the tokens are cut into runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import Ids, Sequences, open_session, random_decoder, reference_logits
from families import COMPUTED, save_random
from hypothesis import given, settings
from hypothesis import strategies as st

from atom_edge.checkpoint import open_snapshot
from atom_edge.exporters.description import Description, describe
from atom_edge.exporters.native import Scheme, build
from atom_edge.reference import checkpoint_path

SCHEMES = (
    Scheme(segment=0),
    Scheme(segment=32),
    Scheme(segment=96),
    Scheme(segment=32, activation_by_row=True),
    Scheme(segment=32, activation_bits=16),
    Scheme(segment=64, activation_bits=16, activation_by_row=True),
)


def some_ids(decoder: Description, *shape: int, seed: int = 1) -> Ids:
    return np.random.default_rng(seed).integers(0, len(decoder.embedding), shape)


@st.composite
def decoders(draw: st.DrawFn) -> Description:
    """Decoders of the shapes and options that the operator has."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    head_size = draw(st.sampled_from([4, 8, 16, 24, 40, 64]))
    layers = draw(st.integers(1, 3))
    return random_decoder(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        layers=layers,
        hidden=draw(st.sampled_from([12, 16, 40, 96, 144])),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_size=head_size,
        feed_forward=draw(st.sampled_from([10, 48, 100])),
        vocabulary=draw(st.sampled_from([17, 64, 131])),
        tied=draw(st.booleans()),
        biases=draw(st.booleans()),
        norms=draw(st.booleans()),
        rotary_pairs=draw(st.integers(0, head_size // 2)),
        unrotated=draw(st.sets(st.integers(0, layers - 1))),
        epsilon=draw(st.sampled_from([1e-6, 1e-5])),
        rotary_scale=draw(st.sampled_from([1.0, 1.1])),
        attention_scale=draw(st.sampled_from([None, 0.1])),
        embedding_scale=draw(st.sampled_from([1.0, 5.0])),
        residual_scale=draw(st.sampled_from([1.0, 0.3])),
        logit_scale=draw(st.sampled_from([1.0, 0.25])),
        exclusive=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None, print_blob=True)
@given(decoder=decoders(), tokens=st.integers(1, 40))
def test_every_option_is_computed(decoder: Description, tokens: int) -> None:
    ids = some_ids(decoder, tokens)
    expected = reference_logits(decoder, ids)
    session = open_session(build(decoder, Scheme(segment=16, activation_bits=16)))
    logits = Sequences(session).append(ids[None])
    # int8 weights in segments of 16: half a percent of each weight.
    assert np.abs(logits - expected).mean() < 0.06 * expected.std()


@pytest.mark.parametrize("name", COMPUTED)
def test_transformers_own_classes_are_described(tmp_path: Path, name: str) -> None:
    theirs = save_random(tmp_path, *COMPUTED[name])
    decoder = describe(open_snapshot(tmp_path).model)
    ids = some_ids(decoder, 60)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)[None]).logits[0].numpy()
    assert np.abs(reference_logits(decoder, ids) - expected).max() < 1e-5
    logits = Sequences(open_session(build(decoder, Scheme(16, 16)))).append(ids[None])
    assert np.abs(logits - expected).mean() < 0.06 * expected.std()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_prefill_has_the_bits_of_decode(scheme: Scheme) -> None:
    decoder = random_decoder(np.random.default_rng(0), head_size=24, heads=6, exclusive=True)
    session = open_session(build(decoder, scheme))
    ids = some_ids(decoder, 1, 600)
    whole = Sequences(session, context=600).append(ids)
    one = Sequences(session, context=600, seed=1)
    steps = [one.append(ids[:, i : i + 1]) for i in range(ids.shape[1])]
    assert np.isfinite(whole).all()
    assert np.array_equal(whole, np.concatenate(steps))


@settings(max_examples=40, deadline=None, print_blob=True)
@given(data=st.data())
def test_a_sequence_has_its_bits_in_any_batch_and_any_runs(data: st.DataObject) -> None:
    decoder = random_decoder(np.random.default_rng(2), exclusive=True, norms=True)
    sessions = [open_session(build(decoder, Scheme()), threads) for threads in (1, 2)]
    batch, context = data.draw(st.integers(1, 5)), 90
    ids = some_ids(decoder, batch, context)
    alone = [Sequences(sessions[0]).append(row[None]) for row in ids]
    together = Sequences(sessions[data.draw(st.integers(0, 1))], batch)
    while (together.lengths < context).any():
        room = context - together.lengths
        counts = np.array([data.draw(st.integers(1, max(1, int(r)))) for r in room])
        going = together.lengths < context
        if not going.all():
            break
        counts = np.minimum(counts, room)
        width = int(counts.max())
        part = np.zeros((batch, width), np.int64)
        for b, (start, count) in enumerate(zip(together.lengths, counts, strict=True)):
            part[b, :count] = ids[b, start : start + count]
        starts = together.lengths
        logits = together.append(part, counts)
        expected = [
            alone[b][s : s + c] for b, (s, c) in enumerate(zip(starts, counts, strict=True))
        ]
        assert np.array_equal(logits, np.concatenate(expected))


def test_only_the_rows_asked_for_are_computed() -> None:
    decoder = random_decoder(np.random.default_rng(3))
    session = open_session(build(decoder, Scheme()))
    ids = some_ids(decoder, 2, 20)
    everything = Sequences(session, 2).append(ids)
    rows = np.array([3, 19, 20, 39])
    some = Sequences(session, 2)
    assert np.array_equal(some.append(ids, rows=rows), everything[rows])
    none = Sequences(session, 2)
    assert none.append(ids, rows=rows[:0]).shape == (0, 100)
    following = some_ids(decoder, 2, 4, seed=5)
    assert np.array_equal(none.append(following), some.append(following))


def test_the_reference_model_is_as_pytorch_computes_it() -> None:
    torch = pytest.importorskip("torch")
    model = open_snapshot(checkpoint_path()).model
    ids = np.random.default_rng(0).integers(3, 4096, (1, 64))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits[0].numpy()
    for scheme, error in ((Scheme(), 0.12), (Scheme(segment=16, activation_bits=16), 0.08)):
        logits = Sequences(open_session(build(describe(model), scheme))).append(ids)
        assert np.abs(logits - expected).mean() < error * expected.std()


BAD: dict[str, dict[str, Any]] = {
    "an id outside the vocabulary": {"input_ids": np.array([[3, 100]])},
    "a negative id": {"input_ids": np.array([[3, -1]])},
    "no sequence": {"input_ids": np.zeros((0, 2), np.int64)},
    "no token": {"input_ids": np.zeros((1, 0), np.int64)},
    "a count of none": {"counts": np.array([0])},
    "more than there is": {"counts": np.array([3])},
    "counts of two": {"counts": np.array([1, 1])},
    "a negative past": {"past_lengths": np.array([-1])},
    "a past that is full": {"past_lengths": np.array([95])},
    "a past that overflows": {"past_lengths": np.array([2**63 - 1])},
    "pasts of two": {"past_lengths": np.array([0, 0])},
    "a row that is no token": {"logit_rows": np.array([2])},
    "a negative row": {"logit_rows": np.array([-1])},
    "rows that descend": {"logit_rows": np.array([1, 0])},
    "a row twice": {"logit_rows": np.array([1, 1])},
    "a page that is not there": {"pages": np.array([[6, 0, 1, 2, 3, 4]])},
    "a negative page": {"pages": np.array([[-1, 0, 1, 2, 3, 4]])},
    "no page": {"pages": np.zeros((1, 0), np.int64)},
    "pages of two": {"pages": np.zeros((2, 6), np.int64)},
    "a cache of another model": {"cache": np.zeros((6, 2, 2, 2, 128), np.float32)},
    "no cache": {"cache": np.zeros((0, 2, 2, 2, 256), np.float32)},
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_an_error_of_onnxruntime(what: str) -> None:
    decoder = random_decoder(np.random.default_rng(4))
    session = open_session(build(decoder, Scheme()))
    sequences = Sequences(session)
    feeds = sequences.feeds(np.array([[3, 4]])) | BAD[what]
    with pytest.raises(Exception, match=r"atom_edge\.Decoder|INVALID_ARGUMENT|Got invalid dim"):
        session.run(None, feeds)
    assert np.isfinite(sequences.append(np.array([[3, 4]]))).all()


@pytest.mark.parametrize("name", ["qkv", "down_scales", "final_norm", "inverse_frequencies"])
def test_a_truncated_weight_is_an_error(name: str) -> None:
    model = build(random_decoder(np.random.default_rng(5)), Scheme())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    weight.dims[0] -= 1
    size = len(weight.raw_data) // (weight.dims[0] + 1) * weight.dims[0]
    weight.raw_data = weight.raw_data[:size]
    with pytest.raises(Exception, match=r"atom_edge\.Decoder: input \d+ has shape"):
        open_session(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [("heads", 3), ("layers", 0), ("hidden", 1 << 40), ("segment", 20), ("activation_bits", 9)],
)
def test_a_false_attribute_is_an_error(name: str, value: int) -> None:
    model = build(random_decoder(np.random.default_rng(5)), Scheme())
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == name)
    attribute.i = value
    with pytest.raises(Exception, match=r"atom_edge\.Decoder: "):
        open_session(model)


PRINT_LOGITS = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from decoders import Sequences, open_session, random_decoder
from atom_edge.exporters.native import Scheme, build
for scheme in (Scheme(), Scheme(0), Scheme(activation_bits=16)):
    decoder = random_decoder(np.random.default_rng(6), exclusive=True, norms=True, biases=True)
    ids = np.random.default_rng(7).integers(0, 100, (1, 90))
    sys.stdout.buffer.write(Sequences(open_session(build(decoder, scheme))).append(ids).tobytes())
"""


def logits_of(instruction_set: str) -> np.ndarray[Any, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PRINT_LOGITS, str(Path(__file__).parent)],
        env={**os.environ, "ATOM_EDGE_ISA": instruction_set},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.float32)


def test_instruction_sets_agree() -> None:
    best, plain = logits_of(""), logits_of("plain")
    # Without a fused multiply-add floats are rounded once more; here and there an activation is
    # then another integer.
    assert np.abs(best - plain).mean() < 1e-2 * best.std()


def test_an_instruction_set_that_is_not_there_is_named() -> None:
    with pytest.raises(AssertionError, match="ATOM_EDGE_ISA names no instruction set"):
        logits_of("z80")
