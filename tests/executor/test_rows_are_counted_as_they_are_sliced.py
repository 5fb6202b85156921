"""Law: the data check takes the rows of a sample as `slice_batch` does, and counts tokens exactly or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from executor.checks.data import num_tokens_in, rows_of
from executor.checks.fingerprints import row_fingerprints

COUNTS = (1, 3, 2)


@pytest.mark.parametrize("name", ["images", "vit", "pixel_values"])
def test_any_name_on_the_path_may_count_rows(name: str) -> None:
    pixels = torch.arange(6.0)[:, None]
    batch: dict[str, Any] = {"modality_inputs": {"images": {"vit": {"pixel_values": pixels}}}}
    (rows,) = rows_of(batch, {name: COUNTS})
    assert torch.equal(rows.of(slice(1, 3)), row_fingerprints(pixels[1:]))


def test_a_text_key_may_have_rows_of_its_own() -> None:
    (rows,) = rows_of({"grid": torch.arange(6)[:, None]}, {"grid": COUNTS})
    assert len(rows.of(slice(0, 1))) == 1
    assert len(rows.of(slice(1, 2))) == 3


def test_a_mask_in_bf16_is_counted_exactly() -> None:
    assert num_tokens_in({"loss_mask": torch.ones(599_999, dtype=torch.bfloat16)}) == 599_999


def test_weights_of_tokens_are_no_count() -> None:
    assert num_tokens_in({"loss_mask": torch.tensor([0.5, 1.0])}) is None
    assert num_tokens_in({}) is None
