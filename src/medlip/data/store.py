"""The prepared store: a folder of Parquet shards, one row an image, and a manifest that says what is in it.

    STORE/manifest.json          settings, vocabulary, sources, counts, and each shard with its rows and hash
    STORE/skipped.csv            what was left out, and why
    STORE/data/train-00000.parquet …
    STORE/origins/train-00000.json …     what each study was made from, for `prepare` to see what changed

A shard holds one split. Rows come in small groups, so that any row is read without its shard, and nothing is loaded whole.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from medlip.concepts import Vocabulary
from medlip.data.study import Box, Mask
from medlip.data.views import READ_FIRST, read_as
from medlip.errors import MedLIPError
from medlip.images.fingerprint import perceptual_hash, to_text
from medlip.reports import Fact, Presence

FORMAT = 1
MANIFEST = "manifest.json"
ROWS_PER_GROUP = 64
JPEG_QUALITY = 95  # decodes four times faster than PNG at half the size; mean error 0.6 of 255 levels

_TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": _TEXT}),
        "id": _TEXT,
        "study": _TEXT,
        "patient": _TEXT,
        "source": _TEXT,
        "split": _TEXT,
        "view": _TEXT,
        "report": _TEXT,
        "sentences": pa.list_(_TEXT),
        "facts": pa.list_(
            pa.struct(
                {
                    "pathology": _TEXT, "anatomy": _TEXT, "presence": _TEXT,
                    "sentence": _TEXT, "start": pa.int32(), "end": pa.int32(), "implied": pa.bool_(),
                }
            )
        ),
        "labels": pa.list_(pa.struct({"name": _TEXT, "presence": _TEXT})),
        "boxes": pa.list_(
            pa.struct(
                {
                    "pathology": _TEXT, "x": pa.float64(), "y": pa.float64(),
                    "width": pa.float64(), "height": pa.float64(), "anatomy": _TEXT, "phrase": _TEXT,
                }
            )
        ),
        "masks": pa.list_(pa.struct({"pathology": _TEXT, "png": pa.binary(), "anatomy": _TEXT})),
        "attributes": pa.list_(pa.struct({"name": _TEXT, "value": _TEXT})),
        "perceptual_hash": _TEXT,  # of the image, as text: to find it again elsewhere without reading it
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a store with all that is known about it.

    Attributes:
        id: unique in the store: source, study and view.
        study: the study's id in its source.
        patient: what splits and bootstraps go by.
        source: name of the data set.
        split: "train", "val" or "test".
        view: "PA", "AP", "lateral", or "" when unknown.
        image: uint8 (H, W), the short side at most the store's size.
        report: the report's text, "" when there is none.
        sentences: of its findings and impression, in order.
        facts: what the report states, one a (pathology, anatomy); known without a report where the source knows.
        implied: absences that follow from a normal statement ("the lungs are clear"), never a pair that `facts` mentions.
        labels: image-level labels by name.
        boxes: in pixels of `image`.
        masks: of the size of `image`.
        attributes: sex, age and the like.
    """

    id: str
    study: str
    patient: str
    source: str
    split: str
    view: str
    image: NDArray[np.uint8]
    report: str
    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    implied: tuple[Fact, ...]
    labels: Mapping[str, Presence]
    boxes: tuple[Box, ...]
    masks: tuple[Mask, ...]
    attributes: Mapping[str, str]


class Store:
    """A prepared store, or a part of it. Records are read when asked for."""

    def __init__(
        self, root: str, manifest: Mapping[str, Any], shards: Sequence[Mapping[str, Any]], rows: Any = None
    ) -> None:
        """Hold the shards of an opened store; `rows` picks some of their rows (int64, in order). Use `open`."""
        self.root, self.manifest, self._shards = root, manifest, tuple(shards)
        self._ends = np.cumsum([shard["rows"] for shard in shards], dtype=np.int64)
        self._rows: NDArray[np.int64] | None = rows
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store's folder, or its URL (s3://…, anything that fsspec knows).

        Raises:
            MedLIPError: no store, an empty one, one of another version, or one with missing or truncated shards.
        """
        root = str(path).rstrip("/")
        files, folder = _filesystem(root)
        try:
            manifest = json.loads(files.cat_file(f"{folder}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise MedLIPError(
                f"{root}: no prepared store here (it has no {MANIFEST}). Run: medlip prepare SOURCE --out {root}"
            ) from error
        except ValueError as error:
            raise MedLIPError(f"{root}/{MANIFEST}: broken ({error}). Prepare the store again.") from error
        if manifest.get("format") != FORMAT:
            raise MedLIPError(f"{root}: a store of format {manifest.get('format')!r}, not {FORMAT}. Prepare it again.")
        if not manifest["shards"]:
            raise MedLIPError(f"{root}: the store holds no image. See its skipped.csv, and prepare it again.")
        sizes = {Path(entry["name"]).name: entry["size"] for entry in files.ls(f"{folder}/data", detail=True)}
        for shard in manifest["shards"]:
            size = sizes.get(Path(shard["file"]).name)
            if size != shard["bytes"]:
                what = "missing" if size is None else f"truncated or changed ({size} bytes instead of {shard['bytes']})"
                raise MedLIPError(f"{root}/{shard['file']}: {what}. Copy the store again, or prepare it again.")
        # By name, so that the order of records does not depend on which split's shard was complete first.
        return cls(root, manifest, sorted(manifest["shards"], key=lambda shard: str(shard["file"])))

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> Record:
        """Return one record.

        Raises:
            IndexError: beyond the end.
            MedLIPError: the shard can't be read.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.root}: no record {index} among {len(self)}")
        index %= len(self)
        row = index if self._rows is None else int(self._rows[index])
        shard = int(np.searchsorted(self._ends, row, side="right"))
        within = row - (int(self._ends[shard]) - self._shards[shard]["rows"])
        group = self._group(shard, within // ROWS_PER_GROUP)
        return record_of(group.slice(within % ROWS_PER_GROUP, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the facts were made with."""
        return Vocabulary.parse(self.manifest["vocabulary"], f"{self.root}/{MANIFEST}")

    @property
    def size(self) -> int:
        """Short side of the images in pixels, at most."""
        return int(self.manifest["settings"]["size"])

    @property
    def splits(self) -> dict[str, int]:
        """Number of images by split."""
        names = [shard["split"] for shard in self._shards]
        if self._rows is None:
            counts: Counter[str] = Counter()
            for name, shard in zip(names, self._shards, strict=True):
                counts[name] += shard["rows"]
            return dict(counts)
        return dict(Counter(names[shard] for shard in np.searchsorted(self._ends, self._rows, side="right")))

    @property
    def stand_ins(self) -> Mapping[str, int]:
        """How many studies of each source stand for a patient of their own, for want of a known one."""
        counts: Mapping[str, int] = self.manifest.get("stand_ins", {})
        return {source: counts[source] for source in sorted({*self.column("source")} & counts.keys())} if counts else {}

    @cached_property
    def hash(self) -> str:
        """Hash of what is in it, for result files: the shards' bytes, and the choice of rows."""
        digest = hashlib.sha256("".join(shard["sha256"] for shard in self._shards).encode())
        if self._rows is not None:
            digest.update(self._rows.tobytes())
        return digest.hexdigest()[:16]

    def select(self, split: str) -> Store:
        """Return the part of one split.

        Raises:
            MedLIPError: the store has no such split; names those it has.
        """
        if split not in self.splits:
            found = ", ".join(f"{name!r} ({count})" for name, count in self.splits.items())
            raise MedLIPError(f"{self.root}: there is no split {split!r}; it has {found}. Name one of them.")
        if self._rows is None:
            return Store(self.root, self.manifest, [shard for shard in self._shards if shard["split"] == split])
        names = np.array([shard["split"] for shard in self._shards])
        return self.take(np.flatnonzero(names[np.searchsorted(self._ends, self._rows, side="right")] == split))

    def take(self, indices: Iterable[int] | NDArray[np.int64]) -> Store:
        """Return the part with these records, in this order."""
        chosen = np.fromiter(indices, np.int64)
        rows = chosen if self._rows is None else self._rows[chosen]
        return Store(self.root, self.manifest, self._shards, rows)

    def column(self, name: str) -> list[Any]:
        """Return one column for all records, in order (such as "patient"), without reading the others.

        Columns of more than text ("facts", "labels", …) come as in a `Record`.
        """
        parse = _PARSE.get(name, lambda value: value)
        return [parse(value) for value in self._values(name, lambda leaf: leaf == name or leaf.startswith(f"{name}."))]

    def masked_findings(self) -> list[frozenset[str]]:
        """Return which findings each record has a mask of, in order, without reading the masks."""
        values = self._values("masks", lambda leaf: leaf.startswith("masks.") and leaf.endswith(".pathology"))
        return [frozenset(mask["pathology"] for mask in masks if mask["pathology"]) for masks in values]

    def stated(self) -> list[list[tuple[str, str, Presence]]]:
        """Return pathology, anatomy and presence of each record's facts, in order, without reading their sentences."""
        wanted = ("pathology", "anatomy", "presence", "implied")
        values = self._values("facts", lambda leaf: leaf.startswith("facts.") and leaf.rpartition(".")[2] in wanted)
        return [
            [(fact["pathology"], fact["anatomy"], fact["presence"]) for fact in facts if not fact["implied"]]
            for facts in values
        ]

    def _values(self, name: str, wanted: Callable[[str], bool]) -> list[Any]:
        """Return the values of a column for all records, reading those of its leaves (such as "masks.….png") alone."""
        values: list[Any] = []
        for shard in range(len(self._shards)):
            file = self._file(shard)
            leaves = [leaf for leaf in (file.schema.column(i).path for i in range(len(file.schema))) if wanted(leaf)]
            values += file.read(leaves)[name].to_pylist()
        return values if self._rows is None else [values[row] for row in self._rows]

    def groups(self) -> list[NDArray[np.int64]]:
        """Return the records' indices by the row group that holds them: what is cheap to read together."""
        rows = np.arange(len(self)) if self._rows is None else self._rows
        shard = np.searchsorted(self._ends, rows, side="right")
        starts = self._ends - np.array([shard["rows"] for shard in self._shards])
        group = (rows - starts[shard]) // ROWS_PER_GROUP
        order = np.lexsort((rows, group, shard))
        edges = np.flatnonzero(np.diff(shard[order]) | np.diff(group[order])) + 1
        return np.split(order, edges)

    def studies(self) -> list[tuple[int, ...]]:
        """Return the records' indices by study, in the order of the store; a study's views in that of `READ_FIRST`."""
        names = zip(self.column("source"), self.column("study"), strict=True)
        found: dict[tuple[str, str], list[int]] = {}
        for row, name in enumerate(names):
            found.setdefault(name, []).append(row)
        rank = [READ_FIRST.index(read_as(view)) for view in self.column("view")]
        return [tuple(sorted(rows, key=lambda row: rank[row])) for rows in found.values()]

    def read_file(self, name: str) -> bytes:
        """Return a file of the store, such as a shard that the manifest lists."""
        files, folder = _filesystem(self.root)
        return bytes(files.cat_file(f"{folder}/{name}"))

    def _group(self, shard: int, group: int) -> pa.Table:
        key = (shard, group)
        if key not in self._groups:
            try:
                self._groups[key] = self._file(shard).read_row_group(group)
            except (OSError, pa.ArrowException) as error:
                where = f"{self.root}/{self._shards[shard]['file']}"
                raise MedLIPError(f"{where}: unreadable ({error}). Copy the store again, or prepare it again.") from error
        return _latest(self._groups, key, 8)

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            files, folder = _filesystem(self.root)
            where = f"{folder}/{self._shards[shard]['file']}"
            try:
                self._files[shard] = pq.ParquetFile(where, filesystem=files, pre_buffer=False)
            except (OSError, pa.ArrowException) as error:
                raise MedLIPError(f"{where}: unreadable ({error}). Copy the store again, or prepare it again.") from error
        return _latest(self._files, shard, 16)


def record_of(row: Mapping[str, Any]) -> Record:
    """Return the record of a row (a dict by column of `SCHEMA`)."""
    facts, implied = _facts(row["facts"])
    return Record(
        **{name: row[name] for name in ("id", "study", "patient", "source", "split", "view", "report")},
        image=decode(row["image"]["bytes"]),
        facts=facts,
        implied=implied,
        **{name: _PARSE[name](row[name]) for name in ("sentences", "labels", "boxes", "masks", "attributes")},
    )


def row_of(record: Record) -> dict[str, object]:
    """Return the row of a record: a dict by column of `SCHEMA`."""
    names = ("id", "study", "patient", "source", "split", "view", "report", "sentences")
    return {
        **{name: getattr(record, name) for name in names},
        "image": {"bytes": encode(record.image), "path": f"{record.id}.jpg"},
        "facts": [
            {**asdict(fact), "implied": implied}
            for implied, facts in ((False, record.facts), (True, record.implied))
            for fact in facts
        ],
        "labels": [{"name": name, "presence": presence} for name, presence in record.labels.items()],
        "boxes": [asdict(box) for box in record.boxes],
        "masks": [
            {"pathology": mask.pathology, "png": _encode_mask(mask.pixels), "anatomy": mask.anatomy} for mask in record.masks
        ],
        "attributes": [{"name": name, "value": value} for name, value in record.attributes.items()],
        "perceptual_hash": to_text(perceptual_hash(record.image)),
    }


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Return grey pixels (H, W) as a JPEG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode(content: bytes) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of `encode`'s bytes."""
    return np.array(Image.open(io.BytesIO(content)))


def _encode_mask(pixels: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _facts(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    stated: list[Fact] = []
    implied: list[Fact] = []
    for row in rows:
        values = {name: value for name, value in row.items() if name != "implied"}
        (implied if row["implied"] else stated).append(Fact(**values))
    return tuple(stated), tuple(implied)


_PARSE: Mapping[str, Callable[[Any], Any]] = {
    "image": lambda value: decode(value["bytes"]),
    "sentences": tuple,
    "facts": lambda value: _facts(value)[0],
    "labels": lambda value: {label["name"]: label["presence"] for label in value},
    "boxes": lambda value: tuple(Box(**box) for box in value),
    "masks": lambda value: tuple(
        Mask(mask["pathology"], decode(mask["png"]).astype(bool), mask["anatomy"]) for mask in value
    ),
    "attributes": lambda value: {attribute["name"]: attribute["value"] for attribute in value},
}


def _filesystem(root: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    files, folder = url_to_fs(root)
    return files, str(folder).rstrip("/")


def _latest(cache: OrderedDict[Any, Any], key: Any, keep: int) -> Any:
    """Return an entry and let go of the ones that were not used for longest, down to `keep`."""
    cache.move_to_end(key)
    while len(cache) > keep:
        cache.popitem(last=False)
    return cache[key]
