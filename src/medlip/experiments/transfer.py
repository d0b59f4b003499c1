"""What a pre-trained image encoder is worth once there are labels: probes, few shots, fine-tuning, segmentation.

Any encoder of any method is taken out of it and held to one protocol (`TransferProtocol`): a share of the training patients
keeps its labels, each share within the next larger one, and classification or segmentation is learned from these alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medlip.data.batch import Batch, TrainingBatches, evaluation_batches
from medlip.data.overlap import pseudonym
from medlip.data.store import Store
from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.evaluation.basis import (
    DISCLAIMER,
    RESULT,
    hash_names,
    inference,
    label_matrix,
    provenance,
    versions,
)
from medlip.evaluation.grounding import paint_boxes
from medlip.evaluation.outcomes import OUTCOMES, Outcomes, save_outcomes
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.protocol import Protocol
from medlip.evaluation.segmentation import (
    Judged,
    choose_threshold,
    judge_mask,
    segmentation_outcomes,
    segmentation_result,
)
from medlip.evaluation.zero_shot import Tuning, zero_shot_result
from medlip.experiments.transfer_protocols import TransferProtocol, TransferTraining
from medlip.files import write_atomic
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import Encoder, Method
from medlip.metrics.classification import Array, auroc, mean_defined
from medlip.nn.unet import UNetDecoder
from medlip.parallel import track
from medlip.reports import Presence

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse regularisation of logistic regression to choose from."""

THRESHOLDS = np.linspace(0.01, 0.99, 99)
CHECKED = 200  # validation images that a network in training is held against
SPLITS = ("train", "val", "test")
FROM_VALIDATION = "the split val"


@dataclass(frozen=True, slots=True)
class Level:
    """So many labels.

    Attributes:
        name: such as "10 %" or "4 shots".
        share: of the patients; 1 with shots.
        shots: positive and negative patients a class; 0 for a share.
        draw: which drawing of labelled patients.
    """

    name: str
    share: float
    shots: int
    draw: int


def levels(protocol: TransferProtocol) -> list[Level]:
    """Return the levels of a protocol, all draws of each."""
    steps = [(f"{shots} shot{'s' if shots > 1 else ''}", 1.0, shots) for shots in protocol.shots] or [
        (f"{100 * share:g} %", share, 0) for share in protocol.shares
    ]
    return [Level(name, share, shots, draw) for name, share, shots in steps for draw in range(protocol.draws)]


def nested_share(patients: Sequence[str], share: float, seed: int) -> NDArray[np.int64]:
    """Return the rows of a share of the patients, at least one, in order; a smaller share is within each larger one."""
    order = np.random.default_rng(seed).permutation(sorted(set(patients)))
    return np.flatnonzero(np.isin(patients, order[: max(1, round(share * len(order)))]))


def nested_shots(labels: Array, patients: Sequence[str], shots: int, seed: int) -> NDArray[np.int64]:
    """Return rows of an image each of up to k positive and k negative patients, labels (N,); a smaller k is within each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rows: list[int] = []
    for value in (1.0, 0.0):
        known: dict[str, int] = {}
        for row in order[labels[order] == value].tolist():
            known.setdefault(patients[row], row)
        rows += list(known.values())[:shots]
    return np.array(rows, np.int64)


def transfer(
    method: Method,
    store: Store,
    protocol: TransferProtocol,
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    resamples: int = 1000,
    out: Path | None = None,
) -> dict[str, Any]:
    """Learn from labels of `train` on a method's image encoder; the method itself stays as it is.

    Strengths, thresholds and the best moment of a training are chosen on `val`; `test` is reported.

    Args:
        method: whose encoder is taken.
        store: the data, with the splits train, val and test.
        protocol: what is trained on how many labels.
        classes: which labels; None for all with a positive (a place, for segmentation) in `train`.
        seed: of the labelled patients, of new weights, order and augmentation, and of the bootstrap.
        batch_size: images at a time where nothing is trained.
        resamples: of the bootstrap.
        out: a folder; it gets a folder for each level with what `medlip compare` reads, and levels that are there are not
            learned again.

    Returns:
        Plain data: `levels`, for each its `images`, `patients` and the `value` (macro AUROC, or Dice) with
        `interval` over test patients, or with several draws the mean, lowest and highest; `results`, for each draw what
        `evaluate` gives, with `zero_shot` (classification) or `segmentation`; the rest as there.

    Raises:
        MedLIPError: a split or class is missing, or `out` holds another method's or protocol's levels.
    """
    missing = [split for split in SPLITS if split not in store.splits]
    if missing:
        raise MedLIPError(
            f"{store.root}: transfer learns from train, chooses on val and reports test; there is no {', '.join(missing)}. "
            "Prepare the data with all three."
        )
    parts = {split: store.select(split) for split in SPLITS}
    classes = _classes(parts["train"], protocol, classes)
    made_under = _protocol(protocol, store, parts, classes, resamples, seed)
    made_with = {"protocol": made_under.hash, "encoder": _weights_hash(method.encoder)}
    learner = _Learner(method.encoder, method.preprocessing, parts, protocol, classes, seed, batch_size, resamples)
    entries = []
    for level in levels(protocol):
        folder = out / level.name.replace(" ", "") / (f"draw-{level.draw}" if protocol.draws > 1 else "") if out else None
        entry = _known(folder, made_with)
        if entry is None:
            result, predictions, outcomes = learner.learn(level)
            entry = {
                "level": level.name,
                "draw": level.draw,
                "made_with": made_with,
                **result,
                "grounding": None,
                "run": method.made_by,
                "versions": versions(),
                "disclaimer": DISCLAIMER,
                "protocol": made_under.to_dict() | {"hash": f"{made_under.hash}-{level.name.replace(' ', '')}"},
            }
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                if predictions is not None:
                    predictions.save(folder / PREDICTIONS)
                save_outcomes(outcomes, folder / OUTCOMES)
                write_atomic(folder / RESULT, json.dumps(entry, indent=1, allow_nan=False).encode())
        entries.append(entry)
    answer = {
        "protocol": made_under.to_dict(),
        "levels": [
            _summary([entry for entry in entries if entry["level"] == name], protocol)
            for name in dict.fromkeys(entry["level"] for entry in entries)
        ],
        "results": entries,
        **provenance(method, parts["test"], dict.fromkeys(note for entry in entries for note in entry["notes"])),
    }
    if out is not None:
        write_atomic(out / RESULT, json.dumps(answer, indent=1, allow_nan=False).encode())
    return answer


@dataclass
class _Learner:
    encoder: Encoder
    preprocessing: Preprocessing
    parts: Mapping[str, Store]
    protocol: TransferProtocol
    classes: Sequence[str]
    seed: int
    batch_size: int
    resamples: int

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = deepcopy(self.encoder).to(self.device)
        self.patients = {split: part.column("patient") for split, part in self.parts.items()}
        self.labels = {split: label_matrix(part.column("labels"), self.classes) for split, part in self.parts.items()}
        self._features: dict[str, Array] = {}

    def learn(self, level: Level) -> tuple[dict[str, Any], Predictions | None, list[Outcomes]]:
        """Return the result of a level, predictions where images are classified, and outcomes where they are segmented."""
        seed = self.seed + level.draw
        rows = nested_share(self.patients["train"], level.share, seed)
        if self.protocol.task == "segmentation":
            result, outcomes = self._segment(level, rows, seed)
            return result, None, outcomes
        if self.protocol.training is None:
            scores, notes, used = self._probe(level, rows, seed)
        else:
            network = _Classifier(self.encoder, self.classes, self.protocol)
            self._train(network, level, rows, seed, lambda: self._validity(network))
            scores = {split: self._scores(network, self.parts[split]) for split in ("val", "test")}
            lacking = [name for c, name in enumerate(self.classes) if not (self.labels["train"][rows, c] == 1).any()]
            notes, used = _lack(level, lacking), rows
        test = self.parts["test"]
        tuning = Tuning(scores["val"], self.labels["val"], np.ones(len(test), bool), FROM_VALIDATION)
        given = list(self.classes), scores["test"], self.labels["test"], self.patients["test"], tuning
        result = zero_shot_result(*given, resamples=self.resamples, seed=self.seed)
        pseudonyms = [pseudonym(patient) for patient in self.patients["test"]]
        predictions = Predictions(test.column("id"), pseudonyms, self.classes, scores["test"], self.labels["test"])
        return self._counted(used) | {"zero_shot": result, "notes": notes}, predictions, []

    def _counted(self, rows: NDArray[np.int64]) -> dict[str, int]:
        return {"images": len(rows), "patients": len({self.patients["train"][row] for row in rows})}

    def _probe(
        self, level: Level, rows: NDArray[np.int64], seed: int
    ) -> tuple[dict[str, Array], list[str], NDArray[np.int64]]:
        """Fit a logistic regression for each class on frozen features; return probabilities of val and test."""
        for split in SPLITS:
            if split not in self._features:
                self._features[split] = self._encode(split)
        scores = {split: np.full(self.labels[split].shape, 0.5) for split in ("val", "test")}
        lacking, used = [], [rows[:0]]
        for c, name in enumerate(self.classes):
            labels = self.labels["train"][:, c]
            chosen = rows
            if level.shots:
                chosen = nested_shots(labels, self.patients["train"], level.shots, seed)
            chosen = chosen[~np.isnan(labels[chosen])]
            used.append(chosen)
            if len(set(labels[chosen].tolist())) < 2:
                lacking.append(name)
                continue
            found = _logistic(
                self._features["train"][chosen],
                labels[chosen],
                self._features["val"],
                self.labels["val"][:, c],
                self._features["test"],
                STRENGTHS if not level.shots else (1.0,),
            )
            scores["val"][:, c], scores["test"][:, c] = found
        return scores, _lack(level, lacking), np.unique(np.concatenate(used))

    def _scores(self, network: _Classifier, store: Store) -> Array:
        answers = [network(batch.images).float().sigmoid().cpu() for batch in self._inference(network, store)]
        return torch.cat(answers).double().numpy()

    def _encode(self, split: str) -> Array:
        """Return the encoder's features of whole images, averaged over locations: (N, width)."""
        store = self.parts[split]
        batches = track(self._inference(self.encoder, store), f"reading {split}", -(-len(store) // self.batch_size))
        return np.concatenate([_pooled(self.encoder.pyramid(batch.images)).double().cpu().numpy() for batch in batches])

    def _inference(self, network: nn.Module, store: Store) -> Iterator[Batch]:
        """Yield the batches of a store, with the network in use and without gradients."""
        with inference(network):
            for batch in evaluation_batches(store, self.preprocessing, self.batch_size):
                yield batch.to(self.device)

    def _validity(self, network: _Classifier) -> float:
        val = self.parts["val"].take(range(min(CHECKED, len(self.parts["val"]))))
        return float(mean_defined(auroc(self._scores(network, val), self.labels["val"][: len(val)])[None])[0])

    def _segment(self, level: Level, rows: NDArray[np.int64], seed: int) -> tuple[dict[str, Any], list[Outcomes]]:
        network = _Segmenter(self.encoder, self.classes, self.protocol)
        val = self.parts["val"]
        few = val.take(range(min(CHECKED, len(val))))

        def counted(store: Store) -> list[Judged]:
            return [one for one in self._judged(network, store) if one.target or self.protocol.dice == "all"]

        def dice() -> float:
            judged = counted(few)
            return float(np.max(np.mean([one.dice for one in judged], axis=0))) if judged else 0.0

        self._train(network, level, rows, seed, dice)
        threshold = choose_threshold(counted(val))
        judged = list(self._judged(network, self.parts["test"]))
        result = segmentation_result(judged, threshold, rule=FROM_VALIDATION, resamples=self.resamples, seed=self.seed)
        answer: dict[str, Any] = self._counted(rows) | {"zero_shot": None, "segmentation": result, "notes": []}
        return answer, segmentation_outcomes(judged, threshold)

    def _judged(self, network: _Segmenter, store: Store) -> Iterator[Judged]:
        """Judge every map whose image is known to show its finding, with a place, or known not to."""
        row = 0
        for batch in self._inference(network, store):
            maps = network(batch.images).float().sigmoid().cpu().numpy()
            for heat in maps:
                record = store[row]
                row += 1
                for c, name in enumerate(self.classes):
                    place, known = _place(record.masks, record.boxes, record.labels, name, record.image.shape)
                    if known:
                        yield judge_mask(heat[c], place if place.any() else None, name, record.patient, THRESHOLDS)

    def _train(
        self, network: _Tuned, level: Level, rows: NDArray[np.int64], seed: int, validity: Callable[[], float]
    ) -> None:
        """Train a network on some rows of `train`; it ends as it was when it was best on validation."""
        training = self.protocol.training
        assert training is not None
        store = self.parts["train"].take(rows)
        batches = TrainingBatches(
            store,
            self.preprocessing,
            Augment(self.preprocessing.size, scale=training.scale, rotate=training.rotate),
            min(training.batch_size, len(store)),
            seed,
            store.vocabulary,
            places=self.protocol.task == "segmentation",
        )
        torch.manual_seed(seed)
        network.reset()
        network.to(self.device).to(memory_format=torch.channels_last)
        steps = max(training.epochs * len(batches), training.minimum_steps)
        checks = {round(steps * (check + 1) / training.checks) for check in range(training.checks)}
        optimiser = torch.optim.AdamW(network.groups(training), weight_decay=training.weight_decay)
        rates = [group["lr"] for group in optimiser.param_groups]
        best, kept = -np.inf, deepcopy(network.state_dict())
        endless = (batch for epoch in count() for batch in batches.epoch(epoch))
        network.train()
        for step, drawn in zip(track(range(1, steps + 1), f"learning from {level.name}", steps), endless, strict=False):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * _factor(step / steps, training)
            batch = drawn.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                logits = network(batch.images)
            optimiser.zero_grad()
            torch.autograd.backward(network.loss(logits.float(), batch))
            optimiser.step()
            if step in checks:
                value = validity()
                if not value <= best:  # of values that are not defined, the last
                    best, kept = value, deepcopy(network.state_dict())
                network.train()
        network.load_state_dict(kept)


class _Tuned(nn.Module):
    """A copy of an encoder, frozen or not, and what is learned on it."""

    def __init__(self, encoder: Encoder, classes: Sequence[str], protocol: TransferProtocol) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder)
        self.classes = list(classes)
        self.frozen = protocol.encoder == "frozen"
        self.encoder.requires_grad_(not self.frozen)
        self.head: Any = nn.Identity()

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's features, without gradients where it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder.pyramid(images)

    def reset(self) -> None:
        """Draw the weights of the head."""
        for module in self.head.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def groups(self, training: TransferTraining) -> list[dict[str, Any]]:
        """Return what is trained, each at its rate."""
        groups = [{"params": list(self.head.parameters()), "lr": training.lr}]
        if not self.frozen:
            groups.append({"params": list(self.encoder.parameters()), "lr": training.encoder_lr or training.lr})
        return groups

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> _Tuned:
        """Switch between training and use; a frozen encoder is always in use."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


class _Classifier(_Tuned):
    def __init__(self, encoder: Encoder, classes: Sequence[str], protocol: TransferProtocol) -> None:
        super().__init__(encoder, classes, protocol)
        width = self.encoder.width
        self.normalised = protocol.head == "normalised"
        linear = nn.Linear(width, len(classes))
        self.head = nn.Sequential(nn.LayerNorm(width), linear) if self.normalised else linear

    def reset(self) -> None:
        super().reset()
        if self.normalised:
            nn.init.normal_(self.head[1].weight, 0, 0.01)
            nn.init.zeros_(self.head[1].bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C)."""
        logits: Tensor = self.head(_pooled(self.pyramid(images)))
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        labels = torch.from_numpy(label_matrix(batch.labels, self.classes)).float().to(logits.device)
        known = (~labels.isnan()).float()
        losses = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), known, reduction="sum")
        return losses / known.sum().clamp_min(1)


class _Segmenter(_Tuned):
    def __init__(self, encoder: Encoder, classes: Sequence[str], protocol: TransferProtocol) -> None:
        super().__init__(encoder, classes, protocol)
        self.head = UNetDecoder(self.encoder.widths, len(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C, S, S)."""
        logits: Tensor = self.head(self.pyramid(images), images.shape[-1])
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return focal plus Dice loss over the maps that are known; Dice is over all of a class's maps in the batch."""
        side = logits.shape[-1]
        targets, known = torch.zeros_like(logits), logits.new_zeros(*logits.shape[:2], 1, 1)
        for row, (masks, boxes, labels) in enumerate(zip(batch.masks, batch.boxes, batch.labels, strict=True)):
            for c, name in enumerate(self.classes):
                place, certain = _place(masks, boxes, labels, name, (side, side))
                known[row, c] = float(certain)
                targets[row, c] = torch.from_numpy(place)
        probabilities = logits.sigmoid()
        crossed = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        hardness = (targets - probabilities).abs().square()
        focal = (hardness * crossed * known).sum() / (known.sum() * side * side).clamp_min(1)
        common, sizes = ((value * known).sum((0, 2, 3)) for value in (probabilities * targets, probabilities + targets))
        return 10 * focal + (1 - (2 * common + 1) / (sizes + 1)).mean()


def _place(
    masks: Sequence[Mask], boxes: Sequence[Box], labels: Mapping[str, Presence], name: str, shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_], bool]:
    """Return where a finding is, (H, W), and whether that is known: it has a mask or box, or is known to be absent."""
    place = np.zeros(shape, bool)
    own_masks = [mask for mask in masks if mask.pathology == name]
    own_boxes = [box for box in boxes if box.pathology == name]
    for mask in own_masks:
        place |= mask.pixels
    if not own_masks and own_boxes:
        place = paint_boxes(own_boxes, (shape[0], shape[1]))
    return place, bool(own_masks or own_boxes) or labels.get(name) == "absent"


def _classes(train: Store, protocol: TransferProtocol, classes: Sequence[str] | None) -> tuple[str, ...]:
    names: set[str] = set()
    if protocol.task == "classification":
        for labels in train.column("labels"):
            names.update(name for name, presence in labels.items() if presence == "present")
        what = "positive"
    else:
        for record in track(train, "reading places", len(train)):
            names.update(mask.pathology for mask in record.masks)
            names.update(box.pathology for box in record.boxes)
        what = "mask or box"
    wanted = tuple(sorted(names) if classes is None else classes)
    lacking = [name for name in wanted if name not in names]
    if lacking or not wanted:
        raise MedLIPError(
            f"{train.root}: the split train has no {what} of {', '.join(lacking) or 'anything'}. It has "
            f"{', '.join(sorted(names)) or 'none at all'}."
        )
    return wanted


def _pooled(pyramid: Sequence[Tensor]) -> Tensor:
    return pyramid[-1].float().mean((2, 3))


def _logistic(
    features: Array, labels: Array, tuning: Array, tuning_labels: Array, test: Array, strengths: Sequence[float]
) -> tuple[Array, Array]:
    """Return probabilities on tuning and test features, by the strength with the highest AUROC on the former."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best: tuple[float, Any] | None = None
    for strength in strengths:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(features, labels)
        area = float(np.nan_to_num(auroc(model.predict_proba(tuning)[:, 1:], tuning_labels[:, None])[0], nan=0.5))
        if best is None or area > best[0]:
            best = area, model
    assert best is not None
    return best[1].predict_proba(tuning)[:, 1], best[1].predict_proba(test)[:, 1]


def _lack(level: Level, classes: Sequence[str]) -> list[str]:
    if not classes:
        return []
    return [f"{level.name}: no positive, or no negative, among the labels of {', '.join(classes)}: these stay at chance"]


def _factor(progress: float, training: TransferTraining) -> float:
    rising = min(1.0, progress / training.warmup) if training.warmup else 1.0
    return rising * (1.0 if training.schedule == "constant" else (1 + np.cos(np.pi * progress)) / 2)


def _protocol(
    protocol: TransferProtocol,
    store: Store,
    parts: Mapping[str, Store],
    classes: Sequence[str],
    resamples: int,
    seed: int,
) -> Protocol:
    hashes = {split: hash_names(part.column("id")) for split, part in parts.items()}
    return Protocol(
        name=protocol.name,
        data=store.hash,
        split="test",
        images=hashes["test"],
        tuning=hashes["val"],
        classes={name: name for name in classes},
        findings={},
        rules={"transfer": json.dumps(protocol.model_dump(mode="json", exclude={"name", "title"}), sort_keys=True)},
        resamples=resamples,
        seed=seed,
    )


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _known(folder: Path | None, made_with: Mapping[str, str]) -> dict[str, Any] | None:
    if folder is None or not (folder / RESULT).exists():
        return None
    entry: dict[str, Any] = json.loads((folder / RESULT).read_text())
    if entry.get("made_with") != made_with:
        raise MedLIPError(f"{folder}: holds the result of another encoder, protocol or data. Give another folder.")
    return entry


def _summary(entries: Sequence[Mapping[str, Any]], protocol: TransferProtocol) -> dict[str, Any]:
    part, key, ends = "zero_shot", "macro_auroc", "interval"
    if protocol.task == "segmentation":
        part, key, ends = "segmentation", f"dice_{protocol.dice}", f"dice_{protocol.dice}_interval"
    values = [entry[part][key] for entry in entries if entry[part][key] is not None]
    first = entries[0]
    summary = {"level": first["level"], "images": first["images"], "patients": first["patients"], "measure": key}
    if len(entries) == 1:
        return summary | {"value": first[part][key], "interval": first[part][ends]}
    spread = {"lowest": min(values), "highest": max(values)} if values else {}
    return summary | {"value": float(np.mean(values)) if values else None, "draws": len(values), **spread}
