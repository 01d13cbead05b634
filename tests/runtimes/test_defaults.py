"""What a generation_config.json may say."""

from __future__ import annotations

import pytest

from atom_edge.errors import BundleError
from atom_edge.runtimes.defaults import parse_special_ids


@pytest.mark.parametrize("value", [2**31, 10**30, [1, 2**63], 1.5, "2", [None]])
def test_what_is_no_token_id_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(BundleError, match=r"a/generation_config\.json: .*eos_token_id"):
        parse_special_ids({"eos_token_id": value}, {}, "a")


def test_a_negative_id_stands_for_none() -> None:
    ids = parse_special_ids({"eos_token_id": [-1, 2], "bos_token_id": -(10**30)}, {}, "a")
    assert (ids.begin, ids.end) == ([], [2])
