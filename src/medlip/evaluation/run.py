"""One evaluation: score and localise what the data knows, and say under which protocol the numbers hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.data.overlap import pseudonym
from medlip.errors import MedLIPError
from medlip.evaluation import segmentation
from medlip.evaluation.basis import (
    ON_TRAINED,
    RESULT,
    UNASKED,
    Answering,
    choose_prompts,
    default_split,
    hash_names,
    inference,
    label_matrix,
    preprocessed,
    provenance,
    resolved,
    select_split,
)
from medlip.evaluation.cases import CASES, Case, choose_cases, make_case, save_cases
from medlip.evaluation.grounding import (
    Pair,
    choose_threshold,
    grounding_outcomes,
    grounding_result,
    judge,
    paint_boxes,
    paint_masks,
)
from medlip.evaluation.outcomes import OUTCOMES, save_outcomes
from medlip.evaluation.places import RULES as PLACES
from medlip.evaluation.places import name_places, places_outcomes, places_result, stated_places
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.protocol import Protocol
from medlip.evaluation.protocols import NamedProtocol
from medlip.evaluation.subgroups import ATTRIBUTES
from medlip.evaluation.zero_shot import MINIMUM_POSITIVES, SENSITIVITY, Tuning, zero_shot_result
from medlip.files import write_atomic
from medlip.metrics.classification import Array
from medlip.parallel import track

if TYPE_CHECKING:
    from medlip.data.store import Record, Store
    from medlip.data.study import Box, Mask

RULES = {
    "macro": f"mean AUROC over classes with at least {MINIMUM_POSITIVES} positives and a negative",
    SENSITIVITY: "a point of the ROC curve of what is evaluated",
    "calibration_error": "15 equally wide bins of each class's probability",
    "classification threshold": "highest F1 of each class, on patients that are not reported",
    "pointing game": "centre of the maximum of the bilinearly enlarged map in a box of the finding",
    "map scaling": "minimum to maximum of each map",
    "overlap threshold": "highest mean IoU over all findings, on patients that are not reported",
    "overlap target": "mask, else union of boxes",
    "intervals": "95 % percentile bootstrap over patients",
}
PHRASES = {"grounding asks for": "each phrase that came with boxes, by itself, held against its own boxes"}
SEGMENTATION = {
    "segmentation map": "as the method gives it, not scaled by itself; also of images without the finding",
    "segmentation threshold": "highest mean Dice over images that show their finding, on patients that are not reported",
    "segmentation thresholds to choose from": "quantiles of the maps of up to 256 images among those that it is chosen on",
}
HALF = "a seeded half of the patients, for want of a validation split; F1, accuracy, IoU and Dice count the other half"
ON_REPORTED = "tuned on the reported images themselves, as published: F1, accuracy, IoU and Dice are optimistic"
NAMED = 12
SAMPLED = 256
QUANTILES = 1 - np.geomspace(1, 1e-4, 100)  # from calling all pixels to calling one in ten thousand


def evaluate(
    method: Answering,
    store: Store,
    *,
    validation: Store | None = None,
    split: str | None = None,
    classes: Sequence[str] | Mapping[str, str] | None = None,
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
    protocol: NamedProtocol | None = None,
    images: Sequence[str] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Ask a method for every class that the data labels, and where it sees what the data has boxes or masks of.

    Thresholds are chosen on `validation`; without one on the split `val`, when another one is evaluated; else on a seeded
    half of the patients, and what depends on them (F1, accuracy, IoU, Dice) counts the other half alone.

    Args:
        method: what is evaluated; any `medlip.methods.Method` will do.
        store: the data.
        validation: other data of the same classes to choose thresholds on; it shares no patient with what is evaluated.
        split: which split to evaluate; None for `test` where there is one, else `val`; "all" for every image. `train`
            must be asked for.
        classes: which labels, by name, or {name: prompt}; None for all that the vocabulary has, each asked for by its name.
        batch_size: images at a time.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the half.
        protocol: a named one, which says split, classes, prompts and where thresholds come from.
        images: a split list: the images of the split to evaluate, by id, study or file name; None for all.
        out: a folder to write result.json, predictions.parquet, outcomes.parquet (of every finding that is located or
            segmented) and, where there is grounding, cases.npz into (images of the data with their maps, see
            `medlip.evaluation.cases`), which `medlip compare` reads.

    Returns:
        Plain data without NaN: `zero_shot` (see `zero_shot_result`; None without labels), `grounding` (see
        `grounding_result`; None without boxes and masks), `segmentation` (see `segmentation_result`; None without masks, and
        where phrases are asked for), `places` (see `places_result`; None where no report states a finding's place, and of
        methods that don't say one), `n_images`, `n_patients`, `split`, `overlap` (how many of them the method was trained
        on; None where that is not known), `run` (the recipe, seed and data that made the method; None where that is not
        known), `protocol` with its `hash`, `versions`, `notes` for people (an overlap's begins with "WARNING"),
        `disclaimer`.

    Raises:
        MedLIPError: there is no such split, class or listed image, nothing to evaluate, a patient is on both sides, `out`
            holds a result already, `protocol` comes with a split or classes of its own, or the method gives NaN or can't
            answer a prompt.
    """
    if batch_size < 1:
        raise MedLIPError(f"batch_size={batch_size}: evaluate at least one image at a time.")
    if out is not None and (out / RESULT).exists():
        raise MedLIPError(f"{out}: holds a {RESULT} already. Give another folder.")
    if protocol is not None:
        if split or classes is not None:
            raise MedLIPError(f"the protocol {protocol.name} says which split and classes: give none beside it.")
        split, classes = protocol.split, protocol.classes
    splits = store.splits
    split = split or default_split(splits)
    evaluated = select_split(store, split, splits)
    if images is not None:
        evaluated = _listed(evaluated, images, split)
    on_reported = protocol is not None and protocol.thresholds == "test"
    tuning_store = None if on_reported else validation
    if tuning_store is None and not on_reported and split not in ("val", "all") and "val" in splits:
        tuning_store = select_split(store, "val", splits)
    asked = _questions(evaluated, classes, method.vocabulary, phrases=protocol is not None and protocol.ask == "phrases")
    if asked.outlined:
        asked = replace(asked, thresholds=_thresholds(method, evaluated, tuning_store, on_reported, asked, batch_size, seed))
    prompts = asked.prompts
    answers = _answer(method, evaluated, asked, batch_size, f"evaluating {split}")
    rule, tuned = HALF, None
    if on_reported:
        rule, tuned = ON_REPORTED, answers
    elif tuning_store is not None:
        rule = "the validation data that was given" if validation is not None else "the split val"
        tuned = _answer(method, tuning_store, asked, batch_size, "choosing thresholds")
        _require_disjoint(answers, tuned)
    stated = stated_places(evaluated, method.vocabulary)
    placed = name_places(method, evaluated, stated, batch_size)
    made_under = Protocol(
        name=protocol.name if protocol else "zero-shot classification and grounding, thresholds from other patients",
        data=store.hash,
        split=split,
        images=hash_names(answers.ids),
        tuning=hash_names(tuned.ids) if tuned else "half of the patients",
        classes={name: resolved(prompt, method.vocabulary) for name, prompt in prompts.items()},
        findings={name: resolved(prompt, method.vocabulary) for name, prompt in asked.findings.items()},
        rules=_rules(asked, on_reported) | (PLACES if any(stated) else {}),
        resamples=resamples,
        seed=seed,
    )
    notes = [
        *_protocol_notes(protocol, len(answers.ids)),
        *_notes("train" in evaluated.splits, asked.unasked, prompts, answers),
    ]
    overlaps = _overlap_tuning(answers, tuned, seed)
    segmented = _segmentation_tuning(answers, tuned, seed)
    drawn: dict[str, Any] = {"rule": rule, "resamples": resamples, "seed": seed}
    result = {
        "zero_shot": _zero_shot(prompts, answers, tuned, rule, resamples, seed) if prompts else None,
        "grounding": grounding_result(answers.pairs, **overlaps, **drawn) if answers.pairs else None,
        "segmentation": segmentation.segmentation_result(*segmented, **drawn) if answers.judged else None,
        "places": places_result(placed, resamples, seed) if placed else None,
        "n_images": len(answers.patients),
        "n_patients": len(set(answers.patients)),
        "split": split,
        "protocol": made_under.to_dict(),
        **provenance(method, evaluated, notes),
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        answers.predictions(list(prompts)).save(out / PREDICTIONS)
        parts = (
            grounding_outcomes(answers.pairs, **overlaps),
            segmentation.segmentation_outcomes(*segmented),
            places_outcomes(placed),
        )
        save_outcomes(chain.from_iterable(parts), out / OUTCOMES)
        if answers.pairs:
            save_cases(list(_cases(method, evaluated, asked, answers, **overlaps)), out / CASES)
        write_atomic(out / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
    return result


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a method is asked.

    Attributes:
        prompts: of classes, by name.
        findings: prompts of findings with a place, by name.
        unasked: names of the data's labels that are not asked for.
        phrases: findings are located by the phrases of their boxes, not by their prompts.
        outlined: findings with masks, which are segmented.
        thresholds: of segmentation, (K,).
    """

    prompts: Mapping[str, str]
    findings: Mapping[str, str]
    unasked: Sequence[str]
    phrases: bool
    outlined: Sequence[str]
    thresholds: Array = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True)
class _Spot:
    """A finding of one image with the prompt that asks where it is, and where it is."""

    pathology: str
    prompt: str
    boxes: Sequence[Box]
    masks: Sequence[Mask]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a method said of N images, reduced as it came: no map is kept.

    Attributes:
        ids: (N,).
        patients: (N,).
        scores: (N, C).
        labels: (N, C), NaN for unknown.
        pairs: every present finding with a box or a mask.
        places: of each pair which image it is of, and what was asked.
        uncovered: "image: finding" where these cover no pixel of the image.
        unlabelled: "image: finding" where these are of a finding that the image's labels don't call present.
        wordless: "image: finding" where phrases are asked for and a box has none.
        judged: every finding with masks, on images that show it and on those that don't.
        unmasked: "image: finding" where it is present and has no mask, though masks of it are elsewhere.
        attributes: sex, age and view, (N,) each.
    """

    ids: list[str]
    patients: list[str]
    scores: Array
    labels: Array
    pairs: list[Pair]
    places: list[tuple[int, str]] = field(default_factory=list)
    uncovered: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)
    judged: list[segmentation.Judged] = field(default_factory=list)
    unmasked: list[str] = field(default_factory=list)
    attributes: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in ATTRIBUTES})

    def predictions(self, classes: Sequence[str]) -> Predictions:
        """Return what is kept of them, with patients told apart but not named."""
        patients = [pseudonym(patient) for patient in self.patients]
        return Predictions(self.ids, patients, classes, self.scores, self.labels, self.attributes)


def _answer(method: Answering, store: Store, asked: _Asked, batch_size: int, description: str) -> _Answers:
    prompts = asked.prompts
    answers = _Answers([], [], np.empty((len(store), len(prompts))), np.full((len(store), len(prompts)), np.nan), [])
    starts = range(0, len(store), batch_size)
    with inference(method) as device:
        for start in track(starts, description, len(starts)):
            records = [store[i] for i in range(start, min(start + batch_size, len(store)))]
            images = preprocessed(records, method.preprocessing).to(device)
            rows = slice(start, start + len(records))
            if prompts:
                answers.scores[rows] = method.score(images, list(prompts.values())).float().cpu().numpy()
                answers.labels[rows] = label_matrix([record.labels for record in records], list(prompts))
            answers.ids.extend(record.id for record in records)
            answers.patients.extend(record.patient for record in records)
            for name, values in answers.attributes.items():
                values.extend(_attribute(record, name) for record in records)
            _locate(method, records, images, asked, answers, start)
    answers.predictions(list(prompts))  # says which image and class have a score that is NaN
    return answers


def _attribute(record: Record, name: str) -> str:
    return record.view if name == "view" else record.attributes.get(name, "")


def _locate(
    method: Answering, records: Sequence[Record], images: Tensor, asked: _Asked, answers: _Answers, first: int
) -> None:
    """Judge the maps of images, from row `first` on: of those with a box or a mask, and of those that are segmented.

    All findings are asked for, always; of phrases those of the batch, for all of a data set would be too many.
    """
    spots = [list(_spots(record, asked)) for record in records]
    for record in records:
        answers.unlabelled.extend(f"{record.id}: {name}" for name in sorted(_placed(record) - set(_located(record))))
        if asked.phrases:
            answers.wordless.extend(f"{record.id}: {box.pathology}" for box in record.boxes if not box.phrase)
    outlined = [_segmented(record, asked) for record in records]
    rows = [row for row in range(len(records)) if spots[row] or outlined[row]]
    if not rows:
        return
    known = (spot.prompt for found in spots for spot in found) if asked.phrases else asked.findings.values()
    prompts = list(dict.fromkeys(known))
    maps = method.localise(images[rows], prompts).float().cpu().numpy()
    for heats, row in zip(maps, rows, strict=True):
        record, heat = records[row], dict(zip(prompts, heats, strict=True))
        for spot in spots[row]:
            shape = record.image.shape
            pair = judge(heat[spot.prompt], shape, spot.boxes, spot.masks, spot.pathology, record.patient)
            if pair is None:
                answers.uncovered.append(f"{record.id}: {spot.pathology}")
            else:
                answers.pairs.append(pair)
                answers.places.append((first + row, spot.prompt))
        for name in outlined[row]:
            _outline(heat[asked.findings[name]], record, name, asked.thresholds, answers)


def _cases(
    method: Answering,
    store: Store,
    asked: _Asked,
    answers: _Answers,
    *,
    threshold: float,
    reported: NDArray[np.bool_],
) -> Iterator[Case]:
    """Draw the maps of a few pairs again, for none was kept, and show them."""
    with inference(method) as device:
        for choice in choose_cases(answers.pairs, reported, threshold):
            pair, (row, prompt) = answers.pairs[choice.pair], answers.places[choice.pair]
            record = store[row]
            (spot,) = (spot for spot in _spots(record, asked) if (spot.pathology, spot.prompt) == (pair.pathology, prompt))
            image = preprocessed([record], method.preprocessing).to(device)
            heat = method.localise(image, [prompt])[0, 0].double().cpu().numpy()
            shape = record.image.shape
            target = paint_masks(spot.masks, shape) if pair.compared_with == "masks" else paint_boxes(spot.boxes, shape)
            yield make_case(choice, pair, record.id, record.image, heat, target)


def _outline(heat: Array, record: Record, name: str, thresholds: Array, answers: _Answers) -> None:
    mask = paint_masks((mask for mask in record.masks if mask.pathology == name), record.image.shape)
    if mask.any():
        answers.judged.append(segmentation.judge_mask(heat, mask, name, record.patient, thresholds))
    elif record.labels.get(name) == "absent":  # whether anything is called there shows at the map's own size
        answers.judged.append(segmentation.judge_mask(heat, None, name, record.patient, thresholds))
    else:
        answers.unmasked.append(f"{record.id}: {name}")


def _spots(record: Record, asked: _Asked) -> Iterator[_Spot]:
    """Yield what is to be found in an image: each finding, or each phrase of its boxes."""
    for name in _located(record):
        if name not in asked.findings:
            continue
        boxes = [box for box in record.boxes if box.pathology == name]
        if asked.phrases:
            for phrase in dict.fromkeys(box.phrase for box in boxes if box.phrase):
                yield _Spot(name, phrase, [box for box in boxes if box.phrase == phrase], ())
        else:
            yield _Spot(name, asked.findings[name], boxes, [mask for mask in record.masks if mask.pathology == name])


def _segmented(record: Record, asked: _Asked) -> list[str]:
    """Return the findings that an image's map is held against a mask for: those that it shows, and those that it doesn't."""
    shown = set(_located(record)) | {name for name, presence in record.labels.items() if presence == "present"}
    absent = {name for name, presence in record.labels.items() if presence == "absent"} - _placed(record)
    return [name for name in asked.outlined if name in shown | absent]


def _thresholds(
    method: Answering,
    evaluated: Store,
    tuning: Store | None,
    on_reported: bool,
    asked: _Asked,
    batch_size: int,
    seed: int,
) -> Array:
    """Return thresholds for segmentation: quantiles of the maps of images among those that one is to be chosen on."""
    store = evaluated if tuning is None else tuning
    rows = np.arange(len(store))
    if tuning is None and not on_reported:
        rows = rows[_half(store.column("patient"), seed)]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLED).round().astype(int))] if len(rows) else rows
    prompts, values = [asked.findings[name] for name in asked.outlined], [np.empty(0, np.float32)]
    with inference(method) as device:
        for start in track(range(0, len(rows), batch_size), "looking at maps"):
            images = preprocessed([store[int(row)] for row in rows[start : start + batch_size]], method.preprocessing)
            values.append(method.localise(images.to(device), prompts).float().cpu().numpy().ravel())
    found = np.concatenate(values).astype(float)
    found = found[np.isfinite(found)]  # a map that isn't finite is refused where it is judged, by name
    return np.quantile(found, QUANTILES) if len(found) else np.zeros(1)


def _placed(record: Record) -> set[str]:
    """Return the findings of a record with a box or a mask."""
    return {box.pathology for box in record.boxes} | {mask.pathology for mask in record.masks}


def _located(record: Record) -> list[str]:
    """Return the findings of a record with a box or a mask, those aside that its labels don't call present."""
    return sorted(name for name in _placed(record) if record.labels.get(name, "present") == "present")


def _zero_shot(
    prompts: Mapping[str, str], answers: _Answers, tuned: _Answers | None, rule: str, resamples: int, seed: int
) -> dict[str, Any]:
    if tuned is not None:
        tuning = Tuning(tuned.scores, tuned.labels, np.ones(len(answers.patients), bool), rule)
    else:
        half = _half(answers.patients, seed)
        tuning = Tuning(answers.scores[half], answers.labels[half], ~half, rule)
    given = list(prompts), answers.scores, answers.labels, answers.patients, tuning, answers.attributes
    return zero_shot_result(*given, resamples=resamples, seed=seed)


def _overlap_tuning(answers: _Answers, tuned: _Answers | None, seed: int) -> dict[str, Any]:
    """Return the `threshold` of the maps of pairs, and which pairs are then `reported`."""
    pairs = answers.pairs
    if tuned is not None:
        return {"threshold": choose_threshold(tuned.pairs), "reported": np.ones(len(pairs), bool)}
    half = _half([pair.patient for pair in pairs], seed)
    chosen_on = [pair for pair, chosen in zip(pairs, half, strict=True) if chosen]
    return {"threshold": choose_threshold(chosen_on), "reported": ~half}


def _segmentation_tuning(
    answers: _Answers, tuned: _Answers | None, seed: int
) -> tuple[Sequence[segmentation.Judged], float]:
    """Return the segmented maps that are reported, and their threshold."""
    tuning = reported = answers.judged
    if tuned is not None:
        tuning = tuned.judged
    else:
        half = set(np.array(answers.patients)[_half(answers.patients, seed)])
        tuning = [one for one in answers.judged if one.patient in half]
        reported = [one for one in answers.judged if one.patient not in half]
    return reported, segmentation.choose_threshold([one for one in tuning if one.target])


def _rules(asked: _Asked, on_reported: bool) -> dict[str, str]:
    rules = RULES | (PHRASES if asked.phrases else {}) | (SEGMENTATION if asked.outlined else {})
    tuned = ("classification threshold", "overlap threshold", "segmentation threshold")
    return rules | {name: ON_REPORTED for name in tuned if on_reported and name in rules}


def _half(patients: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Return which entries belong to a seeded half of the patients."""
    order = np.random.default_rng(seed).permutation(sorted(set(patients)))
    return np.isin(patients, order[: len(order) // 2])


def _questions(
    store: Store, classes: Sequence[str] | Mapping[str, str] | None, vocabulary: Vocabulary, *, phrases: bool
) -> _Asked:
    """Return the prompts of classes and of findings with a place, by name, and the names that are not asked for."""
    labelled: set[str] = set()
    located: set[str] = set()
    masked: set[str] = set()
    for record in track(store, "reading labels", len(store)):
        labelled.update(record.labels)
        located.update(_located(record))
        masked.update(mask.pathology for mask in record.masks)
    names = sorted(labelled | located)
    prompts = choose_prompts(names, classes, vocabulary)
    asked_and_labelled, asked_and_located = (
        {name: prompt for name, prompt in prompts.items() if name in group} for group in (labelled, located)
    )
    outlined = [] if phrases else sorted(masked & set(asked_and_located))
    unasked = [name for name in names if name not in prompts]
    return _Asked(asked_and_labelled, asked_and_located, unasked, phrases, outlined)


def _listed(store: Store, images: Sequence[str], split: str) -> Store:
    """Return those images of a split that a list names: by id, by study, or by a file name that begins with either."""
    rows: dict[str, list[int]] = {}
    for row, (name, study) in enumerate(zip(store.column("id"), store.column("study"), strict=True)):
        for key in {name, study}:
            rows.setdefault(key, []).append(row)
    keys = {name: name if name in rows else Path(name).stem for name in images}
    lacking = [name for name, key in keys.items() if key not in rows]
    if lacking:
        more = ", …" if len(lacking) > NAMED else ""
        raise MedLIPError(
            f"the list names {len(lacking)} images that are not among the {len(store):,} of the split {split!r}: "
            f"{', '.join(lacking[:NAMED])}{more}. Complete the data, or correct the list."
        )
    return store.take(sorted({row for key in keys.values() for row in rows[key]}))


def _protocol_notes(protocol: NamedProtocol | None, images: int) -> Iterator[str]:
    if protocol is None:
        return
    if protocol.thresholds == "test":
        yield f"{protocol.name}: thresholds are {ON_REPORTED}"
    if protocol.images not in (None, images):
        yield f"{protocol.name}: its published split has {protocol.images:,} images, here are {images:,}: another test"


def _require_disjoint(evaluated: _Answers, tuned: _Answers) -> None:
    shared = sorted(set(evaluated.patients) & set(tuned.patients))
    if shared:
        raise MedLIPError(
            f"{len(shared)} patients are both in the evaluated and in the validation data, so thresholds would be chosen on "
            "what is reported. Give validation data of other patients."
        )


def _notes(trained_on: bool, unasked: Sequence[str], prompts: Mapping[str, str], answers: _Answers) -> Iterator[str]:
    if trained_on:
        yield ON_TRAINED
    if unasked:
        yield f"{UNASKED}: {', '.join(unasked)}"
    if not prompts:
        yield "no zero-shot result: the data has no labels"
    if not answers.pairs:
        yield "no grounding result: no present finding has a box or a mask"
    for names, reason in (
        (answers.uncovered, "whose boxes cover no pixel of the image"),
        (answers.unlabelled, "which have boxes or masks but which the labels of their image don't call present"),
        (answers.wordless, "whose boxes came without a phrase to ask for"),
    ):
        if names:
            more = ", …" if len(names) > NAMED else ""
            yield f"{len(names)} findings left out of grounding, {reason}: {', '.join(names[:NAMED])}{more}"
    if answers.unmasked:
        more = ", …" if len(answers.unmasked) > NAMED else ""
        first = ", ".join(answers.unmasked[:NAMED])
        yield f"{len(answers.unmasked)} present findings left out of segmentation, which have no mask: {first}{more}"
