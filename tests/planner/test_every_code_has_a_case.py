"""Law: every diagnostic has a case here, with its code, its place, and a message that holds the values concerned.

In the texts of this file, « marks the place that the fault is to name, and is taken out before reading. A new code in
codes.py fails `test_every_code_has_a_case` until it has a case.
"""

# ruff: noqa: E501  a row of the table is a line

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from planner import Fault, Plan, PlanError, Spec, compile_spec, load_spec, parse_spec
from planner.advice.memory import memory_warnings
from planner.base.codes import CODES
from planner.cli import main
from planner.cost.timing.hardware import load_hardware
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import Target
from planner.spec.loader import MAX_BYTES
from tests import EXAMPLES
from tests.strategies import planned

FILE = "bad.yaml"
HEAD = "batch: {global_size: 8, micro_size: 4, seq_length: 64}\n"
GPT = "family: gpt, num_layers: 4, hidden_size: 64, num_attention_heads: 4, vocab_size: 512, max_positions: 64"
VIT = "family: vit, num_layers: 2, hidden_size: 32, num_attention_heads: 4, image_size: 32, patch_size: 8"


@attrs.frozen
class Case:
    """A text with a fault.

    Attributes:
        code: the code of the fault.
        path: the path of the key that it names.
        text: the text, with « at the place that it names.
        says: words that its message holds.
        num: the number of faults that the text has in all.
    """

    code: str
    path: str
    text: str
    says: tuple[str, ...]
    num: int = 1
    world_size: int | None = None


def case(code: str, path: str, text: str, *says: str, num: int = 1, world_size: int | None = None) -> Case:
    return Case(code, path, text, says, num, world_size)


def language(keys: str, head: str = HEAD) -> str:
    """A spec of language alone, with these keys in YAML's flow style."""
    return f"{head}modules:\n  language: {{{keys}}}\n"


def modules(**keys: str) -> str:
    return HEAD + "modules:\n" + "".join(f"  {name}: {{{text}}}\n" for name, text in keys.items())


LONE = language("parallel: {tp: 2}")

# fmt: off
SPECS = [
    # S003 BAD_SYNTAX
    case("S003", "spec", "«", "empty", "examples/"),
    case("S003", "spec", "«# nothing but a comment\n", "empty"),
    case("S003", "spec", LONE + "«---\n" + LONE, "single document"),
    case("S003", "spec", HEAD + "modules: «]", "]"),
    case("S003", "spec", HEAD + "modules: «*nowhere\n", "'nowhere'"),
    case("S003", "spec", HEAD + "modules:\n  language: {}\n«\tx: 1\n", "\\t", "spaces in place of the tab"),
    case("S003", "spec", "cluster: {nodes: 1\n" + "batch«: {global_size: 8}\n", "flow mapping in line 1 expected ','", "here or in line 1"),
    case("S003", "spec", HEAD + "modules\n  language«: {}\n", "key in line 2 could not find", "here or in line 2"),
    case("S003", "spec", HEAD + "modules:\n    language: {}\n  «images: {}\n", "block mapping in line", "check the indentation"),
    case("S003", "modules.language", HEAD + "modules:\n  «language: !!python/name:os.system x\n", "python/name"),
    case("S003", "modules.language.parallel", language("«parallel: !!binary aGk="), "binary"),
    case("S003", "modules.language.parallel", language("«parallel: !!python/dict {tp: 2}"), "python/dict"),
    case("S003", "modules", HEAD + "«modules: !!python/object:os.system {language: {}}\n", "python/object"),
    # S004 DUPLICATE_KEY
    case("S004", "modules.language.parallel.tp", language("parallel: {tp: 2, «tp: 4}"), "'tp'", "parallel"),
    case("S004", "modules.images", modules(images="", language="") + "  «images: {}\n", "'images'", "modules"),
    case("S004", "batch", LONE + "«batch: {global_size: 8, micro_size: 8, seq_length: 64}\n", "'batch'", "spec"),
    # S005 TOO_COMPLEX
    case("S005", "spec", HEAD + "modules: " + "[" * 32 + "«[" + "[" * 7 + "]" * 40, "32"),
    case("S005", "spec", "[" * 33 + "«" + "[" * 4967, "32"),
    case("S005", "spec", HEAD + "modules: «&m {language: *m}\n", "32", "alias"),
    case("S005", "spec", HEAD + "modules: «&m [*m, *m]\n", "32", "alias"),
    case("S005", "spec", HEAD + "modules: «&m {<<: *m, language: {}}\n", "32", "alias"),
    case(
        "S005", "spec",
        "a: «&a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "20000", "alias",
    ),
    # S101 UNKNOWN_KEY
    case("S101", "modules.language.paralel", language("«paralel: {tp: 2}"), "'paralel'", 'did you mean "parallel"?'),
    case("S101", "modules.language.parallel.tpp", language("parallel: {«tpp: 2}"), "'tpp'", 'did you mean "tp"?', "rank_offset"),
    case("S101", "toplogy", LONE + "«toplogy: {}\n", "'toplogy'", 'did you mean "topology"?'),
    case("S101", "modules.language.model.num_key_value_heads", language("model: {«num_key_value_heads: 8}"), "write `num_query_groups`"),
    case("S101", "modules.language.model.Hidden_Size", language("model: {«Hidden_Size: 8}"), 'did you mean "hidden_size"?'),
    case("S101", "modules.language.tp", language("«tp: 2"), "'tp' is not a key of language", "write it under `parallel`"),
    case("S101", "recompute", LONE + "«recompute: full\n", "not a key of the spec", "write it under one of `modules`"),
    case("S101", "dtype", LONE + "«dtype: fp32\n", "not a key of the spec", "write it under `training`"),
    case("S101", "modules.language.parallel.1", language("parallel: {«1: 2}"), "1 is not a key of parallel"),
    case("S101", "modules.language.parallel.world", language("parallel: {«world: 2}"), "'world'", "remove it"),
    # S102 MISSING_KEY
    case("S102", "spec", "«modules: {language: {}}\n", "batch is required", "`batch:`"),
    case("S102", "spec", "«" + HEAD, "modules is required", "`modules:`"),
    case("S102", "batch", "«batch: {global_size: 8, micro_size: 4}\nmodules: {language: {}}\n", "seq_length is required", "tokens"),
    # S103 WRONG_TYPE
    case("S103", "spec", "«5", "the wrong type", "no key such as schema"),
    case("S103", "spec", "«[1, 2]", "the wrong type", "nothing of it is quoted"),
    case("S103", "spec", "«just words", "the wrong type", "no key such as schema"),
    case("S103", "modules", HEAD + "«modules: [language]\n", "expected a mapping", "['language']"),
    case("S103", "modules.language", HEAD + "modules: {«language: 2}\n", "expected a mapping", "2"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: '2'}"), "an integer", "text, '2'"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: 2.0}"), "an integer", "a float, 2.0"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: yes}"), "an integer", "a boolean, True"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: [2]}"), "an integer", "a list, [2]"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: {a: 2}}"), "an integer", "a mapping"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: }"), "an integer", "nothing"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: 2020-01-01}"), "an integer", "2020-01-01"),
    case("S103", "modules.language.parallel.tp", language(f"parallel: {{«tp: {'9' * 5000}}}"), "9999"),
    case("S103", "modules.language.parallel.tp", language("parallel: {«tp: !!int two}"), "'two'"),
    case("S103", "modules.language.parallel.sequence_parallel", language("parallel: {«sequence_parallel: 1}"), "true or false", "1"),
    case("S103", "modules.language.stages[1]", language("parallel: {pp: 2}, stages: [1, «x]"), "an integer", "'x'"),
    case("S103", "modules.language.stages", language("«stages: 4"), "a list", "write a list: [4]"),
    case("S103", "modules.language.parallel", language("«parallel: 4"), "a mapping", "with the keys tp, cp, pp, dp, "),
    case("S103", "modules.images.freeze", modules(language="", images="«freeze: encoder"), "true, false or a mapping with the keys encoder"),
    case("S103", "modules.False", HEAD + "modules: {language: {}, «no: {}}\n", "a name", "False"),
    case("S103", "topology.images", modules(language="", images="") + "topology: {«images: language}\n", "a list", "'language'"),
    case("S103", "training.lr", LONE + "training: {«lr: fast}\n", "a number", "'fast'"),
    case("S103", "cluster.gpu", LONE + 'cluster: {«gpu: "h\\n100"}\n', "printable", "'h\\n100'"),
    case("S103", "modules.language.parallel", language("«parallel: {<<: 5}"), "`<<`", "mapping"),
    case("S103", "spec", "«? [a]\n: 1\n" + LONE, "a key is a word"),
    # S104 OUT_OF_RANGE
    case("S104", "modules.language.parallel.tp", language("parallel: {«tp: 0}"), "1 <= tp <= 16777216", "0"),
    case("S104", "modules.language.parallel.tp", language("parallel: {«tp: -2}"), "1 <= tp <= 16777216", "-2"),
    case("S104", "modules.language.parallel.tp", language("parallel: {«tp: 16777217}"), "16777216", "16777217"),
    case("S104", "modules.language.parallel.tp", language("parallel: {«tp: 100000000000000000000}"), "100000000000000000000"),
    case("S104", "modules.language.parallel.tp", language(f"parallel: {{«tp: 0x{'f' * 5000}}}"), "huge"),
    case("S104", "modules.language.parallel.tp", language(f"parallel: {{«tp: -0x{'f' * 5000}}}"), "huge"),
    case("S103", "modules.language.parallel.tp", language(f"parallel: {{«tp: 0b{'1' * 20000}}}"), "0b111"),
    case("S104", "modules.language.parallel.rank_offset", language("parallel: {«rank_offset: -1}"), "0 <= rank_offset", "-1"),
    case("S104", "modules.language.stages[1]", language("parallel: {pp: 2}, stages: [1, «0]"), "1 <= stages[1] <= 16777216, got 0"),
    case("S104", "schema", "«schema: 2\n" + LONE, "1 <= schema <= 1", "2"),
    case("S104", "training.lr", LONE + "training: {«lr: 0}\n", "0 < lr <= 1e+06", "0"),
    case("S104", "training.lr", LONE + "training: {«lr: .nan}\n", "nan"),
    case("S104", "training.lr", LONE + "training: {«lr: 1e999}\n", "inf"),
    case("S104", "training.lr", LONE + f"training: {{«lr: 0x{'f' * 5000}}}\n", "huge"),
    case("S104", "modules.language.output.tensor_dims", language("output: {«tensor_dims: 4}"), "2 <= tensor_dims <= 3", "4"),
    case("S104", "modules.language.stages", language(f"«stages: [{', '.join(['1'] * 5000)}]"), "4096", "5000"),
    case("S104", "modules", HEAD + "«modules:\n  language: {}\n" + "".join(f"  m{i}: {{}}\n" for i in range(256)), "256", "257"),
    # S105 BAD_CHOICE
    case("S105", "placement", LONE + "«placement: colocate\n", "'colocate'", 'did you mean "colocated"?'),
    case("S105", "modules.language.recompute", language("«recompute: selectiv"), "'selectiv'", 'did you mean "selective"?'),
    case("S105", "modules.language.model.normalization", language("model: {«normalization: rmsnorm}"), 'did you mean "RMSNorm"?'),
    case("S105", "modules.language.model.preset", language("model: {«preset: vicuna-8b}"), "'vicuna-8b'", 'did you mean "vicuna-7b"?'),
    case("S105", "modules.language.parallel.order", language("parallel: {«order: tp-cp-dp}"), "'tp-cp-dp'", "permutation of tp-cp-dp-pp"),
    case("S105", "modules.language.parallel.order", language("parallel: {«order: tp-tp-dp-pp}"), "'tp-tp-dp-pp'"),
    case("S103", "modules.language.parallel.order", language("parallel: {«order: [tp, cp, dp, pp]}"), "a list", "tp-cp-dp-pp"),
    case("S105", "training.dtype", LONE + "training: {«dtype: int8}\n", "'int8'", "bf16, fp16, fp32"),
    # S106 BAD_NAME
    case("S106", "modules.2nd", HEAD + "modules: {language: {}, «2nd: {}}\n", "'2nd'", "letter"),
    case("S106", "modules.a b", HEAD + "modules: {language: {}, «a b: {}}\n", "'a b'"),
    case("S106", "topology.images[0]", modules(language="", images="") + "topology: {images: [«'a/b']}\n", "'a/b'"),
    # S107 CONFLICT
    case("S107", "modules.language.output.batch_dim", language("output: {tensor_dims: 2, «batch_dim: 1}"), "2 dims", "batch_dim = 1"),
    case("S107", "modules.language.freeze", language("«freeze: {encoder: true}"), "language", "freeze: true"),
    case("S107", "modules.language.special_token_id", language("«special_token_id: 5"), "special_token_id", "encoder"),
    case("S107", "modules.images.model.family", modules(language="", images="model: {preset: clip-vit-l-14-336, «family: audio}"), "vit", "audio"),
    case("S107", "modules.language.model", language(f"«model: {{{VIT}}}"), "family gpt", "got vit"),
    case("S107", "cluster.nodes", "cluster: {«nodes: 2}\n" + LONE, "nodes is 2", "gpus_per_node"),
    # T001 NO_LANGUAGE
    case("T001", "modules.languag", HEAD + "modules: {«languag: {}, images: {}}\n", "languag, images", "rename `languag`"),
    case("T001", "modules", HEAD + "«modules: {first: {}, images: {}}\n", "first, images", "name the language model's"),
    case("T001", "modules", HEAD + "«modules: {}\n", "no module", "language"),
    # T002 UNKNOWN_MODULE
    case("T002", "topology.image", modules(language="", images="") + "topology: {«image: [language]}\n", "image", 'did you mean "images"?'),
    case("T002", "topology.images[1]", modules(language="", images="") + "topology: {images: [language, «llm]}\n", "llm", "language, images"),
    # T003 CYCLE
    case("T003", "topology.language", modules(language="", images="") + "topology: {images: [language], «language: [images]}\n", "language -> images -> language"),
    case("T003", "topology.language", LONE + "topology: {«language: [language]}\n", "language -> language"),
    # T004 UNREACHED
    case("T004", "topology.images", modules(language="", images="", audio="") + "topology: {«images: [audio]}\n", "images", "feeds only audio", num=2),
    case("T004", "topology.images", modules(language="", images="") + "topology: {«images: []}\n", "images", "feeds nothing"),
    # T005 DUPLICATE_EDGE
    case("T005", "topology.images[1]", modules(language="", images="") + "topology: {images: [language, «language]}\n", "images -> language"),
    # P001 AMBIGUOUS_DP
    case("P001", "modules.language.parallel", "cluster: {nodes: 1, gpus_per_node: 8}\n" + modules(language="«parallel: {tp: 2}", images="parallel: {tp: 2}"), "language, images do"),
    case("P001", "modules.images.parallel", modules(audio="parallel: {dp: 2}", images="", language="parallel: {tp: 2}").replace("images", "«images"), "images, language do", world_size=8),
    # P002 UNEVEN_DP
    case("P002", "modules.language.parallel", "cluster: {nodes: 1, gpus_per_node: 7}\n" + language("«parallel: {tp: 2}"), "7 / (tp 2 * cp 1 * pp 1) = 3.5"),
    case("P002", "modules.language.parallel", modules(language="«parallel: {tp: 2}", images="parallel: {dp: 4}"), "0 / (tp 2 * cp 1 * pp 1) = 0", world_size=4),
    case("P002", "modules.language.parallel", modules(language="«parallel: {tp: 2}", images="parallel: {dp: 4}"), "-1 /", world_size=3),
    # P003 PARTIAL_OFFSETS
    case("P003", "modules.images", modules(language="parallel: {rank_offset: 0}", images="parallel: {tp: 2}").replace("images", "«images"), "language has one", "images has none"),
    # P004 IDLE_RANKS
    case("P004", "modules", modules(language="parallel: {rank_offset: 1}", images="parallel: {rank_offset: 4, dp: 4}").replace("modules", "«modules"), "0-7", "3 do not: 0, 2-3"),
    case("P004", "cluster", "«cluster: {nodes: 1, gpus_per_node: 8}\n" + language("parallel: {tp: 2, dp: 2}"), "0-7", "4 do not: 4-7"),
    # P005 BEYOND_WORLD
    case("P005", "modules.language.parallel", "cluster: {nodes: 1, gpus_per_node: 4}\n" + language("«parallel: {tp: 4, dp: 2}"), "= 8", "4 ranks of the world", "4 more ranks"),
    # P006 COLOCATED_SIZES
    case("P006", "placement", modules(language="parallel: {tp: 2}", images="parallel: {dp: 4}") + "«placement: colocated\n", "language 2, images 4"),
    # P007 EXPERT_AXES_UNEVEN
    case("P007", "modules.language.parallel", language("«parallel: {tp: 3, ep: 2}"), "3 / (1 * 2) = 1.5"),
    # P008 EXPERTS_OUTSIDE_LANGUAGE
    case("P008", "modules.images.parallel.ep", modules(language="", images="parallel: {tp: 2, «ep: 2}"), "ep = 1", "2", "images"),
    case("P008", "modules.images.parallel.expt_tp", modules(language="", images="parallel: {tp: 2, «expt_tp: 2}"), "expt_tp = 1", "2"),
    # P009 TOO_MANY_RANKS
    case("P009", "cluster", "«cluster: {nodes: 4096, gpus_per_node: 4097}\n" + LONE, "16777216", str(4096 * 4097)),
    case("P009", "modules.language.parallel", language("«parallel: {tp: 4097, pp: 4096}"), "16777216", str(4096 * 4097)),
    case("P009", "modules", modules(language="parallel: {tp: 4, rank_offset: 16777213}").replace("modules", "«modules"), "16777216", "16777217"),
    # M001 MISSING_SIZE
    case("M001", "modules.language.model", language("«model: {num_layers: 4}"), "preset or a family"),
    case("M001", "modules.language.model", language("«model: {family: gpt, num_layers: 4, hidden_size: 64, num_attention_heads: 4, vocab_size: 512}"), "max_positions is missing"),
    # M002 FOREIGN_SIZE
    case("M002", "modules.language.model.patch_size", language(f"model: {{{GPT}, «patch_size: 14}}"), "patch_size", "vit", "gpt"),
    # M003 HEADS
    case("M003", "modules.language.parallel.tp", language(f"parallel: {{«tp: 8}}, model: {{{GPT}}}"), "num_attention_heads % tp = 4 % 8 = 0, got 4", "1, 2, 4"),
    case("M003", "modules.language.model.num_query_groups", language(f"model: {{{GPT}, «num_query_groups: 3}}"), "4 % 3 = 0, got 1"),
    # M004 LAYERS
    case("M004", "modules.language.parallel.pp", language(f"parallel: {{«pp: 3}}, model: {{{GPT}}}"), "num_layers % pp = 4 % 3 = 0, got 1", "1, 2, 4"),
    # M005 STAGES
    case("M005", "modules.language.stages", language(f"parallel: {{pp: 2}}, model: {{{GPT}}}, «stages: [2, 3]"), "num_layers = 4, got 5"),
    case("M005", "modules.language.stages", language("parallel: {pp: 2}, «stages: [2, 1, 1]"), "pp = 2, got 3"),
    # M006 EXPERTS
    case("M006", "modules.language.parallel.ep", language(f"parallel: {{tp: 4, «ep: 4}}, model: {{{GPT}, num_moe_experts: 6}}"), "6 % 4 = 0, got 2"),
    case("M006", "modules.language.parallel.ep", language(f"parallel: {{tp: 4, «ep: 4}}, model: {{{GPT}}}"), "ep = 4"),
    case("M006", "modules.language.model.moe_router_topk", language(f"model: {{{GPT}, num_moe_experts: 2, «moe_router_topk: 3}}"), "3 > 2"),
    # M007 SEQUENCE
    case("M007", "modules.language.parallel.cp", language("parallel: {«cp: 3}"), "seq_length % (2 * cp) = 64 % 6 = 0, got 4"),
    case("M007", "modules.language.parallel.sequence_parallel", language("parallel: {tp: 3, «sequence_parallel: true}"), "64 % 3 = 0, got 1"),
    # M008 WIDTHS
    case("M008", "modules.language.model.hidden_size", language(f"model: {{{GPT.replace('hidden_size: 64', '«hidden_size: 66')}}}"), "66 % 4 = 0, got 2"),
    case("M008", "modules.images.model.patch_size", modules(language="", images=f"model: {{{VIT.replace('patch_size: 8', '«patch_size: 5')}}}"), "32 % 5 = 0, got 2"),
    # M009 TOKENS
    case("M009", "batch.seq_length", "batch: {global_size: 8, micro_size: 4, «seq_length: 64}\nmodules: {language: {}, images: {output: {tokens_per_sample: 60}}, audio: {output: {tokens_per_sample: 5}}}\n", "images 60 + audio 5 = 65", "seq_length = 64", "65"),
    case("M009", "batch.seq_length", f"batch: {{global_size: 8, micro_size: 4, «seq_length: 65}}\nmodules: {{language: {{model: {{{GPT}}}}}}}\n", "65 > 64"),
    # M010 SPECIAL_TOKEN
    case("M010", "modules.images.special_token_id", modules(language=f"model: {{{GPT}}}", images="«special_token_id: 512"), "512 >= 512"),
    case("M010", "modules.audio.special_token_id", modules(language="", images="special_token_id: 7", audio="«special_token_id: 7"), "images has 7"),
    # B001 MICROBATCHES
    case("B001", "batch.global_size", "batch: {«global_size: 10, micro_size: 4, seq_length: 64}\nmodules: {language: {}}\n", "10 / 4 = 2.5", "12"),
    # B002 LANE_SAMPLES
    case("B002", "modules.language.parallel.dp", language("parallel: {«dp: 3}"), "4 / 3 = 1.33333", "multiple of 3"),
]
# fmt: on

PLANS = {  # code -> what is done to a good plan document, path of the fault, what the message says
    "J001": (lambda text: text.replace("{", "[", 1), "spec", ("JSON",)),
    "J002": (lambda text: text.replace('"mimo_plan": 1', '"mimo_plan": 2'), "mimo_plan", ("mimo_plan = 1", "2")),
    "J003": (lambda text: text.replace('"num_microbatches": 2', '"num_microbatches": 3'), "batch.num_microbatches", ("2", "3")),
    "J004": (lambda text: text.replace('"digest": "', '"digest": "0'), "digest", ("sha256", "0")),
}  # fmt: skip

WARNINGS = [
    case("W001", "modules.language.parallel.tp", "cluster: {gpus_per_node: 2}\n" + language("parallel: {«tp: 4}"), "language", "ranks 0-3", "nodes of 2"),
    case("W001", "modules.language.parallel.expt_tp", "cluster: {gpus_per_node: 2}\n" + language("parallel: {dp: 4, «expt_tp: 4}"), "expt_tp groups of language", "ranks 0-3"),
    case("W007", "modules.language.parallel.ep", "cluster: {gpus_per_node: 4}\n" + modules(images="parallel: {dp: 2}", language="parallel: {dp: 4, «ep: 4}"), "ep groups of language", "ranks 2-5", "write language before the other modules"),
    case("W001", "modules.language.parallel.tp", "cluster: {gpus_per_node: 4}\n" + language("parallel: {«tp: 2, dp: 4, order: dp-tp-cp-pp}").replace("micro_size: 4", "micro_size: 8"), "nodes of 4", "ranks 0-4"),
    case("W002", "cluster", "«cluster: {gpus_per_node: 2}\n" + language("parallel: {pp: 3}"), "3 % 2", "got 1"),
    case("W004", "modules.images.output.tokens_per_sample", modules(language="", images=f"model: {{{VIT}}}, output: {{«tokens_per_sample: 9}}"), "(32 / 8)^2 = 16", "got 9"),
    case("W005", "placement", modules(language="parallel: {dp: 2, rank_offset: 0}") + "«placement: colocated\n", "offsets", "placement: colocated"),
    case("W005", "modules.language.parallel.expt_tp", language(f"parallel: {{dp: 2, «expt_tp: 2}}, model: {{{GPT}}}"), "expt_tp = 2"),
    case("W005", "modules.language.parallel.sequence_parallel", language("parallel: {dp: 2, «sequence_parallel: true}"), "tp of language is 1"),
    case("W005", "modules.video.special_token_id", modules(language="", video="«special_token_id: 7") + "topology: {language: [video]}\n", "video does not feed language"),
]  # fmt: skip


AUDIO = "family: audio, num_layers: 2, hidden_size: 32, num_attention_heads: 4, num_mel_bins: 5, max_positions: 6"


def trained(topology: str = "", placement: str = "", **keys: str) -> str:
    """A spec that trains, but for the keys given here: language and images, and further modules."""
    text = modules(**{"language": f"model: {{{GPT}}}", "images": IMAGES} | keys)
    return (
        text + (f"topology: {{{topology}}}\n" if topology else "") + (f"placement: {placement}\n" if placement else "")
    )


IMAGES = f"model: {{{VIT}}}, special_token_id: 500"
SOUND = f"model: {{{AUDIO}}}, special_token_id: 501"
MOE = f"{GPT}, num_moe_experts: 4"
DEEP = GPT.replace("num_layers: 4", "num_layers: 8")

LIMITS = [  # on local layers
    case("R101", "modules.language.parallel.sequence_parallel", trained(language=f"«parallel: {{tp: 2}}, model: {{{MOE}, add_bias_linear: false}}"), "tp = 2 without it", "megatron-core 0.19"),
    case("R102", "modules.language.model.add_bias_linear", trained(language=f"model: {{{MOE}, «add_bias_linear: true}}"), "add_bias_linear = false, got true", "megatron-core 0.19"),
    case("R103", "modules.language.stages", trained(language=f"parallel: {{pp: 4}}, model: {{{DEEP}}}, «stages: [1, 2, 3, 2]"), "[1, 2, 3, 2]"),
    case("R104", "modules.video", trained("language: [video]", video=f"model: {{{VIT}}}").replace("video", "«video", 1), "video comes after it"),
    case("R105", "modules.images.output.tensor_dims", trained(images=IMAGES + ", output: {«tensor_dims: 3}"), "tensor_dims = 2, got 3"),
    case("R106", "training.dtype", trained() + "training: {«dtype: fp16}\n", "got fp16", "#5591"),
    case("R108", "modules.language.freeze", trained(language=f"model: {{{GPT}}}, «freeze: true", images=IMAGES + ", freeze: true"), "language, images are frozen"),
    case("R107", "training.distributed_optimizer", trained() + "training: {optimizer: sgd, «distributed_optimizer: true}\n", "adam only", "got optimizer = sgd"),
    case("R201", "modules.images.parallel.cp", trained(images="parallel: {«cp: 2}, " + IMAGES), "cp = 1, got 2", "ready-made models"),
    case("R202", "modules.language.parallel.cp", trained(language=f"parallel: {{«cp: 2}}, model: {{{GPT}}}"), "cp = 1 with local attention, got 2", "--target te"),
    case("R203", "modules.language.parallel.tp", trained(language=f"parallel: {{«tp: 4}}, model: {{{GPT}, num_query_groups: 2}}"), "num_query_groups >= tp, got 2 < 4"),
    case("R204", "modules.images.parallel.sequence_parallel", trained(images="parallel: {tp: 2, «sequence_parallel: true}, " + IMAGES), "class token"),
    case("R205", "modules.audio", trained("audio: [images], images: [language]", audio=f"model: {{{AUDIO}}}").replace("audio", "«audio", 1), "audio feeds ['images']", "specs of your own"),
    case("R206", "modules.images", trained(images=f"model: {{{VIT}}}").replace("images", "«images", 1), "the spec has none", "add special_token_id"),
    case("R207", "modules.language", trained(language="").replace("language", "«language", 1), "there is none for language"),
    case("R208", "modules.images.model", trained(images=f"«model: {{{GPT}}}, special_token_id: 500"), "vit or audio, got gpt"),
    case("R209", "modules.images.model.projector_hidden_size", trained(images=f"parallel: {{tp: 2}}, model: {{{VIT}, «projector_hidden_size: 33}}, special_token_id: 500"), "33 % 2 = 0, got 1", "multiple of 2"),
    case("R210", "modules.language.model.kv_channels", trained(language=f"model: {{{GPT}, «kv_channels: 15}}"), "15 % 2 = 0, got 1"),
    case("R301", "modules.images.parallel", trained(placement="colocated", language=f"parallel: {{pp: 2}}, model: {{{GPT}}}", images="«parallel: {dp: 2}, " + IMAGES), "rank 1 is of a later one", "one forward pass per rank"),
    case("R301", "modules.images.parallel.pp", trained(placement="colocated", language=f"parallel: {{dp: 2}}, model: {{{GPT}}}", images="parallel: {«pp: 2}, " + IMAGES), "pp = 1, got 2"),
    case("R302", "modules.audio.parallel", trained(language=f"parallel: {{rank_offset: 0}}, model: {{{GPT}}}", images="parallel: {pp: 2, rank_offset: 1}, " + IMAGES, audio="«parallel: {tp: 2, rank_offset: 1}, " + SOUND), "pp = 1 or the same grid"),
    case("R303", "modules.audio", trained("images: [audio], speech: [audio], audio: [language]", audio=SOUND, speech=f"model: {{{AUDIO}}}").replace("audio", "«audio", 1), "audio takes ['images', 'speech']", num=3),
    case("R304", "topology.images", trained("«images: [audio], audio: [language]", language=f"parallel: {{rank_offset: 0}}, model: {{{GPT}}}", images=f"parallel: {{rank_offset: 1}}, model: {{{VIT}}}", audio="parallel: {dp: 2, rank_offset: 1}, " + SOUND), "same ranks and pp = 1", num=2),
    case("R305", "topology", trained("images: [audio], audio: [language]", language=f"parallel: {{rank_offset: 0}}, model: {{{GPT}}}", images=f"parallel: {{rank_offset: 0}}, model: {{{VIT}}}", audio="parallel: {rank_offset: 1}, " + SOUND).replace("topology", "«topology"), "language -> audio -> language", num=2),
    case("R401", "modules.images.output.tokens_per_sample", trained(images=IMAGES + ", output: {«tokens_per_sample: 24}"), "multiple of the 16 tokens", "got 24", "synthetic data"),
    case("R402", "batch.seq_length", trained(images=IMAGES + ", output: {tokens_per_sample: 64}").replace("seq_length", "«seq_length"), "images 64 < seq_length = 64", "above 64"),
    case("R403", "modules.images.special_token_id", trained(images=f"model: {{{VIT}}}, «special_token_id: 0"), "got 0"),
    case("R404", "modules.language.model.vocab_size", trained(language=f"model: {{{GPT.replace('vocab_size: 512', '«vocab_size: 2')}}}", images=IMAGES.replace("500", "1")), "vocab_size > 2", "got 2"),
]  # fmt: skip
MEMORY = case(
    "W006",
    "modules.language",
    "cluster: {gpu: h100}\n" + language("model: {preset: vicuna-7b}").replace("language", "«language"),
    "memory of rank 0 (language stage 0) <= 79 GiB of h100, got 1",
    "too much",
)


def place(text: str) -> tuple[str, int, int]:
    """The text without its «, and the line and column at which it stood."""
    before, mark, after = text.partition("«")
    assert mark
    assert "«" not in after
    return before + after, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def refused(text: str | bytes, world_size: int | None = None) -> tuple[Fault, ...]:
    with pytest.raises(PlanError) as caught:
        compile_spec(parse_spec(text, FILE), world_size=world_size)
    return caught.value.faults


def path_of(fault: Fault) -> str:
    """The path in the message, as in `FILE:1:2: error[S101] modules.language.paralel: rule`."""
    head = str(fault).split("\n")[0].removesuffix(f": {fault.rule}")
    return head.partition("] ")[2]


def check(fault: Fault, case: Case, line: int, column: int) -> None:
    shown = str(fault)
    level = "warning" if case.code.startswith(("W", "R")) else "error"
    assert path_of(fault) == case.path
    assert shown.startswith(f"{FILE}:{line}:{column}: {level}[{case.code}] {case.path}: ")
    for words in case.says:
        assert words in shown
    assert shown.split("\n")[1].startswith("    fix: ")
    assert len(shown) < 1000


def names(cases: list[Case]) -> list[Any]:
    return [pytest.param(one, id=f"{i}-{one.code}-{one.path[-40:]}") for i, one in enumerate(cases)]


@pytest.mark.parametrize("case", names(SPECS))
def test_a_bad_spec_is_refused_with_code_place_and_values(case: Case) -> None:
    text, line, column = place(case.text)
    faults = refused(text, case.world_size)
    assert len(faults) == case.num, [str(fault) for fault in faults]
    found = [fault for fault in faults if (fault.code.name, path_of(fault)) == (case.code, case.path)]
    assert len(found) == 1, [str(fault) for fault in faults]
    check(found[0], case, line, column)


@pytest.mark.parametrize("case", names(WARNINGS))
def test_a_doubtful_spec_plans_with_a_warning_and_is_refused_when_strict(case: Case) -> None:
    text, line, column = place(case.text)
    spec = parse_spec(text, FILE)
    found = [fault for fault in planned(spec).warnings if fault.code.name == case.code]
    assert len(found) == 1
    assert found[0].is_warning
    check(found[0], case, line, column)
    with pytest.raises(PlanError) as caught:
        compile_spec(spec, strict=True)
    assert found[0] in caught.value.faults


LOCAL = Target(layers=Layers.LOCAL)


def test_the_spec_that_the_cases_of_limits_vary_has_none() -> None:
    assert limits_of(planned(parse_spec(trained())), LOCAL) == ()


@pytest.mark.parametrize("case", names(LIMITS))
def test_what_cannot_run_is_planned_and_said(case: Case) -> None:
    text, line, column = place(case.text)
    limits = limits_of(planned(parse_spec(text, FILE)), LOCAL)
    assert len(limits) == case.num, [str(limit) for limit in limits]
    found = [limit for limit in limits if (limit.code, path_of(limit)) == (case.code, case.path)]
    assert len(found) == 1
    assert found[0].is_warning
    check(found[0], case, line, column)


@pytest.mark.parametrize("case", names(LIMITS))
def test_the_commands_warn_of_what_cannot_run_unless_strict(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / FILE
    path.write_text(place(case.text)[0])
    assert main(["plan", str(path)]) == 0
    assert f" warning[{case.code}] {case.path}: " in capsys.readouterr().out
    assert main(["plan", str(path), "--strict", "--out", str(tmp_path / "plan.json")]) == 1
    captured = capsys.readouterr()
    assert f" warning[{case.code}] {case.path}: " in captured.err
    assert captured.out == ""
    assert not (tmp_path / "plan.json").exists()


def test_memory_that_does_not_fit_is_said_where_the_module_stands() -> None:
    text, line, column = place(MEMORY.text)
    (found,) = memory_warnings(planned(parse_spec(text, FILE)), load_hardware("h100"))
    check(found, MEMORY, line, column)
    assert memory_warnings(planned(parse_spec(text, FILE)), load_hardware("b200")) == ()


@pytest.fixture(scope="module")
def plan_text() -> str:
    return planned(load_spec(EXAMPLES / "tiny_4rank.yaml")).to_json()


@pytest.mark.parametrize("code", PLANS)
def test_a_bad_plan_is_refused_with_code_path_and_values(code: str, plan_text: str) -> None:
    damage, path, says = PLANS[code]
    assert Plan.from_json(plan_text)
    text = damage(plan_text)
    assert text != plan_text
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    found = [fault for fault in caught.value.faults if fault.code.name == code]
    assert [path_of(fault).rpartition(": ")[2] for fault in found] == [path]
    for words in says:
        assert words in str(found[0])
    assert found[0].remedy


# ---- files


def refused_file(path: str | Path) -> Fault:
    with pytest.raises(PlanError) as caught:
        load_spec(path)
    (fault,) = caught.value.faults
    assert (fault.mark.line, fault.mark.column) == (1, 1)
    assert fault.path == ()
    return fault


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    fault = refused_file(tmp_path / "missing.yaml")
    assert fault.code.name == "S001"
    assert "missing.yaml" in fault.rule
    assert os.strerror(2) in fault.rule


def test_a_directory_is_refused(tmp_path: Path) -> None:
    fault = refused_file(tmp_path)
    assert fault.code.name == "S001"
    assert os.strerror(21) in fault.rule


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "closed.yaml"
    path.write_text(LONE)
    path.chmod(0)
    fault = refused_file(path)
    assert fault.code.name == "S001"
    assert os.strerror(13) in fault.rule


def test_a_file_that_may_not_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for root as well: the refusal of the operating system is simulated."""

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    path = tmp_path / "closed.yaml"
    path.write_text(LONE)
    monkeypatch.setattr("builtins.open", closed)
    fault = refused_file(path)
    assert fault.code.name == "S001"
    assert os.strerror(13) in fault.rule


def test_a_nul_in_a_file_name_is_refused() -> None:
    fault = refused_file("no\0where.yaml")
    assert fault.code.name == "S001"
    assert "null" in fault.rule
    assert "\0" not in str(fault)


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(LONE)
    assert refused_file(path / "spec.yaml").code.name == "S001"


@pytest.mark.parametrize("line", [b"x" * 63 + b"\n", b"- {a: [1, 2\n", b"\x00\xff\x1b[31m"])
def test_ten_megabytes_of_nonsense_are_not_read(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nonsense.yaml"
    path.write_bytes(line * (10 * 2**20 // len(line)))
    fault = refused_file(path)
    assert fault.code.name == "S002"
    assert str(MAX_BYTES) in fault.rule


def test_an_endless_file_is_refused() -> None:
    assert refused_file("/dev/zero").code.name == "S002"


def test_the_greatest_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(LONE + "#" * (MAX_BYTES - len(LONE)))
    assert planned(load_spec(path)).world_size == 2
    path.write_text(LONE + "#" * (MAX_BYTES - len(LONE) + 1))
    assert refused_file(path).code.name == "S002"


# ---- characters


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80"])
def test_what_is_not_utf_8_is_refused_where_it_stands(bad: bytes) -> None:
    (fault,) = refused(LONE.encode() + b"placement: " + bad + b"\n")
    assert fault.code.name == "S003"
    assert "UTF-8" in fault.rule
    assert (fault.mark.line, fault.mark.column) == (4, 12)


@pytest.mark.parametrize("bad", ["\0", "\x07", "\x1b", "\x7f", "\x9b"])
def test_control_characters_are_refused_where_they_stand(bad: str) -> None:
    (fault,) = refused(LONE + f"# {bad}\n")
    assert fault.code.name == "S003"
    assert "control character" in fault.rule or "printable" in fault.rule or "special character" in fault.rule
    assert "UTF-8" not in fault.remedy  # the file is UTF-8; saving it again changes nothing
    assert (fault.mark.line, fault.mark.column) == (4, 3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_files_are_read(encoding: str) -> None:
    text = LONE + "# größer → 大\n"
    assert planned(parse_spec(text.encode(encoding))) == planned(parse_spec(LONE))


@pytest.mark.parametrize("key", ['"\\e[2J"', '"a\\nb"', '"\\u202e"', '"\\0"', '"\\ud800"'])
def test_an_escape_in_a_key_reaches_no_terminal(key: str) -> None:
    (fault,) = refused(LONE + f"{key}: 1\n")
    assert fault.code.name == "S101"
    assert all(line.isprintable() for line in str(fault).split("\n"))
    assert key.strip('"').replace("\\e", "\\x1b").replace("\\0", "\\x00") in str(fault)
    assert len(str(fault).split("\n")) == 2


def test_names_end_at_64_characters() -> None:
    assert planned(parse_spec(modules(language="", **{"m" * 64: ""}))).modules[1].name == "m" * 64
    (fault,) = refused(modules(language="", **{"m" * 65: ""}))
    assert fault.code.name == "S106"
    assert "at most 63" in fault.rule


@pytest.mark.parametrize("escape", ['"\\U0011ffff"', '"\\Uffffffff"', '"\\xzz"'])
def test_an_escape_that_is_no_character_is_refused(escape: str) -> None:
    (fault,) = refused(LONE + f"placement: {escape}\n")
    assert fault.code.name == "S003"


# ---- several faults


def test_faults_are_reported_together_in_source_order() -> None:
    text = """\
schema: 1
training: {lr: -1, dtpe: bf16}
modules:
  images:
    parallel: {tp: two, ep: 0}
    colour: red
  language:
    parallel: {tp: 2, tp: 0, order: tp}
  2b: {}
batch: {global_size: 0, micro_size: 4}
"""
    faults = refused(text)
    assert [(fault.code.name, fault.mark.line) for fault in faults] == [
        ("S004", 8)
    ]  # while places are in doubt, nothing else is reported
    faults = refused(text.replace("tp: 2, ", ""))
    assert [(fault.code.name, fault.mark.line, fault.mark.column) for fault in faults] == [
        ("S104", 2, 12),
        ("S101", 2, 20),
        ("S103", 5, 16),
        ("S104", 5, 25),
        ("S101", 6, 5),
        ("S104", 8, 16),
        ("S105", 8, 23),
        ("S106", 9, 3),
        ("S102", 10, 1),
        ("S104", 10, 9),
    ]


def test_faults_of_all_passes_are_reported_together_in_source_order() -> None:
    text = f"""\
topology: {{audio: [audio]}}
modules:
  language:
    model: {{{GPT}}}
    parallel: {{tp: 3, dp: 1}}
  audio:
    special_token_id: 600
    parallel: {{dp: 3}}
batch: {{global_size: 10, micro_size: 4, seq_length: 64}}
"""
    faults = refused(text)
    assert [(fault.code.name, fault.mark.line) for fault in faults][:2] == [("T003", 1), ("M003", 5)]
    assert {fault.code.name for fault in faults} == {"T003", "M003", "M008", "M010", "B001", "B002"}
    places = [(fault.mark.line, fault.mark.column) for fault in faults]
    assert places == sorted(places)


def test_a_flood_of_faults_is_cut_short_and_counted() -> None:
    with pytest.raises(PlanError) as caught:
        parse_spec(LONE + "".join(f"k{i}: 1\n" for i in range(1000)))
    assert len(caught.value.faults) == 200
    assert caught.value.num_left_out == 800
    assert str(caught.value).endswith("and 800 more")


def test_python_users_get_the_same_faults_without_marks() -> None:
    with pytest.raises(PlanError) as caught:
        Spec(batch={"global_size": 0, "micro_size": 4, "seq_length": 64}, modules={"language": {"paralel": {}}})
    assert {fault.code.name for fault in caught.value.faults} <= {"S104", "S101"}
    assert all(fault.mark is None for fault in caught.value.faults)
    with pytest.raises(PlanError) as caught:
        compile_spec(Spec(batch={"global_size": 8, "micro_size": 4, "seq_length": 64}, modules={"llm": {}}))
    assert [str(fault.code) for fault in caught.value.faults] == ["T001"]


def test_what_merges_and_aliases_allow_is_read() -> None:
    text = HEAD + "modules: {images: {parallel: &p {tp: 2, dp: 2}}, language: {parallel: {<<: *p, dp: 1}}}\n"
    plan = planned(parse_spec(text))
    assert [module.grid.size for module in plan.modules] == [4, 2]


# ---- the table is whole


def test_every_code_has_a_case() -> None:
    files = {"S001", "S002", "S006"}  # S006: test_work_is_bounded.py
    files |= {"N001", "N002", "N003"}  # tests/cost/test_advice_does_what_it_says.py
    covered = {one.code for one in [*SPECS, *WARNINGS, *LIMITS, MEMORY]} | set(PLANS) | files
    assert covered == set(CODES)


def test_codes_are_named_once_and_explained() -> None:
    assert all(name == code.name for name, code in CODES.items())
    assert len({code.title for code in CODES.values()}) == len(CODES)
    for code in CODES.values():
        assert len(code.explanation) > 40
        assert json.dumps(code.explanation).isascii()
