"""A GPU and its links as data: numbers with their sources, from `planner/hardware/*.yaml` or a user's own file.

A file has two kinds of numbers: those of data sheets, and rates that real runs reach, which `mimo calibrate` fits. All
of them are physical: none belongs to a model size or a layout.
"""

from __future__ import annotations

import json
import os
from typing import cast

import attrs

from ...base import codes
from ...base.errors import Fault, Faults, PlanError
from ...base.frozen import frozen
from ...passes.compile import compile_spec
from ...plan import Plan
from ...spec.fields import FieldType, Integer, Line, Positive, Record, field, suggest
from ...spec.loader import MAX_BYTES, check_size, file_name, parse_document, read_bytes
from ...spec.spec import Spec
from ..work.ops import GIB

_FOLDER = os.path.abspath(os.path.join(__file__, *3 * [os.pardir], "hardware"))
DEFAULT = "h100"


@frozen(kw_only=True)
class Constant:
    """A number and where it comes from.

    `mimo calibrate` fits the constants that have a `start`: a fit begins there, and is penalised for moving away.
    """

    value: float = field(Positive(1e9), doc="the number, in the unit that its key names")
    source: str = field(Line(200), doc="a data sheet, a published measurement, or a fit to measured runs")
    start: float | None = field(Positive(1e9), default=None, doc="where a fit starts: a published or an assumed value")


_CONSTANT: FieldType = Record(Constant)


@frozen(kw_only=True)
class Hardware:
    """One kind of GPU, and the links in and between its nodes."""

    name: str = field(Line(), doc="name of the GPU")
    num_sms: int = field(
        Integer(1), doc="number of streaming multiprocessors, which share out a matrix product's tiles"
    )
    memory_gib: Constant = field(_CONSTANT, doc="memory that a process can use")
    peak_tflops: Constant = field(_CONSTANT, doc="dense bf16 rate of the data sheet, against which MFU is measured")
    product_tflops: Constant = field(_CONSTANT, doc="bf16 rate that a large matrix product reaches")
    attention_share: Constant = field(_CONSTANT, doc="rate of flash attention's core over that of a large product")
    memory_gb_s: Constant = field(_CONSTANT, doc="memory bandwidth that kernels reach")
    nvlink_gb_s: Constant = field(
        _CONSTANT, doc="bandwidth per GPU, in one direction, that collectives inside a node reach"
    )
    network_gb_s: Constant = field(
        _CONSTANT, doc="bandwidth per GPU, in one direction, that collectives between nodes reach"
    )
    ring_share: Constant = field(
        _CONSTANT, doc="share of its cards' bandwidth that a ring gets with several, but not all, ranks of each node"
    )
    hop_us: Constant = field(_CONSTANT, doc="latency of a message, and of each of a ring's size - 1 steps")
    kernel_us: Constant = field(_CONSTANT, doc="time to start and end a kernel")
    launch_ms: Constant = field(_CONSTANT, doc="time that a CPU takes to launch one layer's forward pass")
    launch_wait: Constant = field(_CONSTANT, doc="share that launching takes longer per further rank of the tp group")
    microbatch_ms: Constant = field(_CONSTANT, doc="host time of a stage per microbatch, outside the layers")
    scale_out: Constant = field(_CONSTANT, doc="factor on a stage's time if a job spans several nodes")

    @property
    def memory_bytes(self) -> float:
        """Bytes of memory that a process can use."""
        return self.memory_gib.value * GIB


def constants(hardware: Hardware) -> dict[str, Constant]:
    """Every constant of a GPU, by its key."""
    return {name: value for name, value in attrs.asdict(hardware, recurse=False).items() if isinstance(value, Constant)}


HARDWARE_TYPE: FieldType = Record(Hardware)


def known_hardware() -> list[str]:
    """Names of the GPUs that come with the package."""
    return sorted(name.removesuffix(".yaml") for name in os.listdir(_FOLDER) if name.endswith(".yaml"))


def is_hardware_file(name: str) -> bool:
    """Whether a GPU is named by its file."""
    return name.endswith((".yaml", ".yml"))


def load_hardware(name: str) -> Hardware:
    """The GPU of a name (`h100`, in any case), or of a file (any name that ends in .yaml or .yml).

    Raises:
        PlanError: there is no such GPU, or its file has faults.
    """
    is_file = is_hardware_file(name)
    if not is_file and name.lower() not in known_hardware():
        known = known_hardware()
        rule = f"the GPU is one of {', '.join(known)}, or a file; got {name!r}"
        alike = [gpu for gpu in known if gpu[0] == name[:1].lower()]  # a V100 is no H100
        remedy = suggest(name, alike) + "write `cluster: {gpu: NAME}`, --gpu NAME, or --gpu FILE.yaml"
        raise PlanError([Fault(codes.BAD_CHOICE, ("cluster", "gpu"), rule, remedy)])
    path = name if is_file else os.path.join(_FOLDER, f"{name.lower()}.yaml")
    try:
        data = read_bytes(path, MAX_BYTES)
        check_size(data, path)
    except PlanError as error:
        raise error.of("hardware") from None
    return parse_hardware(data, file_name(path), is_ours=not is_file)


def check_gpu(name: str, faults: Faults) -> None:
    """Add a fault of `cluster.gpu` if there is no GPU of that name, or no such file.

    Raises:
        PlanError: there is a hardware file of that name, with faults of its own.
    """
    if name.lower() in known_hardware():
        return
    try:
        load_hardware(name)
    except PlanError as error:
        (first, *_) = error.faults
        if first.code not in (codes.BAD_CHOICE, codes.UNREADABLE):
            raise
        faults.add(first.code, ("cluster", "gpu"), first.rule, first.remedy)


def compile_on_known_gpu(spec: Spec, world_size: int | None = None) -> Plan:
    """The plan of a spec whose GPU, if it names one, must be known. Faults of both are told together.

    Raises:
        PlanError: the GPU is not known, or the spec has faults.
    """
    faults = Faults(spec.source)
    if spec.cluster is not None and spec.cluster.gpu is not None:
        check_gpu(spec.cluster.gpu, faults)
    try:
        plan = compile_spec(spec, world_size=world_size)
    except PlanError as error:
        if faults.has_errors:
            faults.extend(error)
            faults.raise_errors()
        raise
    faults.raise_errors()
    return plan


def parse_hardware(text: str | bytes, file: str = "<string>", *, is_ours: bool = False) -> Hardware:
    """The GPU that a YAML text describes.

    Args:
        text: the document.
        file: its name, for messages.
        is_ours: whether the file comes with this package (see `parse_document`).

    Raises:
        PlanError: the text has faults; all that were found.
    """
    empty = ("a hardware file has name, num_sms and constants; the document is empty", "start from planner/hardware/")
    try:
        found, _ = parse_document(text, file, HARDWARE_TYPE, empty, is_ours=is_ours)
    except PlanError as error:
        raise error.of("hardware") from None
    return cast("Hardware", found)


def hardware_text(hardware: Hardware) -> str:
    """The YAML text of a GPU, which `parse_hardware` reads back."""
    lines = [f"name: {json.dumps(hardware.name)}", f"num_sms: {hardware.num_sms}"]
    for name, constant in constants(hardware).items():
        start = f", start: {_number(constant.start)}" if constant.start else ""
        lines.append(f"{name}: {{value: {_number(constant.value)}{start}, source: {json.dumps(constant.source)}}}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """A short text that is read back as exactly the same number."""
    short = f"{value:.6g}"
    return short if float(short) == value else repr(value)
