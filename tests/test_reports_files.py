"""Files of reports in every layout, bad input named, and the files of facts that come of them."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medlip.data.sources import open_source
from medlip.errors import MedLIPError
from medlip.reports.bench import bench_facts
from medlip.reports.files import read_reports
from medlip.reports.generate import generated_graphs, generated_reports
from medlip.reports.review import Review, marked
from medlip.reports.stream import ExtractionOptions, Summary, extract_file

ROWS = [("a", "Small left pleural effusion."), ("b", "Clear lungs."), ("c", "No pneumothorax.")]
XML = """<?xml version="1.0"?><eCitation><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">Chest with effusion.</AbstractText><AbstractText Label="INDICATION"/>
<AbstractText Label="FINDINGS">The <i>heart</i> is enlarged.</AbstractText>
<AbstractText Label="IMPRESSION">Cardiomegaly.</AbstractText>
</Abstract></Article></MedlineCitation></eCitation>"""


def _csv(path: Path, header: str = "study,report") -> Path:
    path.write_text(header + "\n" + "\n".join(f"{study},{text}" for study, text in ROWS) + "\n")
    return path


def _facts(source: Path, out: Path, **options: Any) -> tuple[list[dict[str, Any]], Summary]:
    summary = extract_file(source, out, workers=0, **options)
    return [json.loads(line) for line in out.read_text().splitlines()], summary


def _read(path: Any, **options: Any) -> list[tuple[str, str]]:
    return [(report.study, str(report.content)) for report in read_reports(path, **options)]


def test_all_tables_give_the_same_reports(tmp_path: Path) -> None:
    lines = [json.dumps({"study": study, "report": text}) for study, text in ROWS]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "r.json").write_text("[" + ",\n".join(lines) + "]")
    (tmp_path / "r.tsv").write_text("study\treport\n" + "\n".join("\t".join(row) for row in ROWS))
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(_csv(tmp_path / "r.csv").read_bytes()))
    pq.write_table(pa.table({"study": [r[0] for r in ROWS], "report": [r[1] for r in ROWS]}), tmp_path / "r.parquet")
    for name in ("r.csv", "r.csv.gz", "r.tsv", "r.jsonl", "r.json", "r.parquet"):
        assert _read(tmp_path / name) == ROWS, name


def test_findings_and_impression_become_sections(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("uid,findings,impression\n7,Clear lungs.,No disease.\n")
    assert _read(path) == [("7", "FINDINGS: Clear lungs.\n\nIMPRESSION: No disease.")]


def test_columns_can_be_named_and_rows_are_numbered_without_an_identifier(tmp_path: Path) -> None:
    path = _csv(tmp_path / "r.csv", header="accession,narrative")
    assert _read(path, text=["narrative"], study="accession") == ROWS
    assert [study for study, _ in _read(path, text=["narrative"])] == ["0", "1", "2"]


def test_a_wrong_column_name_says_which_there_are(tmp_path: Path) -> None:
    path = _csv(tmp_path / "r.csv")
    with pytest.raises(MedLIPError, match=r"no column 'text'\. It has: study, report"):
        _read(path, text=["text"])
    with pytest.raises(MedLIPError, match=r"no column of reports .* It has: a, b"):
        _read(_csv(tmp_path / "s.csv", header="a,b"))


def test_folders_of_text_name_their_studies(tmp_path: Path) -> None:
    study = tmp_path / "p10" / "p10000032" / "s50414267.txt"
    study.parent.mkdir(parents=True)
    study.write_text("FINDINGS: Clear lungs.")
    (tmp_path / "other.txt").write_text("No effusion.")
    assert _read(tmp_path) == [("other", "No effusion."), ("s50414267", "FINDINGS: Clear lungs.")]


def test_openi_xml_is_read_alone_in_folders_and_archives(tmp_path: Path) -> None:
    folder = tmp_path / "xml"
    folder.mkdir()
    (folder / "17.xml").write_text(XML)
    with tarfile.open(tmp_path / "reports.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("ecgen-radiology/17.xml")
        member.size = len(XML.encode())
        archive.addfile(member, io.BytesIO(XML.encode()))
    text = "COMPARISON: Chest with effusion.\n\nFINDINGS: The heart is enlarged.\n\nIMPRESSION: Cardiomegaly."
    for path in (folder / "17.xml", folder, tmp_path / "reports.tgz"):
        assert _read(path) == [("17", text)], path


def test_radgraph_files_are_known_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "graphs.json"
    graphs = dict(generated_graphs(600))
    path.write_text(json.dumps(graphs, indent=1))
    assert {report.study: report.content for report in read_reports(path)} == graphs
    facts, summary = _facts(path, tmp_path / "f.jsonl")
    assert summary.reports == 600
    assert facts[0]["study"] == next(iter(graphs))


def test_a_row_is_a_study_pathology_and_anatomy(tmp_path: Path) -> None:
    facts, summary = _facts(_csv(tmp_path / "r.csv"), tmp_path / "f.jsonl")
    assert facts[0] == {
        "study": "a", "pathology": "effusion", "anatomy": "left_pleural", "presence": "present",
        "sentence": "Small left pleural effusion.", "start": 11, "end": 27,
    }  # fmt: skip
    assert [row["study"] for row in facts] == ["a", "b", "c"]
    assert (summary.reports, summary.facts, summary.without_facts) == (3, 3, 0)


def test_all_outputs_hold_the_same_facts(tmp_path: Path) -> None:
    source = _csv(tmp_path / "r.csv")
    facts, _ = _facts(source, tmp_path / "f.jsonl")
    extract_file(source, tmp_path / "f.parquet", workers=0)
    extract_file(source, tmp_path / "f.csv", workers=0)
    assert pq.read_table(tmp_path / "f.parquet").to_pylist() == facts
    assert (tmp_path / "f.csv").read_text().splitlines()[
        1
    ] == "a,effusion,left_pleural,present,Small left pleural effusion.,11,27"


def test_several_processes_keep_the_order_of_the_reports(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(json.dumps({"report": text}) for text in generated_reports(200)))
    alone, _ = _facts(path, tmp_path / "alone.jsonl")
    extract_file(path, tmp_path / "both.jsonl", workers=2)
    assert (tmp_path / "both.jsonl").read_text() == (tmp_path / "alone.jsonl").read_text()
    studies = [int(row["study"]) for row in alone]
    assert studies == sorted(studies)


def test_mentions_are_given_on_request(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"report": "FINDINGS: No effusion. IMPRESSION: No effusion."}))
    assert len(_facts(path, tmp_path / "f.jsonl")[0]) == 1
    assert len(_facts(path, tmp_path / "f.jsonl", options=ExtractionOptions(mentions=True))[0]) == 2


def test_implied_facts_are_marked(tmp_path: Path) -> None:
    facts, _ = _facts(_csv(tmp_path / "r.csv"), tmp_path / "f.jsonl", options=ExtractionOptions(implied=True))
    clear = [row for row in facts if row["study"] == "b"]
    assert [row["pathology"] for row in clear if not row["implied"]] == ["clear"]
    assert {"consolidation", "nodule"} <= {row["pathology"] for row in clear if row["implied"]}


def test_bad_reports_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    good = json.dumps({"study": "good", "report": "Effusion."})
    bad = ['{"study": "empty", "report": " "}', '{"study": "none"}', '{"study": "null", "report": null}', "{broken", "[1]"]
    path.write_text("\n".join([good.replace("good", "first"), *bad, good]))
    facts, summary = _facts(path, tmp_path / "f.jsonl")
    assert [row["study"] for row in facts] == ["first", "good"]
    assert summary.skipped == {"no text": 3, "broken row": 2}
    assert {problem["study"] for problem in summary.problems} >= {"empty", "none", "null"}


def test_what_is_odd_about_a_report_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"study,report\n1,IMPRESSION: Effusion.\n2,Caf\xe9 effusion.\n3,INDICATION: cough\n")
    facts, summary = _facts(path, tmp_path / "f.jsonl")
    assert [row["study"] for row in facts] == ["1", "2"]
    assert set(summary.notes) == {
        "no findings, all impression",
        "not UTF-8: read as Windows-1252",
        "neither findings nor impression",
        "little of it was read",
    }


def test_stray_bytes_in_json_are_read_and_told(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"report": "Caf\xe9 effusion \xc3\xa9."}\n{"report": "Effusion \\ud800."}\n{"report": "Nodule."}\n')
    facts, summary = _facts(path, tmp_path / "f.jsonl")
    assert [row["sentence"] for row in facts] == ["Caf\u00e9 effusion \u00e9.", "Effusion \ufffd.", "Nodule."]
    assert summary.notes == {"not UTF-8: read as Windows-1252": 2}
    extract_file(path, tmp_path / "f.parquet", workers=0)


def test_a_truncated_gzip_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "r.csv.gz"
    whole = gzip.compress(
        "\n".join(["study,report", *(f'{i},"{text}"' for i, text in enumerate(generated_reports(300)))]).encode()
    )
    path.write_bytes(whole[: len(whole) // 2])
    facts, summary = _facts(path, tmp_path / "f.jsonl")
    assert facts
    assert list(summary.skipped) == ["the file is cut off or damaged here"]


def test_a_truncated_graph_file_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    text = json.dumps(dict(generated_graphs(50)))
    path.write_text(text[: len(text) // 2])
    _, summary = _facts(path, tmp_path / "f.jsonl")
    assert summary.reports > 20
    assert list(summary.skipped) == ["the file is cut off or damaged here"]


def test_broken_graphs_and_dangling_relations_are_told_by_study(tmp_path: Path) -> None:
    graphs = dict(generated_graphs(3))
    first, second, third = graphs
    graphs[first]["entities"]["1"]["relations"] = [["modify", "404"]]
    del graphs[second]["text"]
    path = tmp_path / "g.json"
    path.write_text(json.dumps(graphs))
    facts, summary = _facts(path, tmp_path / "f.jsonl")
    assert {row["study"] for row in facts} == {first, third}
    assert summary.skipped == {"not a RadGraph graph": 1}
    assert summary.notes == {"relations to entities that don't exist": 1}


def test_the_same_study_twice_in_a_row_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("uid,image,findings\n7,a.png,Effusion.\n7,b.png,Effusion.\n")
    facts, summary = _facts(path, tmp_path / "f.jsonl")
    assert len(facts) == 1
    assert list(summary.skipped) == ["the same study and text as before"]


@pytest.mark.parametrize(
    ("name", "out", "message"),
    [
        ("missing.csv", "f.csv", "no such file or folder"),
        ("r.docx", "f.csv", "are not known"),
        ("r.csv", "f.xlsx", "can't be written"),
        ("r.csv", "nowhere/f.csv", "does not exist"),
        ("empty", "f.csv", "without .txt or .xml"),
    ],
)
def test_a_users_mistake_is_said_plainly(tmp_path: Path, name: str, out: str, message: str) -> None:
    _csv(tmp_path / "r.csv")
    (tmp_path / "r.docx").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedLIPError, match=message):
        extract_file(tmp_path / name, tmp_path / out, workers=0)
    assert not (tmp_path / out).exists()


def test_the_radgraph_package_is_run_over_the_read_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def model(texts: list[str]) -> dict[str, Any]:
        seen.extend(texts)
        entity = {
            "tokens": "effusion",
            "label": "Observation::definitely present",
            "start_ix": 0,
            "end_ix": 0,
            "relations": [],
        }
        return {"0": {"text": "effusion", "entities": {"1": entity}}}

    monkeypatch.setitem(sys.modules, "radgraph", SimpleNamespace(RadGraph=lambda model_type: model))
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"report": "INDICATION: Cough. FINDINGS: Effusion."}))
    facts, _ = _facts(path, tmp_path / "f.jsonl", annotator="radgraph")
    assert (facts[0]["pathology"], facts[0]["anatomy"]) == ("effusion", "unspecified")
    assert [text.strip() for text in seen] == ["Effusion."]


def test_the_radgraph_package_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radgraph", None)
    with pytest.raises(MedLIPError, match="pip install radgraph"):
        extract_file(_csv(tmp_path / "r.csv"), tmp_path / "f.csv", annotator="radgraph")


def test_the_review_page_shows_counts_samples_and_what_was_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    texts = ["Small effusion. <note>Whatever</note> & more.", "No effusion. Whatever & more.", "Nodule. Whatever & more."]
    path.write_text("\n".join(json.dumps({"report": text}) for text in texts))
    review = Review()
    summary = extract_file(path, None, workers=0, observer=review)
    page = review.html("reports", summary)
    assert review.counts["effusion", "pleural_unspec", "present"] == 1
    assert review.silent.most_common(1) == [("whatever & more.", 2)]
    assert "<mark>effusion</mark>" in page
    assert "whatever &amp; more." in page
    assert "<note>whatever" not in page.lower()
    assert "not a medical device" in page


def test_marks_stand_at_the_findings() -> None:
    from medlip.reports import extract_facts

    text = "No effusion. Right base opacity."
    shown = marked(text, extract_facts(text)).plain
    assert shown == (
        "No effusion [effusion @ pleural_unspec: absent]. Right base opacity [opacity @ right_lower_lung: present]."
    )


def test_generated_reports_are_distinct_and_have_facts() -> None:
    reports = list(generated_reports(500))
    assert len(set(reports)) == 500
    assert 35 <= sum(len(report.split()) for report in reports) / 500 <= 60


def test_the_bench_answers_for_reports_and_graphs() -> None:
    result = bench_facts(reports=100, graphs=50)
    assert result["reports"] == 100
    assert result["radgraph_studies"] == 50
    assert min(result["reports_per_second"], result["radgraph_studies_per_second"], result["peak_memory_mb"]) > 0


PEAK = """
import json, resource, sys
from medlip.reports.generate import generated_reports
from medlip.reports.stream import extract_file
count = int(sys.argv[2])
with open(sys.argv[1], "w") as lines:
    for text in generated_reports(count):
        lines.write(json.dumps({"report": text}) + chr(10))
extract_file(sys.argv[1], sys.argv[1] + ".parquet", workers=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_stays_flat_however_many_reports_there_are(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        command = [sys.executable, "-c", PEAK, str(tmp_path / "r.jsonl"), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(60_000) < peak(20_000) + 40


# --- inputs as people give them ---


def _names(path: Any, **options: Any) -> dict[str, str]:
    return {report.study: report.problem or report.note for report in read_reports(path, **options)}


def test_facts_never_overwrite_what_they_are_read_from(tmp_path: Path) -> None:
    path = _csv(tmp_path / "r.csv")
    before = path.read_bytes()
    for out in (path, tmp_path / "." / "r.csv"):
        with pytest.raises(MedLIPError, match="would overwrite the reports"):
            extract_file(path, out, workers=0)
    assert path.read_bytes() == before


def test_several_files_and_patterns_are_read_as_one(tmp_path: Path) -> None:
    _csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("study,report\nd,Nodule.\n")
    assert _read(str(tmp_path / "*.csv")) == [*ROWS, ("d", "Nodule.")]
    assert _read([tmp_path / "b.csv", tmp_path / "a.csv"]) == [("d", "Nodule."), *ROWS]
    with pytest.raises(MedLIPError, match="no such file"):
        _read(str(tmp_path / "*.tsv"))


def test_row_numbers_of_several_files_stand_behind_the_files_name(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("report\nNodule.\n")
    assert [study for study, _ in _read([tmp_path / "a.csv", tmp_path / "b.csv"])] == ["a.csv:0", "b.csv:0"]


@pytest.mark.parametrize(
    "content",
    [b"study,report\na,Left effusion.\n", b'{"study": "a", "report": "Left effusion."}\n', b"Left effusion."],
    ids=["csv", "json", "text"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_piped_in_is_told_by_its_content(content: bytes, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(gzip.compress(content) if zipped else content)))
    ((study, text),) = [(report.study, report.content) for report in read_reports("-")]
    assert study in ("a", "stdin") and text == "Left effusion."


def test_identifiers_that_are_missing_or_were_numbers_are_read_rightly(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("study,report\n12.0,Nodule.\nnan,Mass.\n,Effusion.\n00012,Edema.\n")
    notes = _names(tmp_path / "r.csv")
    missing = "no identifier: named by its row number"
    assert notes == {"12": "", "row 1": missing, "row 2": missing, "00012": ""}
    (tmp_path / "s.csv").write_text("accession,report\nA1,Nodule.\nA2,Mass.\n")
    assert [*_names(tmp_path / "s.csv").values()] == [
        "no column is called study, uid or study_id: rows are numbered (accession)",
        "",
    ]


def test_a_study_that_comes_again_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("study,report\n1,Nodule.\n2,Mass.\n1,Nodule.\n2,Effusion.\n")
    reports = [report.problem or report.note for report in read_reports(tmp_path / "r.csv")]
    assert reports == ["", "", "the same study and text as before", "its study came before, with another text"]


def test_cells_that_are_no_text_are_named(tmp_path: Path) -> None:
    lines = [
        {"study": "1", "report": "nan"},
        {"study": "2", "report": 12.5},
        {"study": "3", "report": ["Mass."]},
        {"study": 4, "report": "Mass."},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    _, summary = _facts(tmp_path / "r.jsonl", tmp_path / "f.jsonl")
    assert {one["study"]: one["problem"].partition(" (")[0] for one in summary.problems} == {
        "1": "no text", "2": "its text is none", "3": "its text is none"
    }  # fmt: skip


def test_files_that_a_folder_holds_besides_are_named_and_not_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Nodule.")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"Mass."))
    for name in (".hidden.txt", "._a.txt", "c.docx"):
        (tmp_path / name).write_text("x")
    facts, summary = _facts(tmp_path, tmp_path.parent / "f.jsonl")
    assert {row["study"] for row in facts} == {"a", "b"} and summary.reports == 2 and not summary.skipped
    assert summary.notes == {"hidden files are not read": 1, "files of another kind": 1}


@pytest.mark.parametrize("name", ["r.csv", "r.txt", "r.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_every_layout_is_read_in_utf_16(tmp_path: Path, name: str, encoding: str) -> None:
    texts = {
        "r.csv": "study,report\nr,Épanchement.\n",
        "r.txt": "Épanchement.",
        "r.jsonl": '{"study": "r", "report": "Épanchement."}',
    }
    (tmp_path / name).write_bytes(texts[name].encode(encoding))
    assert _read(tmp_path / name) == [("r", "Épanchement.")]


CASES = Path(__file__).parent / "cases" / "tables"


def test_an_unquoted_comma_turns_no_finding_round(tmp_path: Path) -> None:
    facts, summary = _facts(CASES / "reports-unquoted-comma.csv", tmp_path / "f.jsonl")
    assert {row["study"] for row in facts} == {"s2"} and list(summary.skipped) == ["more cells than columns"]
    facts, _ = _facts(CASES / "reports-utf16.csv", tmp_path / "g.jsonl")
    assert {row["study"] for row in facts} == {"s1"}


def test_facts_and_prepare_read_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "17.xml").write_text(
        XML.replace("<Medline", '<uId id="CXR17"/><Medline').replace("</eCitation>", '<parentImage id="a"/></eCitation>')
    )
    (study,) = open_source(f"openi:{tmp_path}")
    assert [(study.id, study.report)] == _read(tmp_path / "17.xml")
