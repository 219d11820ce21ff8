import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llambert.corpora import rrf, umls
from llambert.corpora.contents import generation
from llambert.errors import InputError
from tests.fixtures import umls_sample as sample
from tests.fixtures.umls_sample import relation, semantic_type, term, write

COLUMNS = ["record_id", "text"]


def read(folder, columns=COLUMNS, **rules):
    """Records, malformed rows and counts of a release."""
    corpus = sample.corpus(folder, **rules)
    (source,) = umls.find(corpus).units
    records, malformed, counts = [], [], Counter()
    for rows in umls.read(source, corpus, columns):
        records += rows.records.to_pylist()
        malformed += rows.malformed.to_pylist()
        counts.update(rows.counts)
    return records, malformed, counts


def texts(folder, **rules):
    records, malformed, _ = read(folder, **rules)
    assert not malformed
    return {record["record_id"]: record["text"] for record in records}


def test_a_release_is_found_in_a_folder_of_any_name_beside_a_hidden_copy(tmp_path):
    folder = write(tmp_path / "umls [2023AB] #1")
    write(folder / ".backup")
    assert texts(folder) == sample.TEXTS
    assert generation(sample.corpus(folder))


def test_the_sample_gives_the_texts_worked_out_by_hand_in_the_order_of_the_concepts(tmp_path):
    found = texts(write(tmp_path))
    assert found == sample.TEXTS
    assert list(found) == sorted(found)


def test_every_term_is_in_a_text_or_counted_under_the_rule_that_left_it_out(tmp_path):
    _, _, counts = read(write(tmp_path))
    assert counts == {
        "num_source_rows": len(sample.MRCONSO) + len(sample.MRSTY) + len(sample.MRREL),
        "num_terms_other_language": 2,
        "num_terms_suppressed": 0,
        "num_terms_other_semantic_type": 1,
        "num_terms_excluded_type": 2,
        "num_terms_blank": 1,
        "num_terms_isolated": 1,
        "num_terms_repeated": 1,
        "num_terms_kept": 11,
    }
    assert sum(num for name, num in counts.items() if name.startswith("num_terms_")) == len(sample.MRCONSO)


@pytest.mark.parametrize(
    ("rules", "concept", "text"),
    [
        ({"languages": ("ENG", "FRE")}, "C0000006", "nez"),
        ({"suppressed": ("O",)}, "C0000001", "na; brain; zebra; encephalon"),
        ({"semantic_types": ("T023", "T121")}, "C0000004", "aspirin"),
        ({"excluded_term_types": ()}, "C0000007", "cns"),
        ({"relations": ("RO",)}, "C0000005", "ear"),
        ({"relations": ()}, "C0000005", "ear"),
    ],
)
def test_each_rule_is_a_choice_of_the_recipe(tmp_path, rules, concept, text):
    folder = write(tmp_path)
    assert texts(folder, **rules)[concept] == text
    assert sample.TEXTS.get(concept) != text


def test_a_suppressed_term_does_not_make_its_concept_english(tmp_path):
    folder = write(tmp_path, [*sample.MRCONSO, term("C0000006", "Nose", suppress="O")])
    assert texts(folder)["C0000006"] == "nose"
    assert "C0000006" not in texts(folder, suppressed=("O", "E", "Y"))


def test_the_wanted_semantic_types_of_a_concept_are_a_column(tmp_path):
    records, _, _ = read(write(tmp_path), ["record_id", "semantic_types"])
    assert {r["record_id"]: r["semantic_types"] for r in records}["C0000003"] == "T017; T024"


def test_gold_labels_of_a_file_are_columns(tmp_path):
    gold = tmp_path / "gold.csv"
    gold.write_text("record_id,gold_label,split\nC0000001,yes,train\nC0000009,no,test\nC0000004,no,test\n")
    columns = ["record_id", "gold_label", "split"]
    records, _, counts = read(write(tmp_path / "META"), columns, gold=str(gold))
    assert {"record_id": "C0000001", "gold_label": "yes", "split": "train"} in records
    assert {"record_id": "C0000002", "gold_label": None, "split": "all"} in records
    assert counts["num_gold_of_concepts_left_out"] == 1


def test_a_concept_with_two_gold_labels_is_refused(tmp_path):
    (tmp_path / "gold.csv").write_text("record_id,gold_label,split\nC0000001,yes,train\nC0000001,no,train\n")
    with pytest.raises(InputError, match=r"corpus\.umls\.gold: .*gold\.csv gives C0000001 two labels"):
        read(write(tmp_path / "META"), gold=str(tmp_path / "gold.csv"))


def test_the_order_of_rows_does_not_matter(tmp_path):
    tables = [list(rows) for rows in (sample.MRCONSO, sample.MRSTY, sample.MRREL)]
    for rows in tables:
        random.Random(1).shuffle(rows)
    assert texts(write(tmp_path, *tables)) == sample.TEXTS


@pytest.mark.parametrize("block_bytes", [1, 61, 1000])
@pytest.mark.parametrize("num_threads", [1, 4])
def test_where_blocks_end_does_not_matter(tmp_path, monkeypatch, block_bytes, num_threads):
    monkeypatch.setattr(rrf, "BLOCK_BYTES", block_bytes)
    assert texts(write(tmp_path), num_threads=num_threads) == sample.TEXTS


def test_concepts_of_many_ranges_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(umls, "CODES_PER_RANGE", 2)
    assert list(texts(write(tmp_path)).items()) == list(sample.TEXTS.items())


FAULTS = [
    ("MRCONSO", 3, b"C0000001|ENG|P|L1", "wrong_number_of_fields"),
    ("MRCONSO", 5, sample.MRCONSO[0].encode() + b"more|", "wrong_number_of_fields"),
    ("MRCONSO", 1, sample.MRCONSO[0][:-1].encode(), "wrong_number_of_fields"),
    ("MRCONSO", 7, b"", "wrong_number_of_fields"),
    ("MRCONSO", 2, term("C0000001", "Br").encode().replace(b"Br", b"Br\xe9"), "bad_encoding"),
    ("MRCONSO", 20, term("C0000077", "Who?").encode(), "unknown_concept"),
    ("MRCONSO", 4, term("X0000001", "Who?").encode(), "bad_concept_id"),
    ("MRCONSO", 4, term("C00000012", "Who?").encode(), "bad_concept_id"),
    ("MRCONSO", 4, term("C000000a", "Who?").encode(), "bad_concept_id"),
    ("MRCONSO", 4, term("", "Who?").encode(), "bad_concept_id"),
    ("MRSTY", 1, b"C0000001|T023|", "wrong_number_of_fields"),
    ("MRSTY", 12, semantic_type("C0000078", "T023").encode(), "unknown_concept"),
    ("MRSTY", 2, semantic_type("C", "T023").encode(), "bad_concept_id"),
    ("MRREL", 3, relation("C0000001", "CHD", "C0000079").encode(), "unknown_concept"),
    ("MRREL", 3, relation("C0000079", "CHD", "C0000001").encode(), "unknown_concept"),
    ("MRREL", 9, relation("C0000001", "CHD", "C2|").encode(), "wrong_number_of_fields"),
    ("MRREL", 9, relation("C0000001", "CHD", "D0000001").encode(), "bad_concept_id"),
    ("MRREL", 1, relation("C0000001", "\xff", "C0000005").encode("latin-1"), "bad_encoding"),
]


@pytest.mark.parametrize(("table", "line", "row", "reason"), FAULTS)
def test_a_malformed_row_is_kept_aside_with_file_and_line_and_changes_no_text(tmp_path, table, line, row, reason):
    tables = {name: [*getattr(sample, name)] for name in ("MRCONSO", "MRSTY", "MRREL")}
    tables[table].insert(line - 1, row)
    folder = write(tmp_path, *tables.values())
    records, malformed, _ = read(folder)
    assert {record["record_id"]: record["text"] for record in records} == sample.TEXTS
    (bad,) = malformed
    assert bad["source"] == f"file://{folder}/{table}.RRF"
    assert (bad["line"], bad["text"], bad["reject_reason"]) == (line, row.decode(errors="replace"), reason)


def test_all_malformed_rows_at_once_are_each_reported_once_on_their_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(rrf, "BLOCK_BYTES", 150)
    tables = {name: [*getattr(sample, name)] for name in ("MRCONSO", "MRSTY", "MRREL")}
    for table, _, row, _ in FAULTS:
        tables[table].append(row)
    folder = write(tmp_path, *tables.values())
    _, malformed, _ = read(folder)
    assert len(malformed) == len(FAULTS)
    for bad in malformed:
        table = re.search(r"(\w+)\.RRF$", bad["source"]).group(1)
        row = tables[table][bad["line"] - 1]
        expected = {reason for name, _, fault, reason in FAULTS if (name, fault) == (table, row)}
        assert bad["reject_reason"] in expected


def test_a_recipe_without_the_column_of_the_ids_is_refused(tmp_path):
    corpus = sample.corpus(write(tmp_path)).model_copy(update={"columns": sample.Columns()})
    with pytest.raises(InputError, match=r"corpus\.columns\.record_id: is missing"):
        umls.find(corpus)


def test_an_unknown_column_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"no column 'name'.*'semantic_types'"):
        read(write(tmp_path), ["record_id", "name"])


def plain_python(mrconso, mrsty, mrrel):
    """The paper's rules, row by row."""
    conso, sty, rel = ([line.split("|") for line in lines] for lines in (mrconso, mrsty, mrrel))
    rules = umls.UmlsRecipe()
    english = {row[0] for row in conso if row[1] in rules.languages}
    typed = english & {row[0] for row in sty if row[1] in rules.semantic_types}
    pairs = [(r[0], r[4]) for r in rel if r[3] == "CHD" and r[0] != r[4] and r[0] in typed and r[4] in typed]
    kept = {concept for pair in pairs for concept in pair}
    found = {}
    for concept in kept:
        synonyms = {
            row[14].replace("&#x7C;", "|").replace("&#x7c;", "|").lower()
            for row in conso
            if row[0] == concept and row[1] == "ENG" and row[12] not in rules.excluded_term_types and row[14].strip()
        }
        found[concept] = "; ".join(sorted(sorted(synonyms), key=len))
    return found


CONCEPTS = st.sampled_from([f"C{number:07d}" for number in (0, 1, 9, 131071, 131072, 9999999)])
WORDS = st.text(st.sampled_from("aAbB ;éÉΣσςİıßЖ\u2028\x85\x0b0&\"'\\"), max_size=6) | st.just("x&#x7C;Y&#x7c;")
TERMS = st.builds(
    term, CONCEPTS, WORDS, st.sampled_from(["ENG", "ENG", "SPA"]), st.sampled_from(["PT", "AB", "A"]), st.just("N")
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(TERMS, max_size=30),
    st.lists(st.builds(semantic_type, CONCEPTS, st.sampled_from(["T023", "T017", "T02", "T100"])), max_size=12),
    st.lists(st.builds(relation, CONCEPTS, st.sampled_from(["CHD", "CHD", "PAR", "CH"]), CONCEPTS), max_size=12),
)
def test_random_releases_give_what_plain_python_makes_of_them(tmp_path_factory, mrconso, mrsty, mrrel):
    # Every concept has a type and a term, so that no row is malformed.
    every = [f"C{number:07d}" for number in (0, 1, 9, 131071, 131072, 9999999)]
    mrsty = [*mrsty, *(semantic_type(concept, "T200") for concept in every)]
    mrconso = [*mrconso, *(term(concept, "x", "GER") for concept in every)]
    folder = write(tmp_path_factory.mktemp("umls"), mrconso, mrsty, mrrel)
    assert texts(folder) == plain_python(mrconso, mrsty, mrrel)
