"""What a training will take elsewhere: time, memory and money on accelerators that are not at hand.

A step of the recipe's model is taken here on two small batches, and of every operation the floating-point operations and the
bytes that it reads and writes are counted. Both grow in proportion to the batch, which gives those of the recipe's own. An
operation takes as long as the slower of the two on the machine in question: its arithmetic, or its memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from medlip.errors import MedLIPError, did_you_mean
from medlip.memory import GIB
from medlip.methods import build_method
from medlip.methods.base import HasEncoder
from medlip.nn.device import peak_allocated, product_rate
from medlip.nn.parameters import count_learned
from medlip.nn.report_encoder import ReportEncoder
from medlip.training.bench import made_up_batch
from medlip.training.progress import duration

if TYPE_CHECKING:
    from medlip.training.recipe import Recipe

COUNTED = (2, 4)  # images of the batches that are counted
READING = 1.6e-3  # seconds of one core that reading and augmenting an image takes, docs/speed.md
HIDDEN = 0.8  # share of the exchange of gradients that goes on beside the backward pass
REPORT_TOKENS = 100
LAUNCH = 43e-6  # seconds that a core needs to start an operation on an accelerator, docs/scale.md
REACHED = 0.8  # share of its best that a processor reaches among a step's operations, docs/scale.md


@dataclass(frozen=True, slots=True)
class Machine:
    """What one accelerator manages: rates that are reached, not those of its data sheet.

    Attributes:
        name: of it.
        products: floating-point operations a second in matrix products.
        convolutions: likewise in convolutions.
        memory_rate: bytes read and written a second.
        overhead: seconds that an operation takes at least.
        memory: bytes; 0 where it isn't known.
        exchange_rate: bytes of gradients a second that it exchanges with the others.
        price: US dollars an hour.
        half: whether networks compute in 16 bits there.
        source: where the figures come from.
    """

    name: str
    products: float
    convolutions: float
    memory_rate: float
    overhead: float
    memory: float = 0.0
    exchange_rate: float = 0.0
    price: float = 0.0
    half: bool = True
    source: str = ""


def _sheet(name: str, peak: float, memory_rate: float, gib: int, exchange: float, price: float) -> Machine:
    """Return an accelerator by its data sheet, at the shares of it that are usually reached."""
    source = (
        f"{peak / 1e12:.0f} TFLOP/s (dense bf16), {memory_rate / 1e12:.2f} TB/s by its data sheet; reached of that: 0.5 in "
        f"matrix products, 0.35 in convolutions, 0.75 of the memory's rate; {LAUNCH * 1e6:.0f} us to start an operation"
    )
    reached = (0.5 * peak, 0.35 * peak, 0.75 * memory_rate)
    return Machine(name, *reached, LAUNCH, gib * GIB, exchange, price, source=source)


MACHINES = {
    machine.name: machine
    for machine in (
        _sheet("h100", 989e12, 3.35e12, 80, 200e9, 3.0),
        _sheet("h200", 989e12, 4.8e12, 141, 200e9, 3.8),
        _sheet("a100", 312e12, 2.04e12, 80, 130e9, 1.8),
        _sheet("l40s", 362e12, 0.86e12, 48, 20e9, 1.2),
        _sheet("l4", 121e12, 0.30e12, 24, 12e9, 0.7),
    )
}
HERE = "here"
"""Name of this machine's own processor, whose rates are measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training will take.

    Attributes:
        recipe: its name.
        gpu: the kind of accelerator.
        gpus: how many.
        pairs: images with their reports.
        batch: images a step, of all accelerators.
        steps: of the whole training.
        images: that are learned from in all, those of every epoch counted.
        image_tokens: locations or patches of these, as the encoder gives them.
        text_tokens: of their reports, at most; 0 for a method that trains no text encoder.
        parameters: that are learned.
        flops_per_image: floating-point operations of a step for one image.
        bytes_per_image: that it reads and writes.
        step_seconds: of a step.
        exchange_seconds: of these, waiting for the others' gradients.
        images_per_second: of all accelerators.
        share_of_products: of the rate that the accelerators reach in matrix products.
        hours: of the whole.
        memory_gib: of one accelerator: weights, gradients, moments and activations.
        memory_there_gib: what it has; 0 where that is not known.
        cores: that reading images keeps busy beside each accelerator.
        cost: US dollars.
        assumptions: what all this stands on.
    """

    recipe: str
    gpu: str
    gpus: int
    pairs: int
    batch: int
    steps: int
    images: int
    image_tokens: int
    text_tokens: int
    parameters: int
    flops_per_image: float
    bytes_per_image: float
    step_seconds: float
    exchange_seconds: float
    images_per_second: float
    share_of_products: float
    hours: float
    memory_gib: float
    memory_there_gib: float
    cores: float
    cost: float
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)

    def describe(self) -> str:
        """Return some lines for people."""
        tokens = f"{self.image_tokens:.3g} image tokens" + (
            f", {self.text_tokens:.3g} text tokens" if self.text_tokens else ""
        )
        there = f" of {self.memory_there_gib:.0f}" if self.memory_there_gib else ""
        lines = (
            f"training  {self.steps:,} steps of {self.batch:,} images on {self.gpus} x {self.gpu}",
            f"images    {self.images:,} in all, {tokens}",
            f"step      {self.step_seconds:.3g} s, {self.exchange_seconds:.2g} s of it for the exchange of gradients; "
            f"{self.images_per_second:,.0f} images/s, {self.share_of_products:.0%} of the rate of matrix products",
            f"time      {duration(3600 * self.hours)} ({self.hours:.3g} h), ${self.cost:,.0f}",
            f"memory    {self.memory_gib:.1f}{there} GiB on each",
            f"reading   {self.cores:.1f} cores beside each",
        )
        return "\n".join([*lines, "assumed", *(f"  - {line}" for line in self.assumptions)])


def plan(
    recipe: Recipe, name: str, *, gpus: int = 1, gpu: str = "h100", pairs: int = 370_000, price: float | None = None
) -> Plan:
    """Work out what a training will take.

    Args:
        recipe: the experiment.
        name: of the recipe.
        gpus: accelerators that train together.
        gpu: their kind, one of `MACHINES`, or `HERE` for this machine's processor, whose rates are measured.
        pairs: images with reports.
        price: US dollars an hour of one; None for the one that is assumed.

    Raises:
        MedLIPError: no such kind of accelerator, or fewer pairs than a batch.
    """
    machine = measured_here() if gpu == HERE else MACHINES.get(gpu)
    if machine is None:
        raise MedLIPError(
            f"accelerator {gpu!r} is unknown.{did_you_mean(gpu, MACHINES)} Choose one of: {', '.join([*MACHINES, HERE])}."
        )
    settings = recipe.training
    batch = gpus * settings.batch_size
    steps = settings.epochs * (pairs // batch)
    if not steps:
        raise MedLIPError(
            f"{pairs:,} pairs are fewer than a batch of {settings.batch_size} on each of {gpus} accelerators. Set "
            "training.batch_size, or name more pairs."
        )
    counted = count(recipe)
    half = machine.half and settings.precision != "fp32"
    again = 4 / 3 if settings.checkpointing or settings.accumulate > 1 else 1.0
    busy = again * counted.seconds(machine, settings.batch_size, half)
    gradients = 4 * counted.parameters
    exchange = 2 * (gpus - 1) / gpus * gradients / machine.exchange_rate * (1 - HIDDEN) if machine.exchange_rate else 0.0
    seconds = busy + exchange
    kept = (settings.accumulate if settings.accumulate > 1 else 1) * (4 if settings.checkpointing else 1)
    activations = counted.held(settings.batch_size) / kept * (0.5 if half else 1.0)
    images, flops = steps * batch, counted.flops(settings.batch_size)
    rate = machine.price if price is None else price
    hours = steps * seconds / 3600
    return Plan(
        recipe=name,
        gpu=machine.name,
        gpus=gpus,
        pairs=pairs,
        batch=batch,
        steps=steps,
        images=images,
        image_tokens=images * counted.tokens,
        text_tokens=images * counted.text_tokens,
        parameters=counted.parameters,
        flops_per_image=flops / settings.batch_size,
        bytes_per_image=counted.bytes(settings.batch_size) / settings.batch_size,
        step_seconds=seconds,
        exchange_seconds=exchange,
        images_per_second=batch / seconds,
        share_of_products=again * flops / seconds / machine.products,
        hours=hours,
        memory_gib=(16 * counted.parameters + activations) / GIB,
        memory_there_gib=machine.memory / GIB,
        cores=settings.batch_size / seconds * READING,
        cost=hours * gpus * rate,
        assumptions=(
            f"{machine.name}: {machine.source}",
            f"counted on batches of {COUNTED[0]} and {COUNTED[1]} images; what grows with the square of a batch is left out",
            *(["16 bits: half the bytes of every operation and of what is kept"] if half else []),
            *(["activations computed again: a third more time"] if again > 1 else []),
            f"gradients exchanged at {machine.exchange_rate / 1e9:.0f} GB/s, {HIDDEN:.0%} of it beside the backward pass"
            if gpus > 1
            else "one accelerator exchanges nothing",
            f"{1000 * READING:.1f} ms of a core to read and augment an image; validation and checkpoints left out",
            f"${rate:.2f} an hour for each",
            *([f"{recipe.first.recipe} on {recipe.first.data}, which comes first, left out"] if recipe.first else []),
            *counted.notes,
        ),
    )


@dataclass(frozen=True, slots=True)
class Operation:
    """What one operation of a step takes at two sizes of the batch.

    Attributes:
        kind: "product", "convolution" or "other".
        flops: floating-point operations.
        bytes: read and written.
        count: operations that these are the sums of.
    """

    kind: str
    flops: tuple[float, ...]
    bytes: tuple[float, ...]
    count: int = 1


@dataclass(frozen=True, slots=True)
class Counted:
    """What a step of a model takes, as a function of the batch.

    Attributes:
        operations: in the order in which they are done.
        peak: bytes of activations that are held at once, at both sizes.
        parameters: that are learned.
        tokens: locations of an image.
        text_tokens: of a report, at most.
        notes: what stands for something else.
    """

    operations: Sequence[Operation]
    peak: tuple[float, ...]
    parameters: int
    tokens: int
    text_tokens: int
    notes: Sequence[str] = field(default=())

    def flops(self, batch: int) -> float:
        """Return the floating-point operations of a step."""
        return sum(_at(operation.flops, batch) for operation in self.operations)

    def bytes(self, batch: int) -> float:
        """Return the bytes that a step reads and writes."""
        return sum(_at(operation.bytes, batch) for operation in self.operations)

    def held(self, batch: int) -> float:
        """Return the bytes of activations."""
        return _at(self.peak, batch)

    def seconds(self, machine: Machine, batch: int, half: bool) -> float:
        """Return how long a step takes on a machine, update included."""
        rates = {"product": machine.products, "convolution": machine.convolutions, "other": machine.products}
        total = 0.0
        for operation in self.operations:
            moved = _at(operation.bytes, batch) * (0.5 if half else 1.0) / machine.memory_rate
            computed = _at(operation.flops, batch) / rates[operation.kind]
            total += max(computed, moved, operation.count * machine.overhead)
        return total + 28 * self.parameters / machine.memory_rate  # AdamW reads and writes weights, moments and gradients


def _at(values: Sequence[float], batch: int) -> float:
    """Return a value at a batch, in proportion to what it is at both sizes."""
    slope = (values[1] - values[0]) / (COUNTED[1] - COUNTED[0])
    return max(0.0, values[0] + slope * (batch - COUNTED[0]))


def count(recipe: Recipe) -> Counted:
    """Take steps of a recipe's model on this machine's processor, and count."""
    vocabulary, preprocessing = recipe.make_vocabulary(), recipe.make_preprocessing()
    settings, notes = _at_hand(recipe.method)
    batches = [made_up_batch(images, preprocessing.size, vocabulary) for images in COUNTED]
    torch.manual_seed(0)
    method = build_method(
        {**settings, "weights": None} if "weights" in settings else settings,
        vocabulary,
        preprocessing,
        lambda: (" ".join(sentences) for sentences in batches[-1].sentences),
    ).train()
    counters, peaks = [], []
    for batch in batches:

        def step(batch: Any = batch) -> None:
            torch.stack(list(method.losses(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
            method.zero_grad(set_to_none=True)

        step()
        counter = _Counter()
        with counter:
            step()
        counters.append(counter)
        peaks.append(float(peak_allocated(step, batch.images.device)))
    first, second = (counter.found for counter in counters)
    if len(first) == len(second):
        pairs: Sequence[tuple[_Cost, _Cost]] = list(zip(first, second, strict=True))
    else:  # a step that decides by its data what to do: then by kind
        kinds = [_by_kind(found) for found in (first, second)]
        pairs = [(kinds[0][kind], kinds[1].get(kind, kinds[0][kind])) for kind in kinds[0]]
    operations = [Operation(a.kind, (a.flops, b.flops), (a.bytes, b.bytes), a.count) for a, b in pairs]
    tokens = 0
    if isinstance(method, HasEncoder):
        with torch.no_grad():
            tokens = method.encoder(batches[0].images).tokens.shape[1]
    text = REPORT_TOKENS if any(isinstance(part, ReportEncoder) for part in method.modules()) else 0
    return Counted(operations, (peaks[0], peaks[1]), count_learned(method), tokens, text, notes)


def _at_hand(settings: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return a method's settings with text encoders that need no download, a trained one of the size of BERT."""
    from medlip.methods.base import method_type

    fields = method_type(str(settings["name"])).config_type.model_fields
    trained = "report_encoder" if "report_encoder" in fields else "text_encoder" if "text_width" in fields else ""
    changes: dict[str, object] = {}
    notes = []
    for name in ("text_encoder", "report_encoder"):
        if "/" not in (encoder := str(settings.get(name, ""))):
            continue
        if name == trained:
            changes |= {name: "wordpiece", "text_width": 768, "text_layers": 12}
            notes.append(f"{encoder} counted as 12 layers of width 768, without its 22 million word embeddings")
        else:
            changes[name] = "lexical"  # texts are embedded once, before training
    return {**settings, **changes}, notes


def measured_here() -> Machine:
    """Return what this machine's processor manages, measured now."""
    device = torch.empty(0).device
    images, kernels = torch.randn(4, 64, 56, 56).to(memory_format=torch.channels_last), torch.randn(64, 64, 3, 3)
    convolution = 2 * 4 * 56 * 56 * 64 * 64 * 9
    block, small = torch.randn(1 << 24), torch.randn(16)
    return Machine(
        HERE,
        products=REACHED * product_rate(device, torch.float32),
        convolutions=REACHED * convolution / _fastest(lambda: torch.conv2d(images, kernels, padding=1)),
        memory_rate=REACHED * 2 * block.nbytes / _fastest(lambda: block.mul_(1.0)),
        overhead=_fastest(lambda: [small + small for _ in range(100)]) / 100 + 4e-6,  # autograd's part of it beside
        half=False,
        source=f"matrix products, convolutions, memory and overhead measured here just now; {REACHED} of these in a step",
    )


def _fastest(work: Callable[[], object], times: int = 6) -> float:
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


@dataclass(frozen=True, slots=True)
class _Cost:
    kind: str
    flops: float
    bytes: float
    count: int = 1


def _by_kind(found: Sequence[_Cost]) -> dict[str, _Cost]:
    kinds: dict[str, _Cost] = {}
    for cost in found:
        known = kinds.get(cost.kind, _Cost(cost.kind, 0.0, 0.0, 0))
        kinds[cost.kind] = _Cost(cost.kind, known.flops + cost.flops, known.bytes + cost.bytes, known.count + 1)
    return kinds


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what every operation computes, reads and writes; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[_Cost] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        settings = settings or {}
        result = function(*arguments, **settings)
        if function.is_view:
            return result
        operation = function.overloadpacket
        flops = flop_registry[operation](*arguments, **settings, out_val=result) if operation in flop_registry else 0
        kind = "other" if not flops else "convolution" if "convolution" in operation.__name__ else "product"
        moved = sum(leaf.nbytes for leaf in tree_leaves((arguments, settings, result)) if isinstance(leaf, Tensor))
        if moved or flops:
            self.found.append(_Cost(kind, float(flops), float(moved)))
        return result
