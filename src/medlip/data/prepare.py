"""From sources to a prepared store: images read and shrunk once, facts extracted once, everything bad named and counted.

The same command again does what is missing and makes anew what was corrected since, or is read otherwise in other words.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.data.origin import origin_of, same_origin, with_reading
from medlip.data.sources import Source, open_source, stand_ins_note
from medlip.data.store import Record, Store, row_of
from medlip.data.study import FRACTIONS, Box, Mask, Study, View
from medlip.data.views import DEFAULT, KINDS, kind_of, parse_views, view_of
from medlip.data.writer import SKIPPED, Prepared, Skip, StoreWriter, open_writer
from medlip.errors import MedLIPError
from medlip.images import resize_short_side
from medlip.images.orientation import Turn
from medlip.images.read import read_xray
from medlip.parallel import process
from medlip.reports import Fact, extract_facts, resolve
from medlip.reports.extract import extractor
from medlip.reports.implied import implied_absent

__all__ = ["SHARES", "SKIPPED", "prepare"]

Extract = Callable[[str, Vocabulary], Iterable[Fact]]
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
BY_RULE = "left out (--views"  # in reasons that are no fault
SQUASHED = 0.05  # logarithm of how much the sides of an image and its original may differ in proportion
TOLERANCE = 0.02  # share of a side by which a box may reach beyond its image, where coordinates were rounded
NAMED = 3


class PrepareSummary(TypedDict):
    """What `prepare` did.

    Attributes:
        store: its folder.
        images: that it holds now.
        found: images in the sources.
        account: how many of those became what: prepared, already there, each reason for leaving one out.
        added: images that are new.
        rebuilt: images that took the place of others.
        already: studies that were there.
        skipped: images and studies that could not be used; skipped.csv says why.
        lateral: lateral views that were left out by the default; also in skipped.csv.
        left_out: images of any view that were left out by a rule.
        not_english: studies whose reports are not English and were not read, though their source doesn't say so.
        notes: what is odd, for people.
        remarks: what is to be known and is as it should be.
        counts: of what the store holds.
        splits: images by split.
        hash: of the store.
    """

    store: str
    images: int
    found: int
    account: dict[str, int]
    added: int
    rebuilt: int
    already: int
    skipped: int
    lateral: int
    left_out: int
    not_english: list[str]
    notes: list[str]
    remarks: list[str]
    counts: dict[str, int]
    splits: dict[str, int]
    hash: str


def prepare(
    sources: Sequence[str | Path | Source],
    out: str | Path,
    *,
    size: int = 256,
    views: str = DEFAULT,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    draw_splits: bool = False,
    workers: int | None = None,
    shard_size: int = 4096,
    vocabulary: Vocabulary | None = None,
    extract: Extract = extract_facts,
    rebuild: bool = False,
) -> PrepareSummary:
    """Prepare studies into the store `out`, add to it what is new, and make anew what changed in its source.

    Args:
        sources: as `open_source` takes them.
        out: a new or empty folder, or a store that was prepared with the same settings.
        size: short side of the stored images in pixels; smaller images stay as they are.
        views: which to keep, some of "frontal", "lateral", "other" (no frontal chest) and "unknown", or "all". A view whose
            name is not known is only kept with all.
        shares: split of studies whose source has none, by patient.
        seed: of that split.
        draw_splits: split all studies like that, also those that their source has in a split.
        workers: processes; None for one a core, 0 for this process alone.
        shard_size: images in a shard, about.
        vocabulary: of the facts; None for the default.
        extract: report to facts; picklable. The built-in one reads English alone, and nothing is read from other reports.
        rebuild: make all studies of these sources anew, and drop those that they no longer hold.

    Returns:
        What was done, and what the store holds now.

    Raises:
        MedLIPError: a source or `out` can't be used, another process is preparing it, or not one image could be prepared.
    """
    vocabulary = vocabulary or default_vocabulary()
    settings = {
        "size": size, "views": list(parse_views(views)), "shares": dict(shares), "seed": seed, "draw_splits": draw_splits,
    }  # fmt: skip
    _check(settings)
    opened = [_as_source(source) for source in sources]
    with open_writer(Path(out), settings, vocabulary, shard_size) as writer:
        work = partial(
            _prepare_study, size=size, views=parse_views(views), shares=shares, seed=seed, draw_splits=draw_splits,
            vocabulary=vocabulary, extract=extract,
        )  # fmt: skip
        account = _run(writer, opened, work, workers, vocabulary, rebuild)
        writer.keep_stand_ins({source.name: source.stand_ins for source in opened})
        writer.keep_vocabulary(vocabulary, {source.name for source in opened})
        if not writer.images:
            first = writer.skipped[0].reason if writer.skipped else "the sources hold no study"
            raise MedLIPError(
                f"{out}: not one image could be prepared: {first.rstrip('.')}. All reasons are in {Path(out) / SKIPPED}."
            )
        return _summary(writer, opened, account)


def _check(settings: Mapping[str, Any]) -> None:
    if settings["size"] < 16:
        raise MedLIPError(f"size={settings['size']}: too small for an X-ray. Give the short side in pixels, such as 256.")
    shares = settings["shares"]
    if not (shares and min(shares.values()) >= 0 and abs(sum(shares.values()) - 1) <= 1e-6):  # also where one is NaN
        raise MedLIPError(f"shares of splits, {_listed(shares)}: must be 0 or more and 1 in all, such as {_listed(SHARES)}.")


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{split} {share:g}" for split, share in shares.items())


def _as_source(source: str | Path | Source) -> Source:
    opened = source if isinstance(source, Source) else open_source(source)
    if isinstance(opened, Store):
        raise MedLIPError(f"{source}: already a prepared store. Give the data sets that it came from.")
    return opened


# --- what becomes of the sources ---


@dataclass(frozen=True, slots=True)
class _Item:
    source: str
    key: str
    payload: Any
    read: Callable[[Any], Study]
    before: str | None  # what the store's rows were made from, "" where that is not known; None to make them in any case
    reworded: bool  # whether the vocabulary has other words than when its data set was last prepared


@dataclass(frozen=True, slots=True)
class _Unchanged:
    """A study that the store holds as its source has it."""


@dataclass(slots=True)
class _Account:
    """What became of all that was found: images, and what couldn't be read at all, which counts as one."""

    added: int = 0
    rebuilt: int = 0
    there: int = 0
    already: int = 0  # studies
    gone: int = 0  # studies
    skips: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    not_english: list[str] = field(default_factory=list)  # studies

    def lines(self) -> dict[str, int]:
        """Return the number of images by what became of them."""
        made = {"prepared": self.added, "prepared again": self.rebuilt, "already in the store": self.there}
        reasons = Counter(_kind(skip) for skip in self.skips)
        return {name: count for name, count in made.items() if count} | dict(reasons.most_common())


def _run(
    writer: StoreWriter,
    sources: Sequence[Source],
    work: Callable[[_Item], Prepared | _Unchanged],
    workers: int | None,
    vocabulary: Vocabulary,
    rebuild: bool,
) -> _Account:
    """Prepare what is new or changed in the sources."""
    account = _Account()
    items: dict[tuple[str, str], _Item] = {}
    names = {source.name for source in sources}
    writer.forget_skips(names)
    for source in sources:
        account.notes += source.notes
        reworded = writer.reworded(source.name, vocabulary)
        _leave_out(writer, account, [Skip(source.name, left.study, left.image, left.reason) for left in source.left_out])
        for key, payload in source.items.items():
            stored = writer.stored.get(f"{source.name}:{key}")
            before = stored.origin if stored and not rebuild else None
            item = _Item(source.name, key, payload, source.read, before, reworded)
            first = items.setdefault((source.name, key), item)
            if first.payload is not payload and origin_of(first.payload) != origin_of(payload):
                _leave_out(writer, account, [Skip(source.name, key, "", "another study has its id. Rename one.")])
            elif first.payload is not payload:
                account.already += 1
    gone = [name for name in writer.stored if name.partition(":")[0] in names and tuple(name.split(":", 1)) not in items]
    account.gone = len(gone)
    if rebuild:
        writer.drop(gone)
    for outcome in process(work, items.values(), "preparing", total=len(items), workers=workers):
        item = outcome.item
        stored = writer.stored.get(f"{item.source}:{item.key}")
        made = outcome.value or Prepared(item.source, item.key, skipped=(Skip(item.source, item.key, "", outcome.skipped),))
        if isinstance(made, Prepared) and not (stored and made.failed):
            _leave_out(writer, account, made.skipped)
            account.remarks.update(made.remarks)
            account.not_english += [made.name] * made.not_english
            account.rebuilt += len(made.rows) if stored else 0
            account.added += 0 if stored else len(made.rows)
            writer.add(made)
            continue
        assert stored is not None
        account.there += stored.images
        account.already += 1
        account.skips += writer.keep_skips(item.source, item.key)
        if isinstance(made, Prepared):
            reason = made.skipped[0].reason
            account.notes.append(f"{made.name}: it changed, but can't be read now, so the store keeps what it had: {reason}")
    writer.finish()
    return account


def _source_of(name: str) -> str:
    return name.partition(":")[0]


def _leave_out(writer: StoreWriter, account: _Account, skips: Iterable[Skip]) -> None:
    for skip in skips:
        writer.skip(skip)
        account.skips.append(skip)


def _summary(writer: StoreWriter, sources: Sequence[Source], account: _Account) -> PrepareSummary:
    store = Store.open(writer.out)
    by_rule = sum(BY_RULE in skip.reason for skip in account.skips)
    lines = account.lines()
    return {
        "store": str(writer.out),
        "images": len(store),
        "found": sum(lines.values()),
        "account": lines,
        "added": account.added,
        "rebuilt": account.rebuilt,
        "already": account.already,
        "skipped": len(account.skips) - by_rule,
        "lateral": sum(skip.reason.startswith("lateral") and BY_RULE in skip.reason for skip in account.skips),
        "left_out": by_rule,
        "not_english": account.not_english,
        "notes": [*account.notes, *_not_english(account), *_patients_in_two_splits(store)],
        "remarks": [*_remarks(writer, account, {source.name for source in sources})],
        "counts": store.manifest["counts"],
        "splits": store.splits,
        "hash": store.hash,
    }


def _not_english(account: _Account) -> Iterator[str]:
    if account.not_english:
        yield f"reports that are not English, so that no facts were read from them: {_named(account.not_english)}"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _patients_in_two_splits(store: Store) -> Iterator[str]:
    splits: dict[str, set[str]] = {}
    for patient, split in zip(store.column("patient"), store.column("split"), strict=True):
        splits.setdefault(patient, set()).add(split)
    several = [patient for patient, found in splits.items() if len(found) > 1]
    if several:
        named = _named([f"{patient} ({', '.join(sorted(splits[patient]))})" for patient in several])
        yield f"patients in more than one split, so that test images are of people trained on: {named}"


def _remarks(writer: StoreWriter, account: _Account, names: set[str]) -> Iterator[str]:
    for what, count in account.remarks.most_common():
        yield f"{what} ({count:,})"
    for source, count in writer.manifest.get("stand_ins", {}).items():
        if source in names:
            yield stand_ins_note(source, count)
    if account.gone:
        yield f"studies of the store that these sources don't hold: {account.gone:,}. --rebuild drops them."
    unknown = sum(not stored.origin for name, stored in writer.stored.items() if _source_of(name) in names)
    if unknown:
        yield f"studies prepared by an earlier version, whose corrections go unseen: {unknown:,}. --rebuild makes them anew."
    if writer.manifest["medlip"] != version("medlip"):
        yield f"the store was begun with medlip {writer.manifest['medlip']}. --rebuild makes it anew with this one."


def _kind(skip: Skip) -> str:
    """Return what a reason says, without the names and numbers that differ from image to image."""
    reason = skip.reason.removeprefix(f"{skip.image}: ")
    reason = re.sub(r"^line \d+ of .+?: ", "", reason)
    if BY_RULE not in reason:
        reason = re.split(r" \(|[.:;] ", reason)[0].rstrip(".")
    return re.sub(r"'[^']*'|\d[\d,.]*", "…", reason)


# --- one study ---


def _prepare_study(
    item: _Item,
    *,
    size: int,
    views: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
    draw_splits: bool,
    vocabulary: Vocabulary,
    extract: Extract,
) -> Prepared | _Unchanged:
    origin = origin_of(item.payload)
    unchanged = item.before is not None and (not item.before or same_origin(item.before, origin))
    if unchanged and not item.reworded:
        return _Unchanged()
    study = item.read(item.payload)
    reading = _reading(study, vocabulary, extract)
    origin = with_reading(origin, reading)
    if unchanged and same_origin(item.before or origin, origin):
        return _Unchanged()
    split = study.split if study.split and not draw_splits else _draw_split(study.patient, shares, seed)
    kept: list[tuple[int, View]] = []
    skipped: list[Skip] = []
    remarks: list[str] = []
    for number, view in enumerate(study.views):
        file = str(view.image) if isinstance(view.image, Path) else f"view {number}"
        try:
            seen = _shrink(_read(view, views), size)
            kept.append((number, seen))
            remarks += seen.notes
        except MedLIPError as error:
            skipped.append(Skip(item.source, item.key, file, str(error)))
    if kept and study.report and study.language != "en":
        remarks.append(f"reports that are not English ({study.language}) and not read")
    rows: list[dict[str, object]] = []
    for number, view in kept:
        assert isinstance(view.image, np.ndarray)
        record = Record(
            id=f"{item.source}:{item.key}:{number}", study=study.id, patient=study.patient, source=item.source, split=split,
            view=view.position, image=view.image, report=study.report, sentences=reading.sentences, facts=reading.facts,
            implied=reading.implied, labels=study.labels if view.labels is None else view.labels, boxes=view.boxes,
            masks=view.masks, attributes=study.attributes,
        )  # fmt: skip
        rows.append(row_of(record))
    failed = not rows and any(BY_RULE not in skip.reason for skip in skipped)
    not_english = bool(kept) and reading.not_english
    return Prepared(item.source, item.key, split, tuple(rows), tuple(skipped), origin, tuple(remarks), not_english, failed)


def _draw_split(patient: str, shares: Mapping[str, float], seed: int) -> str:
    """Choose a split by the patient alone, so that all studies of a person share it, whatever else is prepared."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8]) / 2**64
    edges = np.cumsum(list(shares.values()))
    return list(shares)[min(int(np.searchsorted(edges, draw, side="right")), len(shares) - 1)]


def _read(view: View, views: Sequence[str]) -> View:
    """Return the view with its pixels.

    Raises:
        MedLIPError: its kind is not among `views`, or its image can't be used.
    """
    if view.position or isinstance(view.image, np.ndarray):  # otherwise its file may say what it is
        _require_kind(view.position, views)
    if view.problem:
        raise MedLIPError(view.problem)
    if isinstance(view.image, np.ndarray):
        return view
    xray = read_xray(view.image)
    if xray.unfit and "other" not in views:
        raise MedLIPError(f"no frontal chest X-ray ({xray.unfit}), {BY_RULE} {','.join(views)})")
    position = view.position or ("other" if xray.unfit else view_of(xray.view))
    _require_kind(position, views)
    pixels = xray.pixels
    if view.image.suffix.lower() == ".png" and _is_mask(pixels):
        raise MedLIPError(f"{view.image}: has no values but black and white, so it is a mask and no X-ray. Leave it out.")
    return _turned(replace(view, image=pixels, position=position, notes=xray.notes), xray.turn)


def _turned(view: View, turn: Turn | None) -> View:
    """Return a view whose pixels were turned upright, with its boxes and masks turned along, if they were given before."""
    if turn is None or not turn.turns or not (view.boxes or view.masks):
        return view
    if view.frame is not None and view.frame != turn.shape[::-1]:
        raise MedLIPError("its pixels were turned, and its boxes or masks are for a copy of another size. Get the original.")
    moved = (turn.box(box.x, box.y, box.width, box.height) for box in view.boxes)
    boxes = (replace(box, x=x, y=y, width=w, height=h) for box, (x, y, w, h) in zip(view.boxes, moved, strict=True))
    masks = (replace(mask, pixels=turn.apply(mask.pixels)) for mask in view.masks)
    return replace(view, boxes=tuple(boxes), masks=tuple(masks), frame=None)


def _require_kind(position: str, views: Sequence[str]) -> None:
    """Raise unless a view is one of those to keep; only all of them together keep one whose name says nothing."""
    kind = kind_of(position)
    if kind in views or len(views) == len(KINDS):
        return
    if not kind:
        raise MedLIPError(f"the view {position!r} is not a known word. Write PA, AP or lateral, or keep --views all.")
    raise MedLIPError(f"{kind} view, {BY_RULE} {','.join(views)})")


def _is_mask(pixels: NDArray[np.uint8]) -> bool:
    values = np.flatnonzero(np.bincount(pixels[:: max(1, len(pixels) // 64)].ravel(), minlength=256))
    return set(values.tolist()) in ({0, 1}, {0, 255}) and bool(np.isin(pixels, values).all())


def _shrink(view: View, size: int) -> View:
    """Return a view that has its pixels, shrunk, and its boxes and masks along with them."""
    pixels = view.image
    assert isinstance(pixels, np.ndarray)
    small = resize_short_side(pixels, size)
    frame = view.frame or (pixels.shape[1], pixels.shape[0])
    if (view.boxes or view.masks) and frame != FRACTIONS:
        _require_shape(frame, pixels.shape)
    across, down = small.shape[1] / frame[0], small.shape[0] / frame[1]
    boxes = (
        replace(box, x=box.x * across, y=box.y * down, width=box.width * across, height=box.height * down)
        for box in (_within(box, frame) for box in view.boxes)
    )
    shape = frame[1], frame[0]
    fit = [mask for mask in view.masks if mask.pathology or mask.pixels.shape == shape]
    masks = (_shrink_mask(mask, shape, small.shape) for mask in fit)
    notes = view.notes if len(fit) == len(view.masks) else (*view.notes, "masks of anatomies that don't fit, left out")
    return replace(view, image=small, boxes=tuple(boxes), masks=tuple(masks), frame=None, notes=notes)


def _require_shape(frame: tuple[int, int], shape: tuple[int, ...]) -> None:
    """Raise where an image is no copy of the one that boxes and masks are given in; copies squashed to a square are."""
    height, width = shape
    stretched = abs(math.log(width / height * frame[1] / frame[0])) > SQUASHED
    if stretched and width != height:
        raise MedLIPError(
            f"its boxes or masks are for an image of {frame[0]} x {frame[1]}, it is {width} x {height}: cropped, or turned. "
            "Get the original."
        )


def _within(box: Box, frame: tuple[int, int]) -> Box:
    """Return a box, cut at the border of its image.

    Raises:
        MedLIPError: it reaches well beyond, or has no size.
    """
    width, height = frame
    left, top, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
    beyond = max(-left / width, -top / height, right / width - 1, bottom / height - 1)
    if beyond > TOLERANCE or not (box.width > 0 and box.height > 0):
        raise MedLIPError(
            f"its box of {box.pathology!r} ({left:g}, {top:g} to {right:g}, {bottom:g}) is not within the image of "
            f"{width} x {height}. Give the table the original's width and height, or get the original."
        )
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return replace(box, x=left, y=top, width=right - left, height=bottom - top) if beyond > 0 else box


def _shrink_mask(mask: Mask, shape: tuple[int, ...], small: tuple[int, ...]) -> Mask:
    if mask.pixels.shape != shape:
        raise MedLIPError(f"its mask of {mask.pathology!r} is {mask.pixels.shape}, its image {shape}: they must agree.")
    if small == shape:
        return mask
    grey = Image.fromarray(mask.pixels.astype(np.uint8) * 255).resize((small[1], small[0]), Image.Resampling.BOX)
    return replace(mask, pixels=np.asarray(grey) >= 128)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a study states, what that implies, and the sentences that say it; nothing of a report that is not English."""

    facts: tuple[Fact, ...]
    implied: tuple[Fact, ...]
    sentences: tuple[str, ...]
    not_english: bool  # though its source doesn't say so


def _reading(study: Study, vocabulary: Vocabulary, extract: Extract) -> _Reading:
    english = study.language == "en"
    # Whoever gives an extraction of their own knows what it reads.
    not_english = english and extract is extract_facts and not extractor(vocabulary).is_english(study.report)
    read = english and not not_english
    facts, implied = _facts(study, vocabulary, extract if read else None)
    return _Reading(facts, implied, extractor(vocabulary).sentences(study.report) if read else (), not_english)


def _facts(study: Study, vocabulary: Vocabulary, extract: Extract | None) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """Return what a study states, and what that implies; its report is not read where there is no `extract`."""
    read = extract(study.report, vocabulary) if study.facts is None and extract else study.facts or ()
    facts = resolve(read)
    for fact in facts:
        if fact.pathology not in vocabulary.pathology_index or fact.anatomy not in vocabulary.anatomy_index:
            raise MedLIPError(
                f"its fact ({fact.pathology}, {fact.anatomy}) is not in the vocabulary. Give a vocabulary that names both."
            )
    return facts, implied_absent(facts, vocabulary)
