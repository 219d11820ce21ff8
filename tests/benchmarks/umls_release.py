"""Files in the shape of a UMLS release: MRCONSO, MRSTY and MRREL, sorted by concept, with faults sown in.

Made of invented words: the UMLS licence forbids shipping a real one. Proportions follow a full release: five
terms a concept, seven of ten English, one concept of eighteen anatomical; 2.5 rows of MRREL a term is a guess.
"""

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

REGIONS = ["T017", "T021", "T022", "T023", "T024", "T025", "T026", "T029", "T030", "T031", "T125", "T192"]
_OTHER_TYPES = [f"T{number:03d}" for number in range(32, 124)]
_TERM_TYPES = ["PT", "SY", "FN", "PN", "LLT", "MH", "ET", "IS", "PTN", "OP", "AB", "MTH_ACR", "SS", "OAM", "DEV"]
_LANGUAGES = ["ENG"] * 14 + ["SPA", "FRE", "GER", "JPN", "POR", "CZE"]
_ROWS_PER_WRITE = 400_000
_TERMS_PER_CONCEPT, _RELATIONS_PER_TERM = 5, 2.5
_FAULT_SHARE = 0.00005  # of the rows of each file, for each kind of fault


@dataclass
class Release:
    """What was written: rows by file, bytes, and the faults sown in, by file and reason."""

    folder: Path
    num_rows: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    num_faults: dict[tuple[str, str], int] = field(default_factory=dict)


def write_release(folder: Path, num_terms: int, seed: int = 0) -> Release:
    """Write a release of so many MRCONSO rows, not counting the faults; the same for the same arguments."""
    random = np.random.default_rng(seed)
    num_concepts = max(num_terms // _TERMS_PER_CONCEPT, 20)
    # Not C9……, which the faults' unknown concepts are.
    concepts = np.sort(random.choice(9_000_000, num_concepts, replace=False))
    release = Release(folder)
    _write(release, "MRSTY", num_concepts, random, lambda start, end: _types(concepts[start:end], random))
    more = random.integers(num_concepts, size=num_terms - num_concepts)
    owners = concepts[np.sort(np.concatenate([np.arange(num_concepts), more]))]
    words = _words(random)
    _write(release, "MRCONSO", num_terms, random, lambda start, end: _terms(owners[start:end], words, random))
    num_relations = int(num_terms * _RELATIONS_PER_TERM)
    _write(release, "MRREL", num_relations, random, lambda start, end: _relations(concepts, end - start, random))
    return release


def _write(release: Release, table: str, num_rows: int, random: np.random.Generator, rows) -> None:
    path = release.folder / f"{table}.RRF"
    written = 0
    with path.open("wb") as file:
        for start in range(0, num_rows, _ROWS_PER_WRITE):
            lines = rows(start, min(start + _ROWS_PER_WRITE, num_rows)).cast(pa.large_binary())
            for reason, faults in _faults(table, lines, random).items():
                key = (table, reason)
                release.num_faults[key] = release.num_faults.get(key, 0) + len(faults)
                places = random.integers(len(lines), size=len(faults))
                order = np.argsort(np.concatenate([np.arange(len(lines)), places]), kind="stable")
                lines = pa.concat_arrays([lines, pa.array(faults, pa.large_binary())]).take(pa.array(order))
            written += len(lines)
            offsets = np.frombuffer(lines.buffers()[1], np.int64)
            file.write(memoryview(lines.buffers()[2])[offsets[0] : offsets[len(lines)]])
    release.num_rows[table] = written
    release.num_bytes += path.stat().st_size


def _faults(table: str, lines: pa.Array, random: np.random.Generator) -> dict[str, list[bytes]]:
    """Sound rows made unsound; short ones lose their term: ``read_csv`` cannot tell missing from empty."""
    num = max(int(len(lines) * _FAULT_SHARE), 1)

    def some() -> list[list[bytes]]:
        return [line.split(b"|") for line in lines.take(pa.array(random.integers(len(lines), size=num))).to_pylist()]

    concept = 4 if table == "MRREL" else 0
    first_unknown = {"MRCONSO": 9_000_000, "MRSTY": 9_300_000, "MRREL": 9_600_000}[table]
    unknown = some()
    for fields, number in zip(unknown, first_unknown + random.integers(300_000, size=num), strict=True):
        fields[concept] = b"C%07d" % number
    broken = some()
    for fields in broken:
        fields[-5] = b"\xff\xfe broken \xc3"
    joined = {
        "wrong_field_count": [
            fields[: 2 + n % 4] if n % 2 else [*fields[:1], b"", *fields[1:]] for n, fields in enumerate(some())
        ],
        "bad_encoding": broken,
        "bad_concept_id": [[b"D" + fields[0][1:], *fields[1:]] for fields in some()],
        "unknown_concept": unknown,
    }
    return {reason: [b"|".join(fields).rstrip(b"\n") + b"\n" for fields in rows] for reason, rows in joined.items()}


def _lines(*columns: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*columns, "\n", "|")


def _numbered(prefix: str, numbers: np.ndarray, width: int = 7) -> pa.Array:
    digits = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _picked(values: list[str], size: int, random: np.random.Generator) -> pa.Array:
    return pa.array(values).take(pa.array(random.integers(len(values), size=size)))


def _types(concepts: np.ndarray, random: np.random.Generator) -> pa.Array:
    size = len(concepts)
    is_region = pa.array(concepts // 20_000 % 18 == 0)  # in stretches: most relations stay within a kind
    types = pc.if_else(is_region, _picked(REGIONS, size, random), _picked(_OTHER_TYPES, size, random))
    ids = _numbered("AT", random.integers(10**8, size=size), 8)
    return _lines(_numbered("C", concepts), types, "A1.2.3.1", "Body Part, Organ, or Organ Component", ids, "256")


def _words(random: np.random.Generator) -> list[str]:
    syllables = ["ce", "re", "bel", "lum", "cor", "tex", "neu", "ro", "gli", "a", "os", "te", "my", "lin", "gan", "on"]
    words = {"".join(random.choice(syllables, random.integers(2, 5))) for _ in range(4000)}
    some = ["of", "left", "NOS", "(disorder)", "Sjögren", "β-cell", '"quoted"', "a&#x7C;b", "NA", "null"]
    return [*sorted(words), *some]


def _terms(owners: np.ndarray, words: list[str], random: np.random.Generator) -> pa.Array:
    size = len(owners)
    vocabulary = pa.array(words + [word.capitalize() for word in words] + [word.upper() for word in words[:500]])
    places = (np.arange(6)[:, None] < random.integers(1, 7, size=size)) * random.integers(
        len(vocabulary), size=(6, size)
    )
    # The first words of a concept follow from its number, so that synonyms share them and some are the same.
    places[0] = owners * 7 % len(vocabulary)
    parts = [pc.if_else(pa.array(place == 0), "", vocabulary.take(pa.array(place))) for place in places]
    text = pc.utf8_trim_whitespace(pc.replace_substring(pc.binary_join_element_wise(*parts, " "), "  ", " "))
    numbers = random.integers(10**7, size=size)
    atoms, lexical, strings = (_numbered(prefix, numbers, 8) for prefix in ("A", "L", "S"))
    sources = _picked(["SNOMEDCT_US", "MSH", "FMA", "NCI", "MDR", "UWDA"], size, random)
    languages, term_types = _picked(_LANGUAGES, size, random), _picked(_TERM_TYPES, size, random)
    suppressed = _picked(["N"] * 17 + ["O", "O", "Y"], size, random)
    return _lines(
        _numbered("C", owners), languages, "P", lexical, "PF", strings, "Y", atoms, "", "M0000001", "D000001",
        sources, term_types, "D000001", text, "0", suppressed, "256",
    )  # fmt: skip


def _relations(concepts: np.ndarray, size: int, random: np.random.Generator) -> pa.Array:
    first = random.integers(len(concepts), size=size)
    near = np.clip(first + random.integers(-40, 40, size=size), 0, len(concepts) - 1)
    kinds = _picked(["CHD", "PAR", "SIB", "SIB", "RO", "RO", "RO", "RO", "RN", "RB", "SY", "RQ"], size, random)
    atoms, ids = (
        _numbered("A", random.integers(10**7, size=size), 8),
        _numbered("R", random.integers(10**8, size=size), 9),
    )
    sources = _picked(["SNOMEDCT_US", "MSH", "FMA", "NCI"], size, random)
    ends = [_numbered("C", concepts[places]) for places in (first, near)]
    return _lines(
        ends[0], atoms, "SCUI", kinds, ends[1], atoms, "SCUI", "inverse_isa", ids, "", sources, sources, "", "", "N", ""
    )


def compress(path: Path, num_pieces: int = 1) -> None:
    """Replace a table by its gzip file, or by pieces of its stream (``.aa.gz``, ``.ab.gz``, …) cut anywhere."""
    content = path.read_bytes()
    path.unlink()
    size = -(-len(content) // num_pieces)
    for piece in range(num_pieces):
        ending = "" if num_pieces == 1 else f".a{chr(97 + piece)}"
        path.with_name(f"{path.name}{ending}.gz").write_bytes(
            gzip.compress(content[piece * size : (piece + 1) * size], 1)
        )
