"""From sources to a prepared store: images read and shrunk once, facts extracted once, everything bad named and counted.

A kill at any moment loses nothing that was committed: a shard counts once the manifest lists it, both are put in place by
renaming, and shards end where studies end. The same command again does what is missing, and gives the same store.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.data.sources import Source, open_source
from medlip.data.store import FORMAT, MANIFEST, ROWS_PER_GROUP, SCHEMA, Record, Store, row_of
from medlip.data.study import Mask, Study, View
from medlip.errors import MedLIPError
from medlip.files import write_atomic
from medlip.images import read_image, resize_short_side
from medlip.parallel import process
from medlip.reports import Fact, extract_facts, resolve, sections, split_sentences
from medlip.reports.implied import implied_absent

Extract = Callable[[str, Vocabulary], Iterable[Fact]]
SKIPPED = "skipped.csv"
SKIPPED_COLUMNS = ("source", "study", "image", "reason")
LATERAL = "lateral view: only frontal views are kept"
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def prepare(
    sources: Sequence[str | Path | Source],
    out: str | Path,
    *,
    size: int = 256,
    views: str = "frontal",
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    workers: int | None = None,
    shard_size: int = 4096,
    vocabulary: Vocabulary | None = None,
    extract: Extract = extract_facts,
) -> dict[str, Any]:
    """Prepare studies into the store `out`, or add to it what is new.

    Args:
        sources: as `open_source` takes them.
        out: a new or empty folder, or a store that was prepared with the same settings.
        size: short side of the stored images in pixels; smaller images stay as they are.
        views: "frontal" leaves lateral views out (unknown ones are kept), "all" keeps them.
        shares: split of studies whose source has none, by patient.
        seed: of that split.
        workers: processes; None for one a core, 0 for this process alone.
        shard_size: images in a shard, about.
        vocabulary: of the facts; None for the default.
        extract: report to facts; picklable.

    Returns:
        A summary: store, images, added, already (studies that were there), skipped (what could not be used) and lateral
        (views left out), both named with the reason in skipped.csv, counts, splits, hash.

    Raises:
        MedLIPError: a source or `out` can't be used, or not one image could be prepared.
    """
    vocabulary = vocabulary or default_vocabulary()
    settings = {"size": size, "views": views, "shares": dict(shares), "seed": seed}
    _check(settings)
    opened = [_as_source(source) for source in sources]
    writer = _Writer(Path(out), settings, vocabulary, shard_size)
    before = writer.images
    work = partial(_prepare_study, size=size, views=views, shares=shares, seed=seed, vocabulary=vocabulary, extract=extract)
    items = [
        _Item(source.name, key, item, source.read)
        for source in opened
        for key, item in source.items.items()
        if f"{source.name}:{key}" not in writer.done
    ]
    already = sum(map(len, opened)) - len(items)
    unique = {(item.source, item.key): item for item in items}
    already += len(items) - len(unique)
    for outcome in process(work, unique.values(), "preparing", total=len(unique), workers=workers):
        if outcome.value is None:
            writer.skip(_Skip(outcome.item.source, outcome.item.key, "", outcome.skipped))
        else:
            writer.add(outcome.value)
    writer.finish()
    if not writer.images:
        first = writer.skipped[0].reason if writer.skipped else "the sources hold no study"
        raise MedLIPError(
            f"{out}: not one image could be prepared: {first.rstrip('.')}. All reasons are in {Path(out) / SKIPPED}."
        )
    store = Store.open(out)
    return {
        "store": str(out),
        "images": len(store),
        "added": len(store) - before,
        "already": already,
        "skipped": sum(skip.reason != LATERAL for skip in writer.skipped),
        "lateral": sum(skip.reason == LATERAL for skip in writer.skipped),
        "counts": store.manifest["counts"],
        "splits": store.splits,
        "hash": store.hash,
    }


def _check(settings: Mapping[str, Any]) -> None:
    if settings["size"] < 16:
        raise MedLIPError(f"size={settings['size']}: too small for an X-ray. Give the short side in pixels, such as 256.")
    if settings["views"] not in ("frontal", "all"):
        raise MedLIPError(f"views={settings['views']!r}: no such choice. Give 'frontal' or 'all'.")
    shares = settings["shares"]
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise MedLIPError(f"shares={shares}: give the share of each split, 1 in all, such as {SHARES}.")


def _as_source(source: str | Path | Source) -> Source:
    opened = source if isinstance(source, Source) else open_source(source)
    if isinstance(opened, Store):
        raise MedLIPError(f"{source}: already a prepared store. Give the data sets that it came from.")
    return opened


@dataclass(frozen=True, slots=True)
class _Item:
    source: str
    key: str
    payload: Any
    read: Callable[[Any], Study]


@dataclass(frozen=True, slots=True)
class _Skip:
    source: str
    study: str
    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Prepared:
    source: str
    key: str
    split: str
    rows: tuple[dict[str, Any], ...]
    counts: Counter[str]
    skipped: tuple[_Skip, ...]


def _prepare_study(
    item: _Item,
    *,
    size: int,
    views: str,
    shares: Mapping[str, float],
    seed: int,
    vocabulary: Vocabulary,
    extract: Extract,
) -> _Prepared:
    study = item.read(item.payload)
    split = study.split or _draw_split(study.patient, shares, seed)
    kept: list[tuple[int, View]] = []
    skipped: list[_Skip] = []
    for number, view in enumerate(study.views):
        file = str(view.image) if isinstance(view.image, Path) else f"view {number}"
        try:
            if views == "frontal" and view.position == "lateral":
                raise MedLIPError(LATERAL)
            kept.append((number, _shrink(view, size)))
        except MedLIPError as error:
            skipped.append(_Skip(item.source, item.key, file, str(error)))
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    if kept:
        facts, implied = _facts(study, vocabulary, extract)
        sentences = _sentences(study.report)
        counts.update(studies=1, facts=len(facts), without_report=not study.report)
    for number, view in kept:
        assert isinstance(view.image, np.ndarray)
        record = Record(
            id=f"{item.source}:{item.key}:{number}", study=study.id, patient=study.patient, source=item.source, split=split,
            view=view.position, image=view.image, report=study.report, sentences=sentences, facts=facts, implied=implied,
            labels=study.labels, boxes=view.boxes, masks=view.masks, attributes=study.attributes,
        )  # fmt: skip
        rows.append(row_of(record))
        counts.update(
            {"images": 1, "boxes": len(view.boxes), "masks": len(view.masks), f"view {view.position or 'unknown'}": 1}
        )
    return _Prepared(item.source, item.key, split, tuple(rows), counts, tuple(skipped))


def _draw_split(patient: str, shares: Mapping[str, float], seed: int) -> str:
    """Choose a split by the patient alone, so that all studies of a person share it, whatever else is prepared."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8]) / 2**64
    edges = np.cumsum(list(shares.values()))
    return list(shares)[min(int(np.searchsorted(edges, draw, side="right")), len(shares) - 1)]


def _shrink(view: View, size: int) -> View:
    """Return the view with its pixels, shrunk, and its boxes and masks along with them."""
    pixels = view.image if isinstance(view.image, np.ndarray) else read_image(view.image)
    small = resize_short_side(pixels, size)
    width, height = view.frame or pixels.shape[::-1]
    down, across = small.shape[0] / height, small.shape[1] / width
    boxes = (
        replace(box, x=box.x * across, y=box.y * down, width=box.width * across, height=box.height * down)
        for box in view.boxes
    )
    masks = (_shrink_mask(mask, (height, width), small.shape) for mask in view.masks)
    return View(small, view.position, tuple(boxes), tuple(masks))


def _shrink_mask(mask: Mask, shape: tuple[int, ...], small: tuple[int, ...]) -> Mask:
    if mask.pixels.shape != shape:
        raise MedLIPError(f"its mask of {mask.pathology!r} is {mask.pixels.shape}, its image {shape}: they must agree.")
    if small == shape:
        return mask
    grey = Image.fromarray(mask.pixels.astype(np.uint8) * 255).resize((small[1], small[0]), Image.Resampling.BOX)
    return replace(mask, pixels=np.asarray(grey) >= 128)


def _facts(study: Study, vocabulary: Vocabulary, extract: Extract) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    facts = resolve(extract(study.report, vocabulary) if study.facts is None else study.facts)
    for fact in facts:
        if fact.pathology not in vocabulary.pathology_index or fact.anatomy not in vocabulary.anatomy_index:
            raise MedLIPError(
                f"its fact ({fact.pathology}, {fact.anatomy}) is not in the vocabulary. Give a vocabulary that names both."
            )
    return facts, implied_absent(facts, vocabulary)


def _sentences(report: str) -> tuple[str, ...]:
    read = (report[section.start : section.end] for section in sections(report) if section.read)
    return tuple(sentence.text for text in read for sentence in split_sentences(text))


class _Writer:
    """Adds rows to a store's folder, shard by shard."""

    def __init__(self, out: Path, settings: Mapping[str, Any], vocabulary: Vocabulary, shard_size: int) -> None:
        self.out, self.shard_size = out, shard_size
        self.manifest = self._resume(settings, vocabulary)
        self.done, self.skipped = self._what_is_there()
        self.waiting: dict[str, list[_Prepared]] = {}

    @property
    def images(self) -> int:
        return sum(shard["rows"] for shard in self.manifest["shards"])

    def add(self, study: _Prepared) -> None:
        self.skipped.extend(study.skipped)
        if study.rows:
            waiting = self.waiting.setdefault(study.split, [])
            waiting.append(study)
            if sum(len(one.rows) for one in waiting) >= self.shard_size:
                self._commit(study.split)

    def skip(self, skip: _Skip) -> None:
        self.skipped.append(skip)

    def finish(self) -> None:
        for split in [split for split, waiting in self.waiting.items() if waiting]:
            self._commit(split)
        self._write_skipped()

    def _commit(self, split: str) -> None:
        studies, self.waiting[split] = self.waiting[split], []
        rows = [row for study in studies for row in study.rows]
        number = sum(shard["split"] == split for shard in self.manifest["shards"])
        name = f"data/{split}-{number:05d}.parquet"
        buffer = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=_described(SCHEMA))
        codecs = {"image.bytes": "NONE", "masks.list.element.png": "NONE"}  # both are compressed already
        columns = [field for field in _leaves(table.schema) if field not in codecs]
        pq.write_table(
            table, buffer, row_group_size=ROWS_PER_GROUP, compression={**codecs, **dict.fromkeys(columns, "ZSTD")}
        )
        content = buffer.getvalue()
        write_atomic(self.out / name, content)
        digest = hashlib.sha256(content).hexdigest()
        self.manifest["shards"].append(
            {"file": name, "split": split, "rows": len(rows), "bytes": len(content), "sha256": digest}
        )
        counts = Counter(self.manifest["counts"])
        for study in studies:
            counts.update(study.counts)
            sources = self.manifest["sources"]
            sources[study.source] = sources.get(study.source, 0) + len(study.rows)
        self.manifest["counts"] = dict(sorted(counts.items()))
        self._write_skipped()
        write_atomic(self.out / MANIFEST, json.dumps(self.manifest, indent=1).encode())

    def _write_skipped(self) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerows([SKIPPED_COLUMNS, *((skip.source, skip.study, skip.image, skip.reason) for skip in self.skipped)])
        write_atomic(self.out / SKIPPED, text.getvalue().encode())

    def _resume(self, settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
        path = self.out / MANIFEST
        if self.out.exists() and (not self.out.is_dir() or (any(self.out.iterdir()) and not path.exists())):
            raise MedLIPError(f"{self.out}: holds other files than a store. Give a new or an empty folder.")
        if not path.exists():
            manifest = {
                "format": FORMAT, "medlip": version("medlip"), "settings": settings, "vocabulary": vocabulary.model_dump(),
                "sources": {}, "counts": {}, "shards": [],
            }  # fmt: skip
            (self.out / "data").mkdir(parents=True)
            write_atomic(path, json.dumps(manifest, indent=1).encode())
            return manifest
        manifest = json.loads(path.read_text())
        if manifest["shards"]:
            store = Store.open(self.out)
            vocabulary.require_same(store.vocabulary, str(self.out))
        differing = [name for name, value in settings.items() if manifest["settings"].get(name) != value]
        if differing:
            name = differing[0]
            raise MedLIPError(
                f"{self.out}: prepared with {name}={manifest['settings'].get(name)!r}, now {settings[name]!r} is asked for. "
                "Give the same settings, or another folder."
            )
        listed = {shard["file"] for shard in manifest["shards"]}
        for stray in (self.out / "data").iterdir():
            if f"data/{stray.name}" not in listed:
                stray.unlink()
        return dict(manifest)

    def _what_is_there(self) -> tuple[set[str], list[_Skip]]:
        """Return the studies that are in the store, and what was skipped of them; the rest is tried again."""
        done: set[str] = set()
        for shard in self.manifest["shards"]:
            ids = pq.read_table(self.out / shard["file"], columns=["id"])["id"].to_pylist()
            done.update(id.rpartition(":")[0] for id in ids)
        if not (self.out / SKIPPED).exists():
            return done, []
        with (self.out / SKIPPED).open(encoding="utf-8", newline="") as file:
            rows = [_Skip(**row) for row in csv.DictReader(file)]
        return done, [row for row in rows if f"{row.source}:{row.study}" in done]


def _leaves(schema: pa.Schema) -> Iterator[str]:
    """Yield the Parquet columns' paths of a schema."""

    def walk(name: str, kind: pa.DataType) -> Iterator[str]:
        if pa.types.is_struct(kind):
            for field in kind:
                yield from walk(f"{name}.{field.name}", field.type)
        elif pa.types.is_list(kind):
            yield from walk(f"{name}.list.element", kind.value_type)
        else:
            yield name

    for field in schema:
        yield from walk(field.name, field.type)


def _described(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the features that the Hugging Face `datasets` library reads: `image` opens as a picture."""

    def feature(kind: pa.DataType) -> Any:
        if pa.types.is_struct(kind):
            return {field.name: feature(field.type) for field in kind}
        if pa.types.is_list(kind):
            return [feature(kind.value_type)]
        return {"dtype": str(kind), "_type": "Value"}

    features = {field.name: {"_type": "Image"} if field.name == "image" else feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
