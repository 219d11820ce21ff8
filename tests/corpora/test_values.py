"""Values of any type become text exactly, or the corpus is refused: two IDs never become one."""

import datetime
import decimal
import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.corpora import find_sources, read_rows
from llambert.corpora.values import parse_object, text_of
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.errors import InputError

UUIDS = [uuid.UUID(int=5), uuid.UUID("3f0e7c1a-89ab-4cde-8123-456789abcdef")]
NOON = datetime.datetime(2024, 2, 29, 12, 0, 0, 1)


def read(path, roles):
    corpus = CorpusRecipe(path=str(path), columns=roles)
    [source] = find_sources(corpus).units
    return list(read_rows(source, corpus, ["v", "text"]))


def values(path, roles):
    return [value for rows in read(path, roles) for value in rows.records["v"].to_pylist()]


def parquet(folder, array):
    path = folder / "x.parquet"
    pq.write_table(pa.table({"v": array, "text": ["t"] * len(array)}), path)
    return path


EXACT = [
    ("uuid", pa.array([one.bytes for one in UUIDS], pa.uuid()), [str(one) for one in UUIDS]),
    ("uuid in a dictionary", pa.array([one.bytes for one in UUIDS], pa.binary(16)), [one.hex for one in UUIDS]),
    ("codes of a fixed size", pa.array([b"AB1", b"AB2"], pa.binary(3)), ["AB1", "AB2"]),
    ("hashes", pa.array([b"\0\1\2", b"\xff\xfe\xfd"], pa.binary(3)), ["000102", "fffefd"]),
    ("bytes that are text", pa.array([b"a", "ő".encode()]), ["a", "ő"]),
    ("binary view", pa.array([b"a"], pa.binary_view()), ["a"]),
    ("large string", pa.array(["ő"], pa.large_string()), ["ő"]),
    ("string view", pa.array(["ő"], pa.string_view()), ["ő"]),
    ("unsigned", pa.array([2**64 - 1, 2**53 + 1], pa.uint64()), ["18446744073709551615", "9007199254740993"]),
    ("signed", pa.array([-(2**63), 2**53 + 1], pa.int64()), ["-9223372036854775808", "9007199254740993"]),
    ("decimal", pa.array([decimal.Decimal("1.50"), decimal.Decimal("0.00000001")], pa.decimal128(20, 8)),
     ["1.50000000", "0.00000001"]),
    ("large decimal", pa.array([decimal.Decimal(10**37)], pa.decimal128(38, 0)), ["1" + "0" * 37]),
    ("larger decimal", pa.array([decimal.Decimal(10**59 + 1)], pa.decimal256(60, 0)), ["1" + "0" * 58 + "1"]),
    ("date", pa.array([NOON.date()]), ["2024-02-29"]),
    ("timestamp", pa.array([NOON]), ["2024-02-29 12:00:00.000001"]),
    ("nanoseconds", pa.array([1577836800000000001], pa.timestamp("ns")), ["2020-01-01 00:00:00.000000001"]),
    ("time of day", pa.array([datetime.time(1, 2, 3)]), ["01:02:03.000000"]),
    ("truth values", pa.array([True, False]), ["true", "false"]),
    ("floats that are integers", pa.array([1.0, -0.0, 1.2e15, 2.0**53 - 1]),
     ["1", "0", "1200000000000000", str(2**53 - 1)]),
    ("floats", pa.array([1.5, 0.1, 0.1 + 0.2, 1e-7]), ["1.5", "0.1", "0.30000000000000004", "1e-7"]),
    ("single precision", pa.array([1.0, 123456.0, 0.1], pa.float32()), ["1", "123456", "0.1"]),
    ("half precision", pa.array([1.0, 2047.0], pa.float16()), ["1", "2047"]),
    ("nulls", pa.array([None, 1], pa.int64()), [None, "1"]),
    ("not a number", pa.array([float("nan"), 2.0]), [None, "2"]),
    ("dictionary of integers", pa.array([7, 8]).dictionary_encode(), ["7", "8"]),
    ("JSON", pa.array(['{"a": 1}'], pa.json_()), ['{"a": 1}']),
]  # fmt: skip


@pytest.mark.parametrize("role", ["record_id", "keep"])
@pytest.mark.parametrize(("array", "expected"), [case[1:] for case in EXACT], ids=[case[0] for case in EXACT])
def test_a_column_of_any_type_is_an_exact_id_and_an_exact_kept_column(tmp_path, role, array, expected):
    roles = Columns(record_id="v") if role == "record_id" else Columns(keep=("v",))
    assert values(parquet(tmp_path, array), roles) == expected


def test_a_dictionary_of_uuids_is_read_like_uuids(tmp_path):
    indices = pa.array([1, 0, None], pa.int32())
    array = pa.DictionaryArray.from_arrays(indices, pa.array([one.bytes for one in UUIDS], pa.binary(16)))
    assert values(parquet(tmp_path, array), Columns(record_id="v")) == [UUIDS[1].hex, UUIDS[0].hex, None]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([[1], [2]]), "a record ID must be a single value"),
        (pa.array([{"a": 1}]), "a record ID must be a single value"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "a record ID must be a single value"),
        (pa.array([1.0, 2.0**53 + 2]), "floating-point numbers too large to be exact, for example 9007199254740994.0"),
        (pa.array([float(2**53 + 1)]), "floating-point numbers too large"),  # which is stored as 2**53
        (pa.array([2**24 + 1], pa.int64()).cast(pa.float32(), safe=False), "floating-point numbers too large"),
        (pa.array([float("inf")]), "floating-point numbers too large"),
        (pa.array([2.0**24 + 2], pa.float32()), "floating-point numbers too large"),
        (pa.array([b"a", b"\xff"]), "bytes that are not UTF-8 text"),
    ],
)
def test_what_cannot_identify_is_refused_as_an_id_in_one_line(tmp_path, array, message):
    path = parquet(tmp_path, array)
    with pytest.raises(InputError, match=message) as caught:
        values(path, Columns(record_id="v"))
    assert "column 'v'" in str(caught.value)
    assert "x.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_are_refused_as_a_kept_column_and_marked_in_a_text(tmp_path):
    path = parquet(tmp_path, pa.array([b"a", b"\xff"]))
    with pytest.raises(InputError, match="bytes that are not UTF-8 text"):
        values(path, Columns(keep=("v",)))
    [rows] = read(path, Columns(text="v"))
    assert rows.records["v"].to_pylist() == ["a", "\ufffd"]
    assert rows.counts["num_undecodable"] == 1


def test_lists_and_large_floats_may_be_kept(tmp_path):
    assert values(parquet(tmp_path, pa.array([[1, 2]])), Columns(keep=("v",))) == ["[1, 2]"]
    assert values(parquet(tmp_path, pa.array([1e300])), Columns(keep=("v",))) == ["1e+300"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("9007199254740993", "9007199254740993"),
        ("1.0", "1"),
        ("-0.0", "0"),
        ("1.2e15", "1200000000000000"),
        ("1.2e+15", "1200000000000000"),
        ("9007199254740993.0", "9007199254740993"),
        ("123456789012345678901234567890.0", "123456789012345678901234567890"),
        ("0.1234567890123456789", "0.1234567890123456789"),
        ("1.50", "1.50"),
        ("1e400", "1e400"),
        ("1e-400", "1e-400"),
        ('"1.0"', "1.0"),
        ("true", "true"),
        ("NaN", None),
        ("null", None),
    ],
)
def test_a_number_of_json_keeps_all_its_digits(tmp_path, written, expected):
    (tmp_path / "x.jsonl").write_text(f'{{"v": {written}, "text": "t"}}\n')
    assert values(tmp_path / "x.jsonl", Columns(record_id="v")) == [expected]


def test_a_json_id_that_is_a_list_or_object_costs_its_row(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"v": [1], "text": "t"}\n{"v": {"a": 1}}\n{"v": 2, "text": "t"}\n')
    [rows] = read(tmp_path / "x.jsonl", Columns(record_id="v"))
    assert rows.records["v"].to_pylist() == ["2"]
    assert rows.malformed["reject_reason"].to_pylist() == ["nested_record_id"] * 2
    assert rows.malformed["line"].to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"v,text\ncaf\xe9,t\nb,caf\xe9\n"),
        ("x.jsonl", b'{"v": "caf\xe9", "text": "t"}\n{"v": "b", "text": "t"}\n'),
        ("x.jsonl", b'{"v": "a\\ud800", "text": "t"}\n{"v": "b", "text": "t"}\n'),
    ],
)
def test_a_row_whose_id_would_change_is_kept_apart(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    [rows] = read(tmp_path / name, Columns(record_id="v"))
    assert rows.records["v"].to_pylist() == ["b"]
    assert rows.malformed["reject_reason"].to_pylist() == ["garbled_record_id"]


def test_structures_are_json_with_their_numbers():
    row, reason = parse_object('{"a": {"b": [1.0, 2, 0.1]}, "c": 1.0}', is_exact=True)
    assert reason is None
    assert json.loads(text_of(row["a"])) == {"b": [1.0, 2, 0.1]}
    assert text_of(row["c"]) == "1"


def test_a_page_that_differs_from_its_checksum_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"v": ["1"] * 200, "text": [f"text number {number}" for number in range(200)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"text number 77", b"text numbes 77"))
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read: .*checksum"):
        values(path, Columns())
