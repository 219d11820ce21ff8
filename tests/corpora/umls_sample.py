"""A UMLS release of nine concepts, small enough to be worked out by hand, and what the paper's rules make of it."""

from pathlib import Path

from llambert.corpus_recipe import Columns, CorpusRecipe, UmlsRecipe


def term(concept, text, language="ENG", term_type="PT", suppress="N"):
    return f"{concept}|{language}|P|L1|PF|S1|Y|A1||M1|D1|MSH|{term_type}|D1|{text}|0|{suppress}|256|"


def semantic_type(concept, identifier):
    return f"{concept}|{identifier}|A1.2|Some Type|AT1|256|"


def relation(first, kind, second):
    return f"{first}|A1|SCUI|{kind}|{second}|A2|SCUI|isa|R1||MSH|MSH|||N||"


MRCONSO = [
    # C0000001: kept. Sorted by length, then alphabetically; what differs in case alone is one synonym.
    term("C0000001", "Brain"),
    term("C0000001", "BRAIN", term_type="SY"),
    term("C0000001", "encephalon"),
    term("C0000001", "NA"),  # a term like any other, not a missing value
    term("C0000001", "Cerveau", language="FRE"),  # excluded: language
    term("C0000001", "BR", term_type="AB"),  # excluded: abbreviation
    term("C0000001", "Alter", suppress="O"),  # suppressed: the paper keeps it
    term("C0000001", "zebra"),  # as long as "brain": alphabetically behind it
    term("C0000001", ""),  # no term at all
    # C0000002: kept, child of 1. The escaped bar; quotes are characters; accents are lower-cased too.
    term("C0000002", "Lobe &#x7C; Left"),
    term("C0000002", '"Lobe'),
    term("C0000002", "Élan"),
    # C0000003: of two types, one of them wanted; child of 2.
    term("C0000003", "gyrus; gyri"),
    # C0000004: excluded, of an unwanted type, although it is a child of 1.
    term("C0000004", "Aspirin"),
    # C0000005: excluded, isolated: its relation is no CHD, its CHD is to itself, or to one that is not kept.
    term("C0000005", "Ear"),
    # C0000006: excluded, no English term, although it is a child of 1.
    term("C0000006", "Nez", language="FRE"),
    # C0000007: all its terms are abbreviations: a concept, but without text.
    term("C0000007", "CNS", term_type="ACR"),
    # C0000008: kept through 7 alone, as in the paper's script: 7 is a concept.
    term("C0000008", "Spine"),
    # C0000009: kept, the parent's side of a relation.
    term("C0000009", "Head"),
]
MRSTY = [
    *(semantic_type(f"C000000{number}", "T023") for number in (1, 2, 5, 6, 7, 8, 9)),
    semantic_type("C0000003", "T024"),
    semantic_type("C0000003", "T999"),
    semantic_type("C0000003", "T017"),
    semantic_type("C0000004", "T121"),
]
MRREL = [
    relation("C0000001", "CHD", "C0000002"),
    relation("C0000002", "CHD", "C0000003"),
    relation("C0000002", "CHD", "C0000003"),  # twice, from two sources
    relation("C0000001", "CHD", "C0000004"),
    relation("C0000001", "CHD", "C0000006"),
    relation("C0000005", "CHD", "C0000005"),
    relation("C0000005", "RO", "C0000001"),
    relation("C0000004", "CHD", "C0000005"),
    relation("C0000005", "CHD", "C0000006"),
    relation("C0000007", "CHD", "C0000008"),
    relation("C0000009", "CHD", "C0000001"),
]
TEXTS = {
    "C0000001": "na; alter; brain; zebra; encephalon",
    "C0000002": 'élan; "lobe; lobe | left',
    "C0000003": "gyrus; gyri",
    "C0000007": "",
    "C0000008": "spine",
    "C0000009": "head",
}
EDGES = {("C0000001", "C0000002"), ("C0000002", "C0000003"), ("C0000007", "C0000008"), ("C0000009", "C0000001")}


def write(folder: Path, mrconso=MRCONSO, mrsty=MRSTY, mrrel=MRREL) -> Path:
    """The three files, of lines without their ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("MRCONSO", mrconso), ("MRSTY", mrsty), ("MRREL", mrrel)):
        rows = [line if isinstance(line, bytes) else line.encode() for line in lines]
        (folder / f"{name}.RRF").write_bytes(b"".join(row + b"\n" for row in rows))
    return folder


def corpus(folder: Path, **rules) -> CorpusRecipe:
    """The corpus section for a folder."""
    columns = Columns(record_id="record_id")
    return CorpusRecipe(path=str(folder), format="umls", columns=columns, umls=UmlsRecipe(**rules))
