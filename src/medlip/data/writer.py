"""Writing a store: shard by shard, one writer at a time, and what was made anew takes the place of what it was.

A kill at any moment loses nothing that was committed: a shard counts once the manifest lists it, both are put in place by
renaming, and shards end where studies end.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from medlip.concepts import Vocabulary
from medlip.data.store import FORMAT, MANIFEST, ROWS_PER_GROUP, SCHEMA, Store
from medlip.data.views import same_views
from medlip.errors import MedLIPError
from medlip.files import write_atomic

SKIPPED = "skipped.csv"
SKIPPED_COLUMNS = ("source", "study", "image", "reason")
LOCK = ".lock"
ORIGINS = "origins"  # a file a shard, not part of the store's hash: what each of its studies was made from


@dataclass(frozen=True, slots=True)
class Skip:
    """What is not in the store, a row of skipped.csv: `image` is "" for a whole study."""

    source: str
    study: str
    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """One study, ready for the store.

    Attributes:
        source: the data set's name.
        key: the study's in its source.
        split: of its rows.
        rows: as `row_of` makes them, one an image.
        skipped: its images that are left out.
        origin: what it was made from (`origin_of`).
        remarks: what is odd about it, for people.
        not_english: its report is not English, though its source doesn't say so; nothing was read from it.
        failed: whether it has no rows because something can't be read, and not by rule.
    """

    source: str
    key: str
    split: str = ""
    rows: tuple[dict[str, Any], ...] = ()
    skipped: tuple[Skip, ...] = ()
    origin: str = ""
    remarks: tuple[str, ...] = ()
    not_english: bool = False
    failed: bool = True

    @property
    def name(self) -> str:
        """What its rows' ids begin with."""
        return f"{self.source}:{self.key}"


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study in the store: what it was made from ("" where an earlier version made it), its shard, its images."""

    origin: str
    file: str
    images: int


@contextmanager
def open_writer(out: Path, settings: Mapping[str, Any], vocabulary: Vocabulary, shard_size: int) -> Iterator[StoreWriter]:
    """Open a new store or one that is there, for this process alone.

    Raises:
        MedLIPError: another process writes to it, the folder holds other files, or it was prepared otherwise.
    """
    own = not out.exists() or (
        out.is_dir() and ((out / MANIFEST).exists() or {path.name for path in out.iterdir()} <= {LOCK})
    )
    if not own:
        raise MedLIPError(f"{out}: holds other files than a store. Give a new or an empty folder.")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)  # let go of by the system when the process ends, however it ends
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise MedLIPError(
            f"{out}: another process is preparing this store. Wait until it is done, or give another folder."
        ) from error
    try:
        yield StoreWriter(out, settings, vocabulary, shard_size)
    finally:
        lock.release()


class StoreWriter:
    """Adds studies to a store's folder, shard by shard. Use `open_writer`."""

    def __init__(self, out: Path, settings: Mapping[str, Any], vocabulary: Vocabulary, shard_size: int) -> None:
        self.out, self.shard_size = out, shard_size
        self.manifest = self._resume(settings, vocabulary)
        self._skips = dict.fromkeys(self._read_skips())
        self.stored: dict[str, StoredStudy] = {}
        for shard in self.manifest["shards"]:
            origins = self._read_origins(shard["file"])
            ids = pq.read_table(out / shard["file"], columns=["id"])["id"].to_pylist()
            for name, images in Counter(id.rpartition(":")[0] for id in ids).items():
                self.stored[name] = StoredStudy(origins.get(name, ""), shard["file"], images)
        self._waiting: dict[str, list[Prepared]] = {}
        self._dropped: set[str] = set()
        self._forgotten: dict[tuple[str, str], list[Skip]] = {}

    @property
    def images(self) -> int:
        """Number of images in the store, those that wait to be written not among them."""
        return sum(shard["rows"] for shard in self.manifest["shards"])

    @property
    def skipped(self) -> list[Skip]:
        """What is named in skipped.csv."""
        return list(self._skips)

    def add(self, study: Prepared) -> None:
        """Add a study, in the place of what is there of it; without rows it is only dropped."""
        self.drop([study.name])
        if study.rows:
            waiting = self._waiting.setdefault(study.split, [])
            waiting.append(study)
            if sum(len(one.rows) for one in waiting) >= self.shard_size:
                self._commit(study.split)

    def drop(self, names: Iterable[str]) -> None:
        """Drop studies from the store."""
        self._dropped.update(name for name in names if name in self.stored)

    def skip(self, skip: Skip) -> None:
        """Name what is left out."""
        self._skips[skip] = None

    def forget_skips(self, sources: Collection[str]) -> None:
        """Take what was left out of some sources from skipped.csv, since they are looked at again."""
        for skip in [skip for skip in self._skips if skip.source in sources]:
            del self._skips[skip]
            self._forgotten.setdefault((skip.source, skip.study), []).append(skip)

    def keep_skips(self, source: str, study: str) -> list[Skip]:
        """Name again what was left out of a study, and return it."""
        kept = self._forgotten.get((source, study), [])
        self._skips |= dict.fromkeys(kept)
        return kept

    def keep_stand_ins(self, counts: Mapping[str, int]) -> None:
        """Write down of each source how many studies stand for a patient of their own."""
        before = self.manifest.get("stand_ins", {})
        now = {name: count for name, count in (before | counts).items() if count}
        if now != before:
            self.manifest["stand_ins"] = now
            self._write_manifest()

    def reworded(self, source: str, vocabulary: Vocabulary) -> bool:
        """Whether a source's reports were last read by other words than the vocabulary's."""
        return bool(self.manifest.get("words", {}).get(source) != vocabulary.words_fingerprint)

    def keep_vocabulary(self, vocabulary: Vocabulary, sources: Iterable[str]) -> None:
        """Write down the vocabulary, and that the reports of some sources are read by its words."""
        words = self.manifest.get("words", {}) | dict.fromkeys(sources, vocabulary.words_fingerprint)
        now = {"vocabulary": vocabulary.model_dump(mode="json"), "words": words}
        if self.manifest | now != self.manifest:
            self.manifest |= now
            self._write_manifest()

    def finish(self) -> None:
        """Write what waits."""
        for split in [split for split, waiting in self._waiting.items() if waiting]:
            self._commit(split)
        if self._dropped:
            self._drop(set(self._dropped))
            self._write_manifest()
        self._write_skipped()

    def _commit(self, split: str) -> None:
        """Write a shard, and in the same moment drop what its studies were before."""
        studies, self._waiting[split] = self._waiting[split], []
        rows = [row for study in studies for row in study.rows]
        table = pa.Table.from_pylist(rows, schema=_described(SCHEMA))
        self._write_shard(split, table, {study.name: study.origin for study in studies})
        self._count(rows, 1)
        self._drop({study.name for study in studies} & self._dropped)
        self._write_skipped()
        self._write_manifest()

    def _write_shard(self, split: str, table: pa.Table, origins: Mapping[str, str]) -> None:
        buffer = io.BytesIO()
        codecs = {"image.bytes": "NONE", "masks.list.element.png": "NONE"}  # both are compressed already
        columns = [field for field in _leaves(table.schema) if field not in codecs]
        pq.write_table(
            table, buffer, row_group_size=ROWS_PER_GROUP, compression={**codecs, **dict.fromkeys(columns, "ZSTD")}
        )
        content = buffer.getvalue()
        taken = {path.name for path in (self.out / "data").iterdir()}
        numbers = (f"{split}-{number:05d}.parquet" for number in count())
        name = f"data/{next(number for number in numbers if number not in taken)}"
        write_atomic(self._origins_of(name), json.dumps(origins).encode())
        write_atomic(self.out / name, content)
        digest = hashlib.sha256(content).hexdigest()
        self.manifest["shards"].append(
            {"file": name, "split": split, "rows": table.num_rows, "bytes": len(content), "sha256": digest}
        )

    def _drop(self, names: set[str]) -> None:
        """Write the shards that hold some studies again, without them; the manifest is still to be written."""
        for file in sorted({self.stored[name].file for name in names}):
            shard = next(shard for shard in self.manifest["shards"] if shard["file"] == file)
            table = pq.read_table(self.out / file)
            own = [id.rpartition(":")[0] for id in table["id"].to_pylist()]
            leaving = [name in names for name in own]
            columns = [column for column in table.column_names if column != "image"]
            self._count(table.filter(pa.array(leaving)).select(columns).to_pylist(), -1)
            self.manifest["shards"].remove(shard)
            if not all(leaving):
                kept = table.filter(pa.array([not leaves for leaves in leaving]))
                origins = {name: origin for name, origin in self._read_origins(file).items() if name not in names}
                self._write_shard(shard["split"], kept, origins)
                new = self.manifest["shards"][-1]["file"]
                self.stored |= {name: replace(self.stored[name], file=new) for name in own if name not in names}
        self._dropped -= names
        for name in names:
            del self.stored[name]

    def _count(self, rows: Iterable[Mapping[str, Any]], sign: int) -> None:
        """Add rows to the manifest's counts, or take them away."""
        counts: Counter[str] = Counter()
        sources: Counter[str] = Counter()
        studies: set[str] = set()
        for row in rows:
            name = row["id"].rpartition(":")[0]
            sources[row["source"]] += 1
            counts.update(
                {"images": 1, "boxes": len(row["boxes"]), "masks": len(row["masks"]), f"view {row['view'] or 'unknown'}": 1}
            )
            if name not in studies:
                studies.add(name)
                facts = sum(not fact["implied"] for fact in row["facts"])
                counts.update({"studies": 1, "facts": facts, "without_report": int(not row["report"])})
        for name, found in (("counts", counts), ("sources", sources)):
            total = Counter(self.manifest[name])
            for key, number in found.items():
                total[key] += sign * number
            self.manifest[name] = dict(sorted(total.items())) if name == "counts" else dict(total)

    def _origins_of(self, shard: str) -> Path:
        return self.out / ORIGINS / f"{Path(shard).stem}.json"

    def _read_origins(self, shard: str) -> dict[str, str]:
        """Return what each study of a shard was made from, {} where an earlier version wrote it."""
        path = self._origins_of(shard)
        origins: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return origins

    def _write_manifest(self) -> None:
        write_atomic(self.out / MANIFEST, json.dumps(self.manifest, indent=1).encode())
        _remove_strays(self.out, self.manifest)

    def _write_skipped(self) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerows([SKIPPED_COLUMNS, *((skip.source, skip.study, skip.image, skip.reason) for skip in self._skips)])
        write_atomic(self.out / SKIPPED, text.getvalue().encode())

    def _read_skips(self) -> list[Skip]:
        if not (self.out / SKIPPED).exists():
            return []
        with (self.out / SKIPPED).open(encoding="utf-8", newline="") as file:
            return [Skip(**row) for row in csv.DictReader(file)]

    def _resume(self, settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
        path = self.out / MANIFEST
        if not path.exists():
            manifest = {
                "format": FORMAT, "medlip": version("medlip"), "settings": settings,
                "vocabulary": vocabulary.model_dump(mode="json"), "sources": {}, "counts": {}, "shards": [],
            }  # fmt: skip
            write_atomic(path, json.dumps(manifest, indent=1).encode())
            _make_folders(self.out)
            return manifest
        _make_folders(self.out)
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["shards"]:
            store = Store.open(self.out)
            vocabulary.require_same(store.vocabulary, str(self.out))
        for name, value in settings.items():
            before = manifest["settings"].get(name, False)  # off in stores that are older than the setting
            if not (same_views(before, value) if name == "views" else before == value):
                asked, there = (",".join(one) if isinstance(one, list) else one for one in (value, before))
                raise MedLIPError(
                    f"{self.out}: prepared with {name}={there!r}, now {asked!r} is asked for. "
                    "Give the same settings, or another folder."
                )
        _remove_strays(self.out, manifest)
        return dict(manifest)


def _remove_strays(out: Path, manifest: Mapping[str, Any]) -> None:
    """Remove shards that the manifest doesn't list: of a run that was stopped, or whose studies are in others now."""
    listed = {Path(shard["file"]).stem for shard in manifest["shards"]}
    for folder in ("data", ORIGINS):
        for path in (out / folder).iterdir():
            if path.stem not in listed or path.name.startswith("."):
                path.unlink()


def _make_folders(out: Path) -> None:
    for folder in ("data", ORIGINS):
        (out / folder).mkdir(exist_ok=True)


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
