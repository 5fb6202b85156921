"""`mimo init`: a commented spec to begin with, of what is asked or given."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..base.printable import printable
from .options import MisuseError, add_format, integer
from .output import STDOUT, output_of, progress

if TYPE_CHECKING:
    from ..cost.prediction import Prediction
    from ..spec.spec import Spec

_FAMILIES = {"language": "gpt", "images": "vit", "audio": "audio"}
_NONE = "none"
_COUNT = integer(1)


def add(commands: Any) -> None:
    """Add the command."""
    init = commands.add_parser(
        "init",
        help="write a spec to begin with",
        description="Write a commented spec of your models on your cluster, in the fastest of several hundred usual "
        "layouts that fits. On a terminal, what is not given is asked; else it is the first preset of a language "
        "model and of an image encoder, no audio, and one node of 8 h100 with 256 samples of 4096 tokens a step.",
    )
    init.add_argument("-o", "--out", metavar="FILE", default="spec.yaml", help="where to write it (default: spec.yaml)")
    init.add_argument("--language", metavar="PRESET", help="the language model; `mimo presets` lists those known")
    init.add_argument("--images", metavar="PRESET", help="the image encoder, or none")
    init.add_argument("--audio", metavar="PRESET", help="the audio encoder, or none")
    init.add_argument("--gpu", metavar="NAME", help="the GPU; `mimo gpus` lists those known")
    init.add_argument("--nodes", metavar="N", type=integer(1), help="number of nodes")
    init.add_argument("--gpus-per-node", metavar="N", type=integer(1), help="GPUs per node")
    init.add_argument("--global-size", metavar="N", type=integer(1), help="samples per optimizer step")
    init.add_argument("--seq-length", metavar="N", type=integer(1), help="tokens per sample of the language model")
    init.add_argument("--train-encoders", action="store_true", help="train the encoders, not their projections alone")
    add_format(init)
    init.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    if options.out == STDOUT and options.format == "json":
        raise MisuseError("--format json tells what was written: give -o FILE for the spec")
    if options.out != STDOUT and os.path.lexists(options.out):
        raise MisuseError(f"--out {printable(options.out)} is there already: name another file, or - to print the spec")
    out = output_of("--out", options.out)
    answers = _answers(options)
    found = _laid_out(answers, options)
    if found is None:
        raise MisuseError(
            "none of the usual layouts fits these GPUs: give a --global-size that the number of GPUs divides, more "
            "nodes, a shorter --seq-length or a smaller model"
        )
    spec, prediction = found
    out.write(_text(spec, prediction))
    _tell(options, prediction)
    return 0


# ---- what is wanted


def _answers(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line gives, what is asked on a terminal, or the defaults."""
    from ..cost.timing.hardware import DEFAULT, known_hardware  # noqa: PLC0415
    from ..spec.presets import PRESETS  # noqa: PLC0415

    models = {
        module: [name for name, model in PRESETS.items() if model.family == family]
        for module, family in _FAMILIES.items()
    }
    questions: dict[str, tuple[str, Any, Callable[[str], Any]]] = {
        "language": ("language model", models["language"][0], _one_of(models["language"])),
        "images": ("image encoder", models["images"][0], _one_of([*models["images"], _NONE])),
        "audio": ("audio encoder", _NONE, _one_of([*models["audio"], _NONE])),
        "gpu": ("GPU", DEFAULT, _one_of(known_hardware(), _OWN_GPU)),
        "nodes": ("nodes", 1, _COUNT),
        "gpus_per_node": ("GPUs per node", 8, _COUNT),
        "global_size": ("samples per step", 256, _COUNT),
        "seq_length": ("tokens per sample", 4096, _COUNT),
    }
    is_asked = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    return {
        name: _answer(name, getattr(options, name), *question, is_asked=is_asked)
        for name, question in questions.items()
    }


_OWN_SIZES = "begin with one of these, and write your model's sizes into the spec"
_OWN_GPU = "begin with one of these, and name a hardware file of your own in the spec"


def _one_of(words: list[str] | tuple[str, ...], otherwise: str = _OWN_SIZES) -> Callable[[str], str]:
    def parse(text: str) -> str:
        from ..spec.fields import suggest  # noqa: PLC0415

        if text.lower() not in words:
            close = suggest(text.lower(), words)
            raise argparse.ArgumentTypeError(f"is not one of {', '.join(words)}; {close}{otherwise}")
        return text.lower()

    parse.__doc__ = ", ".join(words)
    return parse


def _answer(name: str, given: Any, question: str, default: Any, parse: Callable[[str], Any], *, is_asked: bool) -> Any:
    """One answer. What is given must be right; what is typed is asked for again until it is."""
    if given is not None:
        try:
            return parse(str(given))
        except argparse.ArgumentTypeError as error:
            raise MisuseError(f"--{name.replace('_', '-')} {printable(str(given))} {error}") from None
    while is_asked:
        choices = f" ({parse.__doc__})" if parse is not _COUNT else ""
        print(f"{question}{choices} [{default}]: ", end="", file=sys.stderr, flush=True)
        typed = sys.stdin.readline()
        if not typed.strip():
            break
        try:
            return parse(typed.strip())
        except argparse.ArgumentTypeError as error:
            print(f"  {printable(typed.strip())} {error}", file=sys.stderr)
    return default


# ---- the layout


def _laid_out(answers: Mapping[str, Any], options: argparse.Namespace) -> tuple[Spec, Prediction] | None:
    from ..advice.first import first_layout  # noqa: PLC0415
    from ..cost.timing.hardware import load_hardware  # noqa: PLC0415
    from ..layout.bridges import tokens_per_item  # noqa: PLC0415
    from ..spec.presets import PRESETS  # noqa: PLC0415
    from ..spec.sections import Batch, Cluster, Freeze, Model, Module, Output  # noqa: PLC0415
    from ..spec.spec import Spec  # noqa: PLC0415

    vocabulary = PRESETS[answers["language"]].vocab_size or 0
    modules = {"language": Module(model=Model(preset=answers["language"]))}
    for number, name in enumerate(name for name in ("images", "audio") if answers[name] != _NONE):
        modules[name] = Module(
            model=Model(preset=answers[name]),
            output=Output(tokens_per_sample=tokens_per_item(PRESETS[answers[name]])),
            special_token_id=vocabulary - 1 - number,
            freeze=Freeze(encoder=not options.train_encoders),
        )
    spec = Spec(
        cluster=Cluster(nodes=answers["nodes"], gpus_per_node=answers["gpus_per_node"], gpu=answers["gpu"]),
        batch=Batch(global_size=answers["global_size"], micro_size=1, seq_length=answers["seq_length"]),
        modules=modules,
    )
    return first_layout(spec, load_hardware(answers["gpu"]), progress("trying layouts", options))


# ---- the text

_COMMENTS = {
    "cluster": "the machines; `mimo gpus` lists the GPUs that are known",
    "batch": "global_size: samples per optimizer step; micro_size: of the whole model, so that every dp divides it",
    "modules": "each with its own tp, cp, dp and pp; `mimo presets` lists the models, or write their sizes",
    "placement": "all modules on all ranks; without this line each has ranks of its own",
    "training": "dtype, optimizer, lr and what else the model trains with",
    "special_token_id": "the id of the placeholder in your tokenizer",
    "tokens_per_sample": "what the encoder makes of one sample",
}


def _text(spec: Spec, p: Prediction) -> str:
    """The spec as YAML with comments: what it is predicted to take, and what its sections are."""
    from ..cost.simulation.words import duration  # noqa: PLC0415
    from ..cost.work.ops import GIB  # noqa: PLC0415

    lines = [
        "# yaml-language-server: $schema=spec.schema.json",
        "# (`mimo schema > spec.schema.json` lets editors complete keys; `mimo plan` shows the layout)",
        f"# Predicted: {duration(p.step_seconds)} a step, {p.tokens_per_second:,.0f} tokens/s, at most "
        f"{p.worst.total / GIB:.0f} of {p.memory_limit / GIB:g} GiB on {p.hardware.name}.",
    ]
    for line in spec.to_yaml().splitlines():
        key = line.partition(":")[0]
        if comment := _COMMENTS.get(key):
            lines.append(f"# {comment}")
        inner = _COMMENTS.get(key.strip()) if line.startswith(" ") else None
        lines.append(f"{line}  # {inner}" if inner else line)
    return "\n".join(lines) + "\n"


def _tell(options: argparse.Namespace, prediction: Prediction) -> None:
    """Say what was written, and what to do next."""
    from ..cost.simulation.words import duration  # noqa: PLC0415

    if options.format == "json":
        print(json.dumps({"wrote": [options.out], "step_seconds": prediction.step_seconds}))
    elif options.out != STDOUT:  # which holds the spec
        name, gpus = printable(options.out), f"{prediction.world_size} {prediction.hardware.name}"
        print(f"wrote {name}: {duration(prediction.step_seconds)} a step on {gpus}")
        print(f"next: mimo plan {name}")
