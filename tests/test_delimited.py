"""Tables as people write them: quotes, encodings, line ends, and rows that don't fit."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medlip.delimited import TableReader, decode, plain_id, read_table
from medlip.errors import MedLIPError

CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(str.strip)


def rows(text: str | bytes) -> list[tuple[dict[str, str], str]]:
    content = text.encode() if isinstance(text, str) else text
    return [(dict(row.cells), row.problem) for row in TableReader(io.BytesIO(content), "t.csv")]


def good(text: str | bytes) -> list[dict[str, str]]:
    return [cells for cells, problem in rows(text) if not problem]


def problems(text: str | bytes) -> list[str]:
    return [problem for _, problem in rows(text) if problem]


@given(st.lists(st.tuples(CELLS, CELLS), max_size=8), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_what_a_program_writes_is_read_as_it_was(written: list[tuple[str, str]], encoding: str) -> None:
    text = io.StringIO()
    named = [(f"s{number}", *cells) for number, cells in enumerate(written)]
    csv.writer(text).writerows([("study", "a", "b"), *named])
    assert [tuple(cells.values()) for cells in good(text.getvalue().encode(encoding))] == named


@pytest.mark.parametrize(
    "text",
    [
        'study,report\ns1,"No effusion.\ns2,Right effusion.\ns3,Clear.\n',
        'study,report\ns1,"No effusion.\ns2,"Right effusion."\ns3,Clear.\n',
        'study,report\ns1,"No effusion.\ns2,Right effusion.\ns3,"Clear."\n',
        'study,report\ns1,"No effusion.\ns2,Right effusion.\ns3,Clear."\n',
        'study,report\ns1,"No" effusion.\ns2,Right effusion.\ns3,Clear.\n',
        'id,report,study\nx1,"No effusion.,s1\nx2,Right effusion.,s2\nx3,Clear.,s3\n',
    ],
)
def test_an_unbalanced_quote_takes_no_other_row_with_it(text: str) -> None:
    assert len(problems(text)) == 1 and "quotes don't match" in problems(text)[0]
    assert [cells["report"].strip('"') for cells in good(text)] == ["Right effusion.", "Clear."]


def test_texts_of_several_lines_and_quotes_inside_are_whole() -> None:
    text = (
        'study,report\ns1,"FINDINGS:\nHeart, lungs normal.\n\nEND 5, 6"\ns2,"a ""soft"" mass"\n'
        's3,5" tube\ns4,"a \\"b\\" c"\n'
    )
    assert [cells["report"] for cells in good(text)] == [
        "FINDINGS:\nHeart, lungs normal.\n\nEND 5, 6", 'a "soft" mass', '5" tube', 'a "b" c',
    ]  # fmt: skip


def test_rows_with_more_cells_than_the_header_are_named_and_not_cut() -> None:
    text = "study,report\ns1,No effusion, but a left pneumothorax.\ns2,Right effusion.\ns3,Clear.,,\n"
    assert problems(text) == ["more cells than columns (3 instead of 2): put quotes around texts that hold ','"]
    assert [cells["study"] for cells in good(text)] == ["s2", "s3"]


def test_a_text_that_goes_on_in_the_next_line_is_named_with_it() -> None:
    text = "study,report\ns1,No effusion\nbut a large pneumothorax.\ns2,Clear.\ns3\n"
    assert len(problems(text)) == 2 and "goes on in the next line" in problems(text)[0].replace("seems to go", "goes")
    assert good(text) == [{"study": "s2", "report": "Clear."}, {"study": "s3"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_and_line_ends_are_told(end: str, delimiter: str) -> None:
    text = end.join(delimiter.join(row) for row in (("study", "report"), ("s1", '"a b"'), ("s2", "c")))
    assert good(text) == [{"study": "s1", "report": "a b"}, {"study": "s2", "report": "c"}]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-16", "Épanchement à droite."), ("utf-16-be", "Left effusion."), ("utf-8-sig", "Épanchement."),
        ("cp1252", "Caf\u00e9."), ("cp1252", "Opacité à gauche; épanchement à droite, cœur élargi, à l’été."),
        ("cp1251", "Плевральный выпот справа, лёгкие без очаговых теней, сердце не расширено."),
        ("mac_roman", "Opacité à gauche, épanchement à droite, cœur élargi, à contrôler très vite."),
    ],
)  # fmt: skip
def test_encodings_are_told_and_said(encoding: str, text: str) -> None:
    content = f'study,report\ns1,"{text}"\n'.encode(encoding)
    (row,) = TableReader(io.BytesIO(content), "t.csv")
    assert row.cells == {"study": "s1", "report": text}
    assert row.note.startswith("not UTF-8: read as") is not encoding.startswith("utf")
    assert decode(text.encode(encoding))[0] == text


def test_lines_of_several_encodings_are_each_read() -> None:
    content = "study,report\ns1,é\n".encode() + "s2,é\n".encode("cp1252")
    assert [row.cells["report"] for row in TableReader(io.BytesIO(content), "t.csv")] == ["é", "é"]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(MedLIPError, match="two columns are called 'report'"):
        rows("study,report,report\n1,a,b\n")


def test_a_published_table_with_a_broken_row_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4,5\n")
    with pytest.raises(MedLIPError, match=r"t\.csv: line 3: more cells than columns"):
        read_table(tmp_path / "t.csv", ("a",))


def test_identifiers_are_rid_of_what_programs_made_of_them() -> None:
    made = {
        "12.0": "12",
        " 7 ": "7",
        "nan": "",
        "None": "",
        "<NA>": "",
        "00012": "00012",
        "1.2.840": "1.2.840",
        "COVID 1": "COVID 1",
    }
    assert {text: plain_id(text) for text in made} == made
