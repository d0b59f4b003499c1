"""One report from its parts: sections under headings, columns of a table, Open-i's XML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

from medlip.delimited import plain_id, says_nothing
from medlip.errors import MedLIPError

SECTIONS = ("indication", "comparison", "findings", "impression")
DESCRIBING = ("findings", "impression")  # what describes the images at hand; the rest alone is no report
ASIDE = (*SECTIONS[:2], "history", "technique")
TEXT_COLUMNS = ("report", *DESCRIBING)
ID_COLUMNS = ("study", "uid", "study_id", "studyid", "study_uid", "report_id", "id")


def compose_report(sections: Mapping[str, str]) -> str:
    """Join sections to one text, "FINDINGS: …", a blank line between them; "" where no one describes the images.

    Args:
        sections: text by name, in order.
    """
    said = {name: text for name, text in sections.items() if text.strip()}
    if all(name.lower() in ASIDE for name in said):
        return ""
    return "\n\n".join(f"{name.replace('_', ' ').upper()}: {text}" for name, text in said.items())


@dataclass(frozen=True, slots=True)
class ReportColumns:
    """Which columns of a table hold a report's text, and which its study's identifier.

    Attributes:
        text: one column, or several that become sections under their names.
        study: the identifier's, None where there is none.
    """

    text: tuple[str, ...]
    study: str | None

    @classmethod
    def choose(cls, names: Sequence[str], where: str, text: Sequence[str] = (), study: str | None = None) -> ReportColumns:
        """Find the columns among those of a table, whatever their case.

        Args:
            names: of the table's columns.
            where: the file, for messages.
            text: columns of the text; none for `report`, or else `findings` and `impression`.
            study: column of the identifier; None for one of `ID_COLUMNS`.

        Raises:
            MedLIPError: a column that was named, or any of a text, is not there.
        """
        by_name = {name.strip().lower(): name for name in reversed(names)}
        present = ", ".join(name for name in names if name) or "none"

        def find(wanted: str) -> str:
            if wanted.strip().lower() not in by_name:
                raise MedLIPError(f"{where}: no column {wanted!r}. It has: {present}.")
            return by_name[wanted.strip().lower()]

        chosen = [find(name) for name in text] or [by_name[name] for name in TEXT_COLUMNS[:1] if name in by_name]
        chosen = chosen or [by_name[name] for name in DESCRIBING if name in by_name]
        if not chosen:
            raise MedLIPError(
                f"{where}: no column of reports (report, or findings and impression). It has: {present}. "
                "Name the column with --text."
            )
        identifier = find(study) if study else next((by_name[name] for name in ID_COLUMNS if name in by_name), None)
        return cls(tuple(chosen), identifier)

    def compose(self, cells: Mapping[str, str]) -> str:
        """Return the report of a row's cells."""
        found = {name.strip().lower(): cells.get(name, "") for name in self.text}
        texts = {name: "" if says_nothing(text) else text for name, text in found.items()}
        if len(texts) > 1 or next(iter(texts)) in DESCRIBING:
            return compose_report(texts)
        return next(iter(texts.values()))

    def identify(self, cells: Mapping[str, str]) -> str:
        """Return the study's identifier in a row's cells, "" for none."""
        return plain_id(cells.get(self.study, "")) if self.study else ""


class OpeniReport(NamedTuple):
    """What one XML file of Open-i says.

    Attributes:
        uid: the study's number, "" where the file names none.
        sections: text by `SECTIONS`.
        codes: MeSH codes, such as "Opacity/lung/base/left".
        images: identifiers of the images, such as "CXR1_1_IM-0001-3001".
    """

    uid: str
    sections: Mapping[str, str]
    codes: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report, composed."""
        return compose_report(self.sections)


def parse_openi(content: bytes) -> OpeniReport:
    """Read an XML report as Open-i publishes it.

    Raises:
        MedLIPError: broken XML.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise MedLIPError(f"broken XML ({error})") from error
    uid = root.find("uId")
    texts = {part.get("Label", "").lower(): " ".join("".join(part.itertext()).split()) for part in root.iter("AbstractText")}
    return OpeniReport(
        "" if uid is None else uid.get("id", "").removeprefix("CXR"),
        {name: texts.get(name, "") for name in SECTIONS},
        tuple((code.text or "").strip() for code in root.iterfind("MeSH/major")),
        tuple(image.get("id", "") for image in root.iter("parentImage")),
    )
