"""What a pre-trained image encoder is worth once there are labels: probes, few shots, fine-tuning, segmentation.

Any encoder of any method is taken out of it and held to one protocol (`TransferProtocol`): a share of the training patients
keeps its labels, each share within the next larger one, and classification or segmentation is learned from these alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import nn

from medlip.about import DISCLAIMER
from medlip.data.batch import Batch, evaluation_batches
from medlip.data.overlap import pseudonym, require_disjoint
from medlip.data.store import Store
from medlip.data.views import read_as
from medlip.errors import MedLIPError
from medlip.evaluation.driver import inference
from medlip.evaluation.outcomes import OUTCOMES, Outcomes, save_outcomes
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.provenance import hash_names, provenance, versions
from medlip.evaluation.record import EvaluationRecord
from medlip.evaluation.results import RESULT, Provenance, Result, TransferLevel
from medlip.evaluation.selection import label_matrix
from medlip.evaluation.task_result import TaskResult
from medlip.evaluation.tasks.segmentation import (
    SegmentationCase,
    choose_threshold,
    segmentation_case,
    segmentation_outcomes,
    segmentation_result,
)
from medlip.evaluation.tasks.zero_shot import Tuning, zero_shot_result
from medlip.experiments.finetune import Classifier, Network, Segmenter, finetune, pooled
from medlip.experiments.labels import (
    Level,
    labelled_classes,
    lacking_classes,
    levels,
    nested_share,
    nested_shots,
    outline,
    outline_matrix,
    outlined_classes,
)
from medlip.experiments.probes import UNCHOSEN, best_probe
from medlip.experiments.transfer_protocols import TransferProtocol
from medlip.files import write_atomic
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import HasEncoder, Method, views_of
from medlip.metrics import INTERVALS, Array, auroc, mean_defined
from medlip.nn.device import Precision, autocast, device_of, resolve_precision
from medlip.nn.vision_encoder import VisionEncoder
from medlip.parallel import track

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse regularization of logistic regression to choose from."""

THRESHOLDS = np.linspace(0.01, 0.99, 99)
CHECKED = 200  # validation images that a network in training is held against
SPLITS = ("train", "val", "test")
FROM_VALIDATION = "the level's share of the split val"
EVEN = 0.5  # the threshold of a segmentation where none can be chosen
RULES = {
    "intervals": INTERVALS,
    "labelled patients": (
        "a share of train, each within the next larger one, such that every class has a positive and a negative where the "
        "share has room for them"
    ),
    "chosen": (
        "strength, thresholds and the best moment of a training on the same share of val's patients; a strength is "
        f"{UNCHOSEN:g} with few shots, and (a segmentation's threshold: {EVEN:g}) where there is nothing to choose it on"
    ),
    "left out": "of a level's means, the classes without a positive or a negative (a mask or box) among its labels",
}
"""What every transfer goes by, beside its protocol."""

UNLEARNED = "no positive, or no negative, among the labels to learn from"


class LevelSummary(BaseModel):
    """What so many labels give.

    Attributes:
        level: such as "10 %" or "4 shots".
        images: that were learned from, in the first draw.
        patients: whose they are.
        measure: name of the value, `macro_auroc` or `dice_…`.
        value: of one draw, or the mean over draws in which it is defined; None without any.
        interval: over test patients; None with several draws.
        draws: in which the value is defined.
        lowest: value of several draws.
        highest: value of several draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: str
    images: int
    patients: int
    measure: str
    value: float | None
    interval: tuple[float, float] | None = None
    draws: int = 1
    lowest: float | None = None
    highest: float | None = None


class TransferResult(Provenance):
    """What an encoder is worth at every level of a protocol.

    Attributes:
        protocol: what the numbers are numbers of.
        levels: a summary for each.
        results: of every level and draw, with `zero_shot` (classification) or `segmentation`.
    """

    protocol: EvaluationRecord
    levels: list[LevelSummary]
    results: list[Result]


def transfer(
    method: Method,
    store: Store,
    protocol: TransferProtocol,
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    precision: Precision | None = None,
    batch_size: int = 64,
    resamples: int = 1000,
    out: Path | None = None,
) -> TransferResult:
    """Learn from labels of `train` on a method's image encoder, where the method is; the method itself stays as it is.

    Strengths, thresholds and the best moment of a training are chosen on the level's share of `val`, so that a level needs
    no more labels than it says; `test` is reported. A class of which a level's labels have no positive, or no negative, is
    left out of its means.

    Args:
        method: whose encoder is taken.
        store: the data, with the splits train, val and test.
        protocol: what is trained on how many labels.
        classes: which labels; None for all with a positive (a mask or box, for segmentation) in `train`.
        seed: of the labelled patients, of new weights, order and augmentation, and of the bootstrap.
        precision: of training, in place of the protocol's; of the features where only a probe is trained. None for the
            protocol's own, and fp32 for features.
        batch_size: images at a time where nothing is trained.
        resamples: of the bootstrap.
        out: a folder; it gets a folder for each level with what `medlip compare` reads, and levels that are there are not
            learned again.

    Raises:
        MedLIPError: the method has no image encoder, a split or class is missing, a patient is in two splits, or `out` holds
            levels of another method or protocol.
    """
    if not isinstance(method, HasEncoder):
        raise MedLIPError(f"method {method.name!r} has no image encoder that can be taken out of it.")
    missing = [split for split in SPLITS if split not in store.splits]
    if missing:
        raise MedLIPError(
            f"{store.root}: transfer learns from train, chooses on val and reports test; there is no {', '.join(missing)}. "
            "Prepare the data with all three: `medlip prepare` draws them with --draw-splits."
        )
    if precision is not None and protocol.training is not None:
        training = protocol.training.model_copy(update={"precision": precision})
        protocol, precision = protocol.model_copy(update={"training": training}), None
    of_features = resolve_precision(precision or "fp32", device_of(method.encoder))
    parts = {split: store.select(split) for split in SPLITS}
    require_disjoint(
        {split: part.column("patient") for split, part in parts.items()},
        "what is learned would be chosen or reported on the people it was learned from",
        "Give each patient one split, and prepare the data again.",
    )
    unseen = _unseen_views(method, store)
    segments = protocol.task == "segmentation"
    classes = (outlined_classes if segments else labelled_classes)(parts["train"], classes)
    record = _record(protocol, store, parts, classes, resamples, seed, of_features)
    made_with = {"protocol": record.hash, "encoder": _weights_hash(method.encoder)}
    setting = _Setting(
        method.encoder, method.preprocessing, parts, protocol, classes, seed, of_features, batch_size, resamples
    )
    task = _Segmentation(setting) if segments else _Classification(setting)
    results = []
    for level in levels(protocol):
        folder = out / level.folder / (f"draw-{level.draw}" if protocol.draws > 1 else "") if out else None
        result = _known(folder, made_with)
        if result is None:
            learned = task.learn(level)
            result = Result.model_validate(
                {
                    "split": "test",
                    "n_images": len(parts["test"]),
                    "n_patients": len(set(setting.patients["test"])),
                    "protocol": record.model_copy(update={"hash": f"{record.hash}-{level.folder}"}),
                    "level": TransferLevel(
                        name=level.name, draw=level.draw, made_with=made_with, **setting.counted(learned.rows)
                    ),
                    "zero_shot": None,
                    "segmentation": None,
                    task.name: learned.result,
                    "notes": learned.notes,
                    "run": method.made_by,
                    "versions": versions(),
                    "disclaimer": DISCLAIMER,
                }
            )
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                if learned.predictions is not None:
                    learned.predictions.save(folder / PREDICTIONS)
                save_outcomes(learned.outcomes, folder / OUTCOMES)
                result.save(folder / RESULT)
        results.append(result)
    notes = dict.fromkeys([*unseen, *(note for result in results for note in result.notes)])
    answer = TransferResult(
        protocol=record,
        levels=_summaries(results, task.name, task.measure),
        results=results,
        **dict(provenance(method, parts["test"], notes)),
    )
    if out is not None:
        write_atomic(out / RESULT, answer.model_dump_json(indent=1).encode())
    return answer


def _unseen_views(method: Method, store: Store) -> list[str]:
    """Say how many images show a view that the method was not trained on."""
    trained = views_of(method)
    count = sum(read_as(view) not in trained for view in store.column("view")) if trained else 0
    told = f"{count:,} of {len(store):,} images show views that the run was not trained on (only {', '.join(trained)})"
    return [told] if count else []


@dataclass(frozen=True, slots=True)
class _Learned:
    """What came of a level: the result, the rows it was learned from, and what is kept beside it."""

    result: TaskResult
    rows: NDArray[np.int64]
    notes: Sequence[str] = ()
    predictions: Predictions | None = None
    outcomes: Sequence[Outcomes] = ()


@dataclass
class _Setting:
    """What all levels share."""

    encoder: VisionEncoder
    preprocessing: Preprocessing
    parts: Mapping[str, Store]
    protocol: TransferProtocol
    classes: Sequence[str]
    seed: int
    precision: Precision
    batch_size: int
    resamples: int

    def __post_init__(self) -> None:
        self.device, self.frozen = device_of(self.encoder), self.protocol.encoder == "frozen"
        self.patients = {split: part.column("patient") for split, part in self.parts.items()}

    def share(self, split: str, level: Level, labels: Array) -> NDArray[np.int64]:
        """Return the rows of a split that have labels at a level."""
        return nested_share(self.patients[split], level.share, self.seed + level.draw, labels)

    def counted(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Return how many training images these rows are, and of how many patients."""
        return {"images": len(rows), "patients": len({self.patients["train"][row] for row in rows})}

    def batches(self, module: nn.Module, store: Store) -> Iterator[Batch]:
        """Yield the batches of a store on the device, with the module in use and without gradients."""
        with inference(module), autocast(self.device, self.precision):
            for batch in evaluation_batches(store, self.preprocessing, self.batch_size):
                yield batch.to(self.device)

    def train(
        self, network: Network, level: Level, rows: NDArray[np.int64], seed: int, measure: Callable[[], float]
    ) -> None:
        """Train a network on some rows of `train`; it ends as it was when `measure` was highest."""
        assert self.protocol.training is not None
        finetune(
            network.to(self.device),
            self.parts["train"].take(rows),
            self.preprocessing,
            self.protocol.training,
            seed=seed,
            measure=measure,
            description=f"learning from {level.name}",
        )


class _Classification:
    """Whether findings are there, from labels of images."""

    name, measure = "zero_shot", "macro_auroc"

    def __init__(self, setting: _Setting) -> None:
        self.setting = setting
        self.labels = {split: label_matrix(part.column("labels"), setting.classes) for split, part in setting.parts.items()}

    def learn(self, level: Level) -> _Learned:
        """Learn from a level's labels, on the frozen features or by training a network."""
        setting, seed = self.setting, self.setting.seed + level.draw
        rows, chosen_on = (setting.share(split, level, self.labels[split]) for split in ("train", "val"))
        learn = self._probe if setting.protocol.training is None else self._train
        scores, used, lacking = learn(level, rows, chosen_on, seed)
        test, patients = setting.parts["test"], setting.patients["test"]
        tuning = Tuning(scores["val"], self.labels["val"][chosen_on], np.ones(len(test), bool), FROM_VALIDATION)
        result = zero_shot_result(
            list(setting.classes),
            scores["test"],
            self.labels["test"],
            patients,
            tuning,
            left_out=dict.fromkeys(lacking, UNLEARNED),
            resamples=setting.resamples,
            seed=setting.seed,
        )
        pseudonyms = [pseudonym(patient) for patient in patients]
        predictions = Predictions(test.column("id"), pseudonyms, setting.classes, scores["test"], self.labels["test"])
        return _Learned(result, used, _left_out(level, lacking, UNLEARNED), predictions)

    def _probe(
        self, level: Level, rows: NDArray[np.int64], chosen_on: NDArray[np.int64], seed: int
    ) -> tuple[dict[str, Array], NDArray[np.int64], list[str]]:
        """Fit a logistic regression for each class, as strong as some rows of `val` say.

        Returns:
            Probabilities (of those rows, and of `test`), the rows of `train` that were used, and the classes without labels
            to learn from.
        """
        tuning = self.labels["val"][chosen_on]
        scores = {"val": np.full(tuning.shape, 0.5), "test": np.full(self.labels["test"].shape, 0.5)}
        lacking, used = [], [rows[:0]]
        for c, name in enumerate(self.setting.classes):
            labels = self.labels["train"][:, c]
            chosen = nested_shots(labels, self.setting.patients["train"], level.shots, seed) if level.shots else rows
            chosen = chosen[~np.isnan(labels[chosen])]
            used.append(chosen)
            if len(set(labels[chosen].tolist())) < 2:
                lacking.append(name)
                continue
            scores["val"][:, c], scores["test"][:, c] = best_probe(
                self._features["train"][chosen],
                labels[chosen],
                self._features["val"][chosen_on],
                tuning[:, c],
                self._features["test"],
                (UNCHOSEN,) if level.shots else STRENGTHS,
            )
        return scores, np.unique(np.concatenate(used)), lacking

    @cached_property
    def _features(self) -> dict[str, Array]:
        """The encoder's features of whole images by split, averaged over locations: (N, width)."""
        setting, features = self.setting, {}
        for split, store in setting.parts.items():
            batches = setting.batches(setting.encoder, store)
            total = -(-len(store) // setting.batch_size)
            features[split] = np.concatenate(
                [
                    pooled(setting.encoder(batch.images, pyramid=True).pyramid).double().cpu().numpy()
                    for batch in track(batches, f"reading {split}", total)
                ]
            )
        return features

    def _train(
        self, level: Level, rows: NDArray[np.int64], chosen_on: NDArray[np.int64], seed: int
    ) -> tuple[dict[str, Array], NDArray[np.int64], list[str]]:
        """Train a network; return what `_probe` does."""
        setting = self.setting
        normalised = setting.protocol.head == "normalised"
        network = Classifier(setting.encoder, setting.classes, frozen=setting.frozen, normalised=normalised)

        tuning = setting.parts["val"].take(chosen_on)
        few = tuning.take(range(min(CHECKED, len(tuning))))

        def measure() -> float:
            labels = self.labels["val"][chosen_on[: len(few)]]
            return float(mean_defined(auroc(self._scores(network, few), labels)[None])[0])

        setting.train(network, level, rows, seed, measure)
        scores = {"val": self._scores(network, tuning), "test": self._scores(network, setting.parts["test"])}
        return scores, rows, lacking_classes(self.labels["train"][rows], setting.classes)

    def _scores(self, network: Classifier, store: Store) -> Array:
        answers = [network(batch.images).float().sigmoid().cpu() for batch in self.setting.batches(network, store)]
        return torch.cat(answers).double().numpy()


class _Segmentation:
    """Where findings are, from masks and boxes."""

    name = "segmentation"

    def __init__(self, setting: _Setting) -> None:
        self.setting = setting
        self.measure = f"dice_{setting.protocol.dice}"
        self.known = {split: outline_matrix(setting.parts[split], setting.classes) for split in ("train", "val")}

    def learn(self, level: Level) -> _Learned:
        """Train a U-Net on a level's masks and boxes."""
        setting, seed = self.setting, self.setting.seed + level.draw
        rows, chosen_on = (setting.share(split, level, known) for split, known in self.known.items())
        outlined = (self.known["train"][rows] == 1).any(axis=0)
        learned = [name for name, some in zip(setting.classes, outlined, strict=True) if some]
        network = Segmenter(setting.encoder, setting.classes, frozen=setting.frozen)
        tuning = setting.parts["val"].take(chosen_on)
        few = tuning.take(range(min(CHECKED, len(tuning))))

        def measure() -> float:
            cases = self._counted(network, few, learned)
            return float(np.max(np.mean([case.dice for case in cases], axis=0))) if cases else math.nan

        setting.train(network, level, rows, seed, measure)
        threshold, rule = choose_threshold(self._counted(network, tuning, learned)), FROM_VALIDATION
        if math.isnan(threshold):
            threshold, rule = EVEN, f"{EVEN:g}: no case in {FROM_VALIDATION} to choose it on"
        cases = list(self._cases(network, setting.parts["test"], learned))
        result = segmentation_result(cases, threshold, rule=rule, resamples=setting.resamples, seed=setting.seed)
        lacking = [name for name in setting.classes if name not in learned]
        notes = _left_out(level, lacking, "no mask or box to learn from")
        return _Learned(result, rows, notes, outcomes=segmentation_outcomes(cases, threshold))

    def _counted(self, network: Segmenter, store: Store, learned: Collection[str]) -> list[SegmentationCase]:
        """Return the cases that count in the protocol's Dice."""
        cases = self._cases(network, store, learned)
        return [case for case in cases if case.target or self.setting.protocol.dice == "all"]

    def _cases(self, network: Segmenter, store: Store, learned: Collection[str]) -> Iterator[SegmentationCase]:
        """Judge every map of what was learned whose image is known to show it, with a mask or box, or known not to."""
        row = 0
        for batch in self.setting.batches(network, store):
            for maps in network(batch.images).float().sigmoid().cpu().numpy():
                record = store[row]
                row += 1
                for heat, name in zip(maps, self.setting.classes, strict=True):
                    pixels, known = outline(record.masks, record.boxes, record.labels, name, record.image.shape)
                    if known and name in learned:
                        yield segmentation_case(heat, pixels if pixels.any() else None, name, record.patient, THRESHOLDS)


def _left_out(level: Level, lacking: Sequence[str], reason: str) -> list[str]:
    """Say which classes a level's means leave out."""
    return [f"{level.name}: {reason}, so the means leave out {', '.join(lacking)}"] if lacking else []


def _record(
    protocol: TransferProtocol,
    store: Store,
    parts: Mapping[str, Store],
    classes: Sequence[str],
    resamples: int,
    seed: int,
    precision: Precision,
) -> EvaluationRecord:
    rules = {"transfer": json.dumps(protocol.model_dump(mode="json", exclude={"name", "title"}), sort_keys=True)}
    hashes = {split: hash_names(part.column("id")) for split, part in parts.items()}
    return EvaluationRecord(
        name=protocol.name,
        data=store.hash,
        split="test",
        images=hashes["test"],
        tuning=hashes["val"],
        classes={name: name for name in classes},
        findings={},
        rules=RULES | rules | ({"precision of the features": precision} if precision != "fp32" else {}),
        resamples=resamples,
        seed=seed,
    )


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _known(folder: Path | None, made_with: Mapping[str, str]) -> Result | None:
    if folder is None or not (folder / RESULT).exists():
        return None
    result = Result.load(folder / RESULT)
    if result.level is None or result.level.made_with != made_with:
        raise MedLIPError(f"{folder}: holds the result of another encoder, protocol or data. Give another folder.")
    return result


def _summaries(results: Sequence[Result], task: str, measure: str) -> list[LevelSummary]:
    """Sum up the draws of each level."""
    by_level: dict[str, list[Result]] = {}
    for result in results:
        assert result.level is not None
        by_level.setdefault(result.level.name, []).append(result)
    summaries = []
    for name, draws in by_level.items():
        level, estimates = draws[0].level, [draw[task][measure] for draw in draws]
        assert level is not None and level.images is not None and level.patients is not None
        values = [estimate.value for estimate in estimates if estimate.value is not None]
        several = len(draws) > 1
        summaries.append(
            LevelSummary(
                level=name,
                images=level.images,
                patients=level.patients,
                measure=measure,
                value=float(np.mean(values)) if values else None,
                interval=None if several else estimates[0].interval,
                draws=len(values) if several else 1,
                lowest=min(values) if several and values else None,
                highest=max(values) if several and values else None,
            )
        )
    return summaries
