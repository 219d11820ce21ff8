import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llambert.corpora import rrf
from llambert.corpora.rrf import RrfRows, concept_ids, find_tables, read_blocks
from llambert.errors import InputError
from tests.fixtures import umls_sample as sample
from tests.fixtures.umls_sample import write


def concepts(folder, table="MRCONSO"):
    """The concepts of a table's rows, in order."""
    found = []
    for block in read_blocks(find_tables(str(folder))[table]):
        rows = RrfRows(block, ["CUI"])
        found += concept_ids(rows.concept_codes("CUI"))
        assert not rows.malformed
    return found


WHOLE = [row.partition("|")[0] for row in sample.MRCONSO]


def replace(folder, name, pieces):
    """Put files with these endings and contents in the place of ``name``."""
    (folder / name).unlink()
    for ending, content in pieces.items():
        (folder / f"{name}{ending}").write_bytes(content)


def cut(content, *places):
    return [content[start:end] for start, end in zip([0, *places], [*places, len(content)], strict=True)]


@pytest.mark.parametrize("block_bytes", [100, 8 << 20])
def test_gzip_is_known_by_its_content(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(rrf, "BLOCK_BYTES", block_bytes)
    content = (write(tmp_path) / "MRCONSO.RRF").read_bytes()
    replace(tmp_path, "MRCONSO.RRF", {".gz": gzip.compress(content)})
    assert concepts(tmp_path) == WHOLE


def test_pieces_are_one_stream_wherever_it_was_cut(tmp_path):
    content = (write(tmp_path) / "MRCONSO.RRF").read_bytes()
    one, two, three = cut(content, 130, 131)
    replace(tmp_path, "MRCONSO.RRF", {".aa.gz": gzip.compress(one), ".ab.gz": gzip.compress(two + three)})
    assert concepts(tmp_path) == WHOLE


@pytest.mark.parametrize("endings", [(".aa", ".ab", ".ac"), (".00", ".01", ".02"), (".1", ".2", ".3")])
def test_pieces_of_the_plain_file(tmp_path, endings):
    content = (write(tmp_path) / "MRCONSO.RRF").read_bytes()
    replace(tmp_path, "MRCONSO.RRF", dict(zip(endings, cut(content, 200, 500), strict=True)))
    assert concepts(tmp_path) == WHOLE


@pytest.mark.parametrize("ending", [".gz.a{}", ".a{}.gz"])
def test_pieces_of_the_gzip_file(tmp_path, ending):
    packed = gzip.compress((write(tmp_path) / "MRCONSO.RRF").read_bytes())
    pieces = cut(packed, 50, 90)
    replace(
        tmp_path, "MRCONSO.RRF", {ending.format(letter): piece for letter, piece in zip("abc", pieces, strict=True)}
    )
    assert concepts(tmp_path) == WHOLE


def test_lines_of_pieces_are_counted_over_the_whole(tmp_path):
    content = (write(tmp_path, [*sample.MRCONSO, "C1|"]) / "MRCONSO.RRF").read_bytes()
    replace(tmp_path, "MRCONSO.RRF", dict(zip((".aa", ".ab"), cut(content, 333), strict=True)))
    (bad,) = (
        bad for block in read_blocks(find_tables(str(tmp_path))["MRCONSO"]) for bad in RrfRows(block, ["CUI"]).malformed
    )
    assert (bad.line, bad.source) == (len(sample.MRCONSO) + 1, f"file://{tmp_path}/MRCONSO.RRF")


def test_byte_order_mark_windows_line_ends_and_a_missing_last_line_end_are_no_faults(tmp_path):
    write(tmp_path)
    content = "\ufeff" + "\r\n".join(sample.MRCONSO)
    (tmp_path / "MRCONSO.RRF").write_bytes(content.encode())
    assert concepts(tmp_path) == WHOLE


@pytest.mark.parametrize("endings", [(".aa.gz", ".ac.gz"), (".ab.gz",), (".01", ".03"), (".02",)])
def test_a_missing_piece_is_refused(tmp_path, endings):
    write(tmp_path)
    replace(tmp_path, "MRCONSO.RRF", dict.fromkeys(endings, b""))
    with pytest.raises(InputError, match=r"pieces of MRCONSO\.RRF are missing"):
        find_tables(str(tmp_path))


@pytest.mark.parametrize("endings", [("", ".gz"), ("", ".aa"), (".aa", ".ab.gz"), (".aa", ".1")])
def test_two_of_the_same_table_are_refused(tmp_path, endings):
    write(tmp_path)
    replace(tmp_path, "MRREL.RRF", dict.fromkeys(endings, b""))
    with pytest.raises(InputError, match=r"more than one MRREL\.RRF"):
        find_tables(str(tmp_path))


def test_a_missing_table_is_refused(tmp_path):
    (write(tmp_path) / "MRSTY.RRF").unlink()
    with pytest.raises(InputError, match=r"has no MRSTY\.RRF"):
        find_tables(str(tmp_path))


def test_a_release_is_found_in_a_folder_of_the_folder_beside_its_other_tables(tmp_path):
    write(tmp_path / "2026AA" / "META")
    (tmp_path / "2026AA" / "META" / "MRCONSO_HISTORY.RRF").write_text("")
    (tmp_path / "2026AA" / "META" / "MRSAT.RRF").write_text("")
    assert concepts(tmp_path) == WHOLE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"C0000001|" * 9, mtime=0)[:-9], "the gzip stream ends too early"),
        (gzip.compress(b"C0000001|" * 999, mtime=0).replace(b"\x01", b"\x02"), "after line 0"),
        (gzip.compress(b"x\n", mtime=0) + b"no gzip", "after line"),
    ],
)
def test_a_damaged_gzip_stream_is_refused_in_one_line(tmp_path, content, message):
    write(tmp_path)
    replace(tmp_path, "MRREL.RRF", {".gz": content})
    with pytest.raises(InputError, match=message) as caught:
        list(read_blocks(find_tables(str(tmp_path))["MRREL"]))
    assert str(caught.value).startswith(f"file://{tmp_path}/MRREL.RRF.gz: cannot be read")
    assert "\n" not in str(caught.value)


def test_a_file_without_lines_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rrf, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(rrf, "MAX_LINE_BYTES", 5000)
    (write(tmp_path) / "MRREL.RRF").write_bytes(b"x" * 50_000)
    with pytest.raises(InputError, match=r"MRREL\.RRF:1: a line of more than"):
        list(read_blocks(find_tables(str(tmp_path))["MRREL"]))


LINES = st.sampled_from(
    [
        (sample.semantic_type("C0000001", "T023").encode(), None),
        (sample.semantic_type("C0000001", "Ä" * 99).encode(), None),
        (sample.semantic_type("C0000001", "a\rb").encode(), None),
        (sample.semantic_type("C0000001", "T0\x0023").encode() + b"\r", None),
        (sample.semantic_type("D0000001", "T023").encode(), "bad_concept_id"),
        (b"C0000001|\xe4|A1|Some|AT1|256|", "bad_encoding"),
        (b"\xff" * 300, "bad_encoding"),
        (b"C1|\xe4", "bad_encoding"),
        (b"C0000001|T023|", "wrong_number_of_fields"),
        (b"C0000001|T023|A1|Some|AT1|256|more", "wrong_number_of_fields"),
        (b"|||||||", "wrong_number_of_fields"),
        (b"||||||", "bad_concept_id"),
        (b"", "wrong_number_of_fields"),
        (b"\r", "wrong_number_of_fields"),
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=12))
def test_any_mix_of_lines_is_told_apart_line_by_line(lines):
    table = rrf.RrfTable("MRSTY", "MRSTY.RRF", (), 0)
    rows = RrfRows(rrf.Block(table, b"".join(line + b"\n" for line, _ in lines), 1), ["CUI", "TUI"])
    rows.concept_codes("CUI")
    found = {bad.line: (bad.text, bad.reason, bad.source) for bad in rows.malformed}
    assert found == {
        number: (line.rstrip(b"\r").decode(errors="replace"), reason, "MRSTY.RRF")
        for number, (line, reason) in enumerate(lines, start=1)
        if reason
    }
    assert rows.num_lines == len(lines)
    types = [line.split(b"|")[1].decode().replace("\r", " ") for line, reason in lines if not reason]
    assert rows.strings("TUI", rows.valid).to_pylist() == types


def test_every_concept_identifier_has_a_number_of_its_own_and_comes_back_from_it(tmp_path):
    ids = ["C0", "C9", "C00", "C42", "C099", "C999999", "C0000000", "C0000009", "C9999999"]
    write(tmp_path, mrsty=[sample.semantic_type(concept, "T1") for concept in ids])
    (block,) = read_blocks(find_tables(str(tmp_path))["MRSTY"])
    codes = RrfRows(block, ["CUI"]).concept_codes("CUI")
    assert len(np.unique(codes)) == len(ids)
    assert codes.min() >= 0
    assert codes.max() == rrf.NUM_CODES - 1
    assert concept_ids(codes) == ids
