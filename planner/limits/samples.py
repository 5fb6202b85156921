"""What the synthetic data of `executor train` cannot be; a user's own data may.

A sample of it is text with images and clips at random places, padded to seq_length (executor/training). If a module's
tokens_per_sample is fixed, every sample has the same number of items of it; else it has at most MAX_ITEMS.
"""

from __future__ import annotations

from ..base import codes
from ..layout.bridges import tokens_per_item
from ..layout.ir import ModulePlan
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY
from .rule import Reasons, encoders_of

PADDING = 0  # the id that fills samples up
MAX_ITEMS = 2  # per sample, if the number varies


def sample_limits(plan: Plan) -> Reasons:
    """The reasons why no synthetic sample has the plan's sizes."""
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY).model
    for module in encoders_of(plan):
        yield from _items(module)
        if module.special_token_id == PADDING:
            rule = f"special_token_id != {PADDING}, the id of padding, got {PADDING}"
            yield codes.PADDING_TOKEN, ("modules", module.name, "special_token_id"), rule, "choose another id"
    lengths = {module.name: longest(plan, module) for module in encoders_of(plan) if module.model}
    length = plan.batch_sizes.seq_length
    if sum(lengths.values()) >= length:
        terms = " + ".join(f"{name} {count}" for name, count in lengths.items())
        rule = f"a sample's images and clips leave room for text: {terms} < seq_length = {length}"
        yield codes.FULL_SAMPLES, ("batch", "seq_length"), rule, f"raise seq_length above {sum(lengths.values())}"
    taken = {PADDING, *(module.special_token_id for module in plan.modules if module.special_token_id is not None)}
    if language and language.vocab_size is not None and language.vocab_size <= len(taken):
        rule = f"vocab_size > {len(taken)}, the ids of padding and special tokens, got {language.vocab_size}"
        at = ("modules", MIMO_LANGUAGE_MODULE_KEY, "model", "vocab_size")
        yield codes.NO_WORDS, at, rule, "raise vocab_size"


def most_items(plan: Plan, module: ModulePlan) -> int:
    """The largest number of items of a module in a sample, if the number varies: at most half of a sample is items."""
    room = plan.batch_sizes.seq_length // (2 * len(plan.modules) * (tokens_per_item(module.model) or 1))
    return max(1, min(MAX_ITEMS, room))


def longest(plan: Plan, module: ModulePlan) -> int:
    """The largest number of a sample's tokens that an encoder makes."""
    fixed = module.output.tokens_per_sample
    return most_items(plan, module) * (tokens_per_item(module.model) or 1) if fixed is None else fixed


def _items(module: ModulePlan) -> Reasons:
    fixed, per_item = module.output.tokens_per_sample, tokens_per_item(module.model)
    if fixed is not None and per_item is not None and fixed % per_item:
        rule = (
            f"tokens_per_sample is a multiple of the {per_item} tokens that this encoder makes of one item, got {fixed}"
        )
        at = ("modules", module.name, "output", "tokens_per_sample")
        yield codes.ITEM_TOKENS, at, rule, f"write a multiple of {per_item}, or leave it out if the number varies"
