"""Pre-training: from a recipe and a store to a run that can be interrupted, resumed and loaded."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from warnings import warn

import torch
from torch import nn

from medlip.data.batch import TrainingBatches, evaluation_batches
from medlip.data.given import prepared_to_train_on
from medlip.data.overlap import Fingerprints, fingerprint
from medlip.data.store import Store
from medlip.data.studies import Studies, contradictions, studies_of
from medlip.data.supervision import Supervision, require_facts, require_masks, require_sentences, supervision
from medlip.data.views import READ_FIRST, ViewKind, read_as
from medlip.errors import MedLIPError, MedLIPWarning, name_some
from medlip.files import write_atomic, writing
from medlip.methods import Method, build_method, save_method
from medlip.methods.base import EmbedsReports, HasEncoder, ReadsViews, method_names, method_type, views_of
from medlip.nn.batch_norm import synchronize_statistics
from medlip.nn.device import resolve_device, why_not_compiled
from medlip.nn.parameters import learned_parameters
from medlip.training.average import WeightAverage
from medlip.training.callbacks import Checkpoint, Finite, Log, Validate, loggers, tensorboard
from medlip.training.checkpoint import require_recipe
from medlip.training.gradients import Balance, LogGradients, require_terms
from medlip.training.loop import Callback, Group, Training, processes
from medlip.training.schedule import Steps, WarmupCosine
from medlip.training.start import start_from
from medlip.training.watch import SAMPLES, Alarm, GradientAlarm, SampleMaps, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from medlip.training.recipe import FirstSection, Recipe, TrainingSection

MODEL, CHECKPOINT, METRICS, MANIFEST = "model.safetensors", "checkpoint.safetensors", "metrics.jsonl", "run.json"
SEEN, NOT_FINITE, TENSORBOARD = "seen.npz", "not_finite.jsonl", "tensorboard"
FIRST = "first"
LEARNED: Mapping[str, Callable[[Store], Supervision]] = {
    "facts": require_facts,
    "sentences": require_sentences,
    "": supervision,
}
"""How a store is looked at before the first step, by what a method learns from."""


class Fitted(TypedDict):
    """What a pre-training came to; seconds, images a second and what follows are of this call alone.

    Attributes:
        run: its folder.
        steps: that the run has taken in all.
        seconds: of this call.
        images_per_second: of its steps, from the first batch on, without validation; None if it had nothing left to do.
        data_wait_share: share of the steps' time spent waiting for batches, None likewise.
        loss: of the last step, None if it had nothing left to do.
        validation: mean of every loss term over the validation images after the last epoch, None likewise or without any.
    """

    run: str
    steps: int
    seconds: float
    images_per_second: float | None
    data_wait_share: float | None
    loss: float | None
    validation: dict[str, float] | None


def fit(
    recipe: Recipe,
    store: Store,
    out: Path,
    *,
    validation: Store | None = None,
    resume: bool = False,
    extend: bool = False,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Pre-train a method.

    Writes to `out`: run.json (what made it), seen.npz (fingerprints of its images and patients, by which an evaluation knows
    them again), metrics.jsonl (a line every few steps), not_finite.jsonl (batches whose loss is not finite, if there are
    any), checkpoint.safetensors (to resume from) and, when done, model.safetensors (to load). Ctrl-C and SIGTERM save a
    checkpoint first; in several processes they stop all, whichever they reached.

    A training that comes `first` is done in `out`/first before, or gone on with if it was interrupted.

    Args:
        recipe: the experiment.
        store: prepared studies; all of it is learned from, so select the training split before.
        out: folder of the run.
        validation: studies whose losses are measured after every epoch.
        resume: go on where an interrupted run stopped, bit by bit as if it had not (if it goes on elsewhere, the dropout of
            a GPU starts anew; with another number of processes, a note says what differs).
        extend: let it go on for more epochs than it was begun for, at the rates of a training of that length.
        device: to train on, see `medlip.nn.device.resolve_device`.
        callbacks: what else is to happen after each step, such as a logger of your own; in every process.

    Raises:
        MedLIPError: the store has nothing that the method learns from; `out` holds a run already and `resume` is off; the
            checkpoint belongs to another recipe or other data; the loss is not finite; there is no such device, or it
            doesn't compute in the recipe's precision.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written; after SIGTERM the process ends as it would have
            ended without.
    """
    settings, where = recipe.training, resolve_device(device)
    manifest = _manifest(recipe, store)
    _claim(out, resume)
    resumes = resume and (out / CHECKPOINT).exists()
    origin = None if resumes else _origin(recipe, store, out, device, manifest)
    with processes(where, settings.precision) as ranks:
        method, training, notes = begin(recipe, store, ranks)
        if resumes:
            manifest["start"] = json.loads((out / MANIFEST).read_text()).get("start")
        elif origin:
            start = start_from(method, origin)
            manifest["start"] = {"file": start.file, "sha256": start.sha256, "tensors": start.taken}
            notes.append(start.note)
        validated = _validation(recipe, method, validation)
        if validated is not None and validated[1] is not None:
            notes += [f"validation: {note}" for note in validated[1].notes]
        elif validated is None and validation is not None and settings.validation_images:
            kinds = ", ".join(views_of(method))
            notes.append(f"validation: no study has a view that is trained on ({kinds}), so no losses are measured")
        if ranks.is_main_process:
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
        log = Log(out / METRICS, [*loggers(), *(tensorboard(out / TENSORBOARD) if ranks.is_main_process else ())])
        alarm = Alarm(log)
        average = WeightAverage(method, settings.ema) if settings.ema else None
        encoder = _encoder(method)
        balance = Balance(settings.balance, settings.balance_every, encoder, log.write) if settings.balance else None
        parts = {"average": average, "balance": balance}
        checkpoint = Checkpoint(
            out / CHECKPOINT,
            manifest,
            settings.checkpoint_minutes,
            settings.keep,
            {name: part for name, part in parts.items() if part},
            extend=extend,
        )
        if not ranks.is_main_process:
            torch.manual_seed(settings.seed + ranks.process_index)  # the weights are equal, dropout is not to be
        if resumes:
            checkpoint.restore(training)
        if ranks.is_main_process:  # not before the checkpoint was found to be of this recipe and this data
            if training.step:
                log.rewind(training.step)
            else:
                for file in (METRICS, NOT_FINITE):
                    (out / file).unlink(missing_ok=True)
            _save_manifest(manifest, out)
            if not resumes:
                with writing(out / SEEN):
                    _seen(store, origin).save(out / SEEN)
        validate = _validate(recipe, method, validated, log, average)
        watching = [
            Finite(out / NOT_FINITE, settings.on_nan),
            balance,
            LogGradients(settings.log_gradients, encoder, log.write, GradientAlarm(alarm))
            if settings.log_gradients
            else None,
            average,
            log,
            validate,
            Watch(method, log, alarm),
            SampleMaps(out / SAMPLES, method, validation, settings.sample_maps)
            if settings.sample_maps and validation is not None
            else None,
            checkpoint,
        ]
        first, began = training.step, time.monotonic()
        training.run("pre-training", [*(callback for callback in watching if callback), *callbacks])
        seconds = time.monotonic() - began
        if ranks.is_main_process:
            with average.in_place() if average else nullcontext():
                save_method(method, out / MODEL, run=manifest)
    done = training.step > first
    return {
        "run": str(out),
        "steps": training.step,
        "seconds": seconds,
        "images_per_second": training.pace.images_per_second if done else None,
        "data_wait_share": training.pace.data_wait_share if done else None,
        "loss": log.loss if math.isfinite(log.loss) else None,
        "validation": validate.losses if validate else None,
    }


def _origin(recipe: Recipe, store: Store, out: Path, device: str, manifest: Mapping[str, Any]) -> Path | None:
    """Return the file of the weights to start from, once what comes first is done; None for the method's own."""
    run, first, before = out / FIRST, recipe.first, recipe.load_first()
    if first is None or before is None:
        return model_file(Path(recipe.training.start_from)) if recipe.training.start_from else None
    begun = json.loads((out / MANIFEST).read_text())["recipe"] if (out / MANIFEST).exists() else {}
    data = (begun.get("first") or {}).get("data", first.data)
    if _has_run(run) and data != first.data:
        raise MedLIPError(
            f"{run}: trained on first.data={data}, and now it is {first.data}. Use what it was trained on, or start a new "
            "run in another folder."
        )
    if (run / MODEL).exists():
        require_recipe(json.loads((run / MANIFEST).read_text())["recipe"], before.model_dump(mode="json"), run)
        return run / MODEL
    with processes(resolve_device(device), recipe.training.precision) as ranks:
        begin(recipe, store, ranks)  # what can't be trained is found out before, not behind, the other training
        together, speaks = ranks.num_processes, ranks.is_main_process
    if speaks:
        _save_manifest(manifest, out)
        print(f"note: {first.recipe} on {first.data} comes first, in {run}", file=sys.stderr)
    _train_first(first, before, run, device, together)
    return run / MODEL


def _train_first(first: FirstSection, recipe: Recipe, run: Path, device: str, together: int) -> None:
    """Train what comes first by its recipe in so many processes, or go on with it."""
    option, folder = "--set first.data=", run / "store"
    opened, skipped, noted, left_out = prepared_to_train_on(first.data, folder, together, option, recipe.make_vocabulary())
    if left_out:
        print(f"note: {left_out}", file=sys.stderr)
    told = f"{len(skipped):,} images or studies of {first.data} were skipped: {name_some(skipped)}"
    for note in [*noted, *([told] if skipped else [])]:
        warn(note, MedLIPWarning, stacklevel=2)
    validation = opened.select("val") if "val" in opened.splits else None
    resume = (run / CHECKPOINT).exists()
    fit(recipe, opened.select("train"), run, validation=validation, resume=resume, device=device)


def _seen(store: Store, origin: Path | None) -> Fingerprints:
    """Return fingerprints of what is learned from, and of what the weights that it starts from have learned from."""
    own = fingerprint(store).anonymous()
    before = origin.parent / SEEN if origin else None
    return own.joined(Fingerprints.load(before)) if before and before.exists() else own


def begin(recipe: Recipe, store: Store, ranks: Accelerator) -> tuple[Method, Training, list[str]]:
    """Return a method that is still to be trained, its training, and what to know before; nothing is written.

    Args:
        recipe: the experiment.
        store: what is learned from.
        ranks: the processes that train together.

    Raises:
        MedLIPError: as for `fit`.
    """
    settings = recipe.training
    torch.manual_seed(settings.seed)
    studies = read_together(recipe, store)
    method = build_method(
        {"seed": settings.seed, **recipe.method, **_kinds(recipe, studies)},
        recipe.make_vocabulary(),
        recipe.make_preprocessing(),
        lambda: (" ".join(sentences) for sentences in store.column("sentences")),
    )
    if (images := settings.batch_size * ranks.num_processes) < method.least_images:
        raise MedLIPError(
            f"a step of {images} image teaches nothing: {method.name} tells an image's report from those of others. Set "
            f"training.batch_size={method.least_images} or more."
        )
    if settings.balance and method.loss_weights:  # a method that weighs all terms alike names none before its first step
        require_terms(settings.balance, method.loss_weights)
    notes = [note for note in (str(LEARNED[method.learns_from](store)), _cut(method, store, studies)) if note]
    if method.needs_masks:
        notes.append(require_masks(store))
    if studies is not None:
        notes += [*studies.notes, *contradictions(store, studies, f"facts.uncertain={recipe.facts.uncertain}")]
        if recipe.data.drop_view and studies.most == 1:
            notes.append(f"data.drop_view={recipe.data.drop_view}: no study has more than one view, so none is left out")
    batches = training_batches(recipe, method, store, ranks, studies)
    steps = settings.epochs * len(batches)
    notes += method.about_training(steps * images)
    divided = settings.accumulate > 1 and method.divide(settings.accumulate)
    if settings.checkpointing:
        method.recompute()
    if settings.sync_batch_norm:
        synchronize_statistics(method)
    if settings.compile:
        notes += _compile(method, ranks.device)
    training = Training(
        method.to(ranks.device),
        batches,
        ranks,
        _groups(method, settings),
        schedule=WarmupCosine(steps, settings.warmup, settings.final_lr),
        budget=Steps(steps),
        betas=settings.betas,
        clip=settings.clip,
        parts=1 if divided else settings.accumulate,
    )
    return method, training, notes


def _compile(method: Method, device: torch.device) -> list[str]:
    """Compile the image encoder, where there is one and it can be; return what to know otherwise."""
    if not isinstance(method, HasEncoder):
        return [f"training.compile: method {method.name!r} has no image encoder to compile"]
    if why := why_not_compiled(device):
        return [f"training.compile: nothing is compiled, for this machine can't ({why}). Trained as it is"]
    method.encoder.compile()
    return []


def training_batches(
    recipe: Recipe, method: Method, store: Store, ranks: Accelerator, studies: Studies | None
) -> TrainingBatches:
    """Return the batches of a store that a method is trained on in one of several processes, see `TrainingBatches`."""
    return TrainingBatches(
        store,
        method.preprocessing,
        recipe.make_augment(),
        recipe.training.batch_size,
        recipe.training.seed,
        method.vocabulary,
        uncertain=recipe.facts.uncertain,
        implied=recipe.facts.implied,
        regions=method.needs_masks,
        rank=ranks.process_index,
        ranks=ranks.num_processes,
        rest=recipe.training.rest,
        on_device=recipe.training.augment_on == "device",
        pin=ranks.device.type == "cuda",
        studies=studies,
        drop_view=recipe.data.drop_view,
    )


def read_together(recipe: Recipe, store: Store) -> Studies | None:
    """Return what is read together; None where each image is read by itself."""
    return studies_of(store, most=recipe.data.most_views) if recipe.data.views == "set" else None


def _kinds(recipe: Recipe, studies: Studies | None) -> dict[str, tuple[ViewKind, ...]]:
    """Return what a method must know of the views that it reads together; nothing where it reads image by image.

    Raises:
        MedLIPError: it reads one image at a time.
    """
    if "views" in recipe.method:
        raise MedLIPError("method.views follows from the data: leave it out, and set data.views=set to read views together.")
    if studies is None:
        return {}
    name = str(recipe.method["name"])
    if not issubclass(method_type(name), ReadsViews):
        raise MedLIPError(
            f"data.views=set: method {name!r} reads one image at a time. Set data.views=each, or take a method that reads "
            f"the views of a study together: {', '.join(method_names(ReadsViews))}."
        )
    there = {kind for kinds in studies.kinds for kind in kinds}
    return {"views": tuple(kind for kind in READ_FIRST if kind in there)}


def model_file(run: Path) -> Path:
    """Return the file of a run's trained model, given the run's folder or the file itself.

    Raises:
        MedLIPError: the folder holds no trained model.
    """
    if not run.is_dir():
        return run
    if not (run / MODEL).exists():
        advice = "go on with --resume" if (run / CHECKPOINT).exists() else "give the folder that medlip pretrain wrote"
        raise MedLIPError(f"{run}: no {MODEL} in this folder: {advice}.")
    return run / MODEL


def _cut(method: Method, store: Store, studies: Studies | None) -> str:
    """Say what the method won't read of the reports it is to learn from, "" where it reads them whole."""
    if not isinstance(method, EmbedsReports):
        return ""
    sentences = store.column("sentences")
    if studies is None:
        names = zip(store.column("source"), store.column("study"), map(tuple, sentences), strict=True)
        reports = [report for *_, report in dict.fromkeys(names)]
    else:
        each = (dict.fromkeys(tuple(sentences[row]) for row in rows) for rows in studies.rows)
        reports = [tuple(chain.from_iterable(own)) for own in each]
    cut = method.cut(reports, training=True)
    return cut.describe() if cut else ""


def _groups(method: Method, settings: TrainingSection) -> list[Group]:
    """Decay matrices and kernels, and leave biases and other 1-D parameters alone."""
    learned = learned_parameters(method)
    return [
        Group([parameter for parameter in learned if parameter.ndim > 1], settings.lr, settings.weight_decay),
        Group([parameter for parameter in learned if parameter.ndim <= 1], settings.lr, 0.0),
    ]


def _encoder(method: Method) -> list[nn.Parameter]:
    """Return what gradients of loss terms are compared at: the image encoder, or all of a method that has none."""
    return learned_parameters(method.encoder if isinstance(method, HasEncoder) else method)


def _validation(recipe: Recipe, method: Method, store: Store | None) -> tuple[Store, Studies | None] | None:
    """Return the images whose losses are measured after every epoch, and what of them is read together."""
    count = recipe.training.validation_images
    if store is None or not count:
        return None
    if isinstance(method, ReadsViews) and method.views:
        if not any(read_as(view) in method.views for view in store.column("view")):
            return None
        return store, studies_of(store, kinds=method.views, most=recipe.data.most_views).first(count)
    return store.take(range(min(len(store), count))), None


def _validate(
    recipe: Recipe, method: Method, data: tuple[Store, Studies | None] | None, log: Log, average: WeightAverage | None
) -> Validate | None:
    if data is None or not len(data[0]):
        return None
    facts, (chosen, studies) = recipe.facts, data
    return Validate(
        lambda: evaluation_batches(
            chosen,
            method.preprocessing,
            recipe.training.batch_size,
            uncertain=facts.uncertain,
            implied=facts.implied,
            studies=studies,
        ),
        log,
        average,
    )


def _manifest(recipe: Recipe, store: Store) -> dict[str, Any]:
    """What makes a run: the same recipe on the same data may be resumed, anything else may not."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"hash": store.hash, "images": len(store), "sources": store.manifest.get("sources")},
        "versions": {name: version(name) for name in ("medlip", "torch", "timm")},
        "machine": {"python": platform.python_version(), "system": platform.system(), "threads": torch.get_num_threads()},
    }


def _save_manifest(manifest: Mapping[str, Any], out: Path) -> None:
    with writing(out / MANIFEST):
        write_atomic(out / MANIFEST, json.dumps(manifest, indent=1).encode())


def _has_run(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists() or (folder / MODEL).exists()


def _claim(out: Path, resume: bool) -> None:
    """Make the run's folder, unless it holds another run."""
    if not resume and (_has_run(out) or _has_run(out / FIRST)):
        raise MedLIPError(f"{out} holds a run already: go on with --resume, or give another folder.")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
