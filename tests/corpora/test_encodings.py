"""Text in other encodings than UTF-8: read by the recipe's word, guessed for the error where it says none."""

import bz2
import gzip
import json

import pytest

from llambert.corpora import find_sources, read_rows
from llambert.corpora.checks import require_decodable
from llambert.corpora.encodings import codec_of, decode, is_undecodable, likely_encodings, other_encoding
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError

TEXTS = {
    "gb18030": ["孩子们很喜欢这本书", "可惜结尾太长了，没有意思"],
    "big5": ["孩子們很喜歡這本書", "可惜結尾太長了，沒有意思"],
    "shift_jis": ["子どもたちはこの本が大好きです", "結末は少し長すぎました"],
    "euc_jp": ["子どもたちはこの本が大好きです", "結末は少し長すぎました"],
    "cp949": ["아이들이 이 책을 아주 좋아합니다", "결말은 조금 길었어요"],
    "cp1251": ["Детям очень понравилась эта книга", "Конец немного затянут"],
    "koi8_r": ["Детям очень понравилась эта книга", "Конец немного затянут"],
    "cp1253": ["Στα παιδιά άρεσε πολύ το βιβλίο", "Το τέλος ήταν μεγάλο"],
    "cp1255": ["הילדים אהבו מאוד את הספר"],
    "cp1256": ["أحب الأطفال هذا الكتاب كثيرا"],
    "cp874": ["เด็กๆ ชอบหนังสือเล่มนี้มาก"],
    "cp1252": ["Les élèves ont adoré ce livre", "La fin traîne, hélas", "“trop long”"],
    "cp1250": ["A gyerekek nagyon szerették ezt a könyvet", "dłuższe zakończenie byłoby gorsze"],
}


def test_a_few_chinese_words_are_not_taken_for_korean():
    assert likely_encodings("很好看没有意思".encode("gbk"))[0] == "gb18030"


@pytest.mark.parametrize("encoding", TEXTS)
def test_the_encoding_of_a_few_lines_is_among_the_likely_ones(encoding):
    sample = "\n".join(TEXTS[encoding]).encode(encoding)
    assert encoding in likely_encodings(sample)
    if encoding not in ("cp1255",):  # a few Hebrew letters are Cyrillic ones too
        assert likely_encodings(sample)[0] == encoding


@pytest.mark.parametrize(("encoding", "expected"), [("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")])
def test_zeros_say_which_byte_order(encoding, expected):
    assert likely_encodings("id,text\n1,fine\n".encode(encoding)) == [expected]


@pytest.mark.parametrize(
    ("start", "encoding", "codec"),
    [
        (b"a", None, ("utf-8", 0)),
        (b"\xef\xbb\xbfa", "gb18030", ("utf-8", 3)),
        (b"\xff\xfea\0", None, ("utf-16-le", 2)),
        (b"\xfe\xff\0a", "utf-16", ("utf-16-be", 2)),
        (b"\xff\xfe\0\0a\0\0\0", None, ("utf-32-le", 4)),
        (b"\0a\0b", "utf-16", ("utf-16-be", 0)),
        (b"a\0b\0", "UTF16", ("utf-16-le", 0)),
        (b"a", "utf-8-sig", ("utf-8", 0)),
        ("\ufeffa".encode("gb18030"), "gbk", ("gbk", 0)),
        ("\ufeffa".encode("gb18030"), "gb18030", ("gb18030", 4)),
    ],
)
def test_a_byte_order_mark_says_more_than_the_recipe(start, encoding, codec):
    assert codec_of(start, encoding) == codec


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "gb18030", "ascii", "cp1252"])
def test_bytes_that_are_no_characters_are_seen_in_every_encoding(encoding):
    broken = {"utf-16": b"a\0\x00\xd8b\0", "utf-16-le": b"a\0\x00\xd8b\0", "cp1252": b"a\x81b"}.get(encoding, b"a\xffb")
    assert is_undecodable(decode(broken, encoding))
    assert not is_undecodable(decode("ab".encode(encoding), encoding))


def read(path, columns, **recipe):
    corpus = CorpusRecipe(path=str(path), **recipe)
    [source] = find_sources(corpus).units
    return [row for rows in read_rows(source, corpus, columns) for row in rows.records.to_pylist()]


ROWS = [{"id": "1", "text": "孩子们很喜欢\n这本书"}, {"id": "2", "text": '可惜"结尾"太长了, 没有'}]
CSV = 'id,text\r\n1,"孩子们很喜欢\n这本书"\r\n2,"可惜""结尾""太长了, 没有"\r\n'
FILES = {
    "x.csv": CSV,
    "x.tsv": CSV.replace(",text", "\ttext").replace("1,", "1\t").replace("2,", "2\t"),
    "x.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
}
ENCODED = [
    ("gbk", "gbk"),
    ("gb18030", "gb18030"),
    ("utf-16", "utf-16"),  # with a mark
    ("utf-16", "utf-16-le"),
    ("utf-16", "utf-16-be"),
    ("utf-16-be", "utf-16-be"),
    (None, "utf-16"),
    (None, "utf-32"),
    ("utf-32", "utf-32"),
    ("gbk", "utf-16"),  # a mark says more
    (None, "utf-8-sig"),
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("named", "written"), ENCODED)
def test_every_format_is_read_in_the_encoding_of_the_recipe_or_of_its_mark(tmp_path, name, named, written):
    (tmp_path / name).write_bytes(FILES[name].encode(written))
    assert read(tmp_path / name, ["id", "text"], encoding=named) == ROWS


@pytest.mark.parametrize("encoding", ["shift_jis", "euc_jp", "iso2022_jp", "utf-16", "cp932"])
def test_lines_of_text_are_read_in_other_encodings_compressed_too(tmp_path, encoding):
    lines = ["表は大きい", "ソ連の本", "結末"]  # 表 and ソ end in a backslash in Shift JIS
    content = "\n".join(lines).encode(encoding)
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(content))
    (tmp_path / "y.txt.bz2").write_bytes(bz2.compress(content))
    for name in ("x.txt.gz", "y.txt.bz2"):
        assert [row["text"] for row in read(tmp_path / name, ["text"], encoding=encoding)] == lines
    rows = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "z.jsonl").write_bytes(rows.encode(encoding))
    assert [row["text"] for row in read(tmp_path / "z.jsonl", ["text"], encoding=encoding)] == lines


@pytest.mark.parametrize(("encoding", "max_text_chars"), [("gb18030", 100), ("utf-16", 100), ("iso2022_jp", 3)])
def test_a_file_that_is_a_record_is_read_in_other_encodings(tmp_path, encoding, max_text_chars):
    (tmp_path / "a.md").write_bytes("本a本a本".encode(encoding))
    corpus = {"format": "text_files", "encoding": encoding, "max_text_chars": max_text_chars}
    [row] = read(tmp_path, ["text"], **corpus)
    assert row["text"].startswith("本a本a")
    assert not is_undecodable(row["text"])


def test_a_file_without_a_mark_and_an_encoding_is_named_for_what_it_is(tmp_path):
    (tmp_path / "x.csv").write_bytes("id,text\n1,fine\n".encode("utf-16-be"))
    with pytest.raises(InputError, match=r"x\.csv: is not UTF-8 text; .* probably utf-16-be: set corpus\.encoding"):
        read(tmp_path / "x.csv", ["text"])


def test_a_header_in_another_encoding_is_named_for_what_it_is(tmp_path):
    (tmp_path / "x.csv").write_bytes("编号,文本\n1,好\n".encode("gbk"))
    with pytest.raises(InputError, match=r"no column '文本'; it has .* not text in the expected encoding: set corpus"):
        read(tmp_path / "x.csv", ["文本"])
    assert read(tmp_path / "x.csv", ["文本"], encoding="gbk") == [{"文本": "好"}]


CYRILLIC, DEVANAGARI, CHINESE = (
    "Достопримечательностями",
    "\u0939\u0928\u0926\u0916" * 9,
    "这部电影非常好看我很喜欢" * 3,
)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["It never comes alive, not once.", CYRILLIC, DEVANAGARI, CHINESE, "1 这部电影"])
def test_a_text_of_wide_characters_is_what_the_recipe_says(text, codec):
    assert other_encoding(text.encode(codec), codec) is None


@pytest.mark.parametrize("codec", ["utf-8", "cp1252", "gb18030", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("written", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_zeros_contradict_the_recipe(codec, written):
    expected = None if codec == written else written
    assert other_encoding("It never comes alive.\n".encode(written), codec) == expected


@pytest.mark.parametrize("codec", ["cp1252", "gb18030", "shift_jis", "utf-16-le", "utf-32-be"])
def test_utf_8_contradicts_a_recipe_that_says_otherwise(codec):
    start = "Les élèves ont adoré ce livre, hélas trop épais, très long et même répété".encode()
    assert other_encoding(start, codec) == "utf-8"
    assert other_encoding(start + b"\xc3", codec) == "utf-8"  # cut within a character


@pytest.mark.parametrize("encoding", TEXTS)
def test_a_text_in_the_encoding_of_the_recipe_contradicts_nothing(encoding):
    assert other_encoding("\n".join(TEXTS[encoding]).encode(encoding), encoding) is None


def test_escape_sequences_of_iso_2022_are_no_utf_8():
    start = "子どもたち".encode("iso2022_jp")
    assert other_encoding(start, "utf-8") == "iso2022_jp"
    assert other_encoding(start, "iso2022_jp") is None


@pytest.mark.parametrize(
    ("written", "named", "likely"),
    [("utf-16-le", None, "utf-16-le"), ("utf-32-be", None, "utf-32-be"), ("utf-16-be", "utf-16-le", "utf-16-be")],
)
def test_files_of_wide_ascii_characters_without_a_mark_are_not_taken_for_text(tmp_path, written, named, likely):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_bytes(f"It never comes alive {number}".encode(written))
    corpus = CorpusRecipe(path=str(tmp_path), format="text_files", encoding=named)
    sources = find_sources(corpus).units
    rows = [rows for source in sources for rows in read_rows(source, corpus, ["text"])]
    assert sum(len(one.records) for one in rows) == 0
    assert [reason for one in rows for reason in one.malformed["reject_reason"].to_pylist()] == ["other_encoding"] * 3
    with pytest.raises(InputError, match=f"3 of the corpus' 3 rows are not text .* probably {likely}"):
        require_decodable({"num_undecodable": 3, "num_read": 3}, corpus, sources)


def test_a_utf_8_file_among_those_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\n孩子们很喜欢这本书\n".encode("gb18030"))
    (tmp_path / "b.csv").write_text("text\n可惜结尾太长了，没有意思\n", encoding="utf-8")
    corpus = CorpusRecipe(path=str(tmp_path), encoding="gb18030")
    with pytest.raises(InputError, match=r"b\.csv: is not GB18030 text; .* probably utf-8: remove corpus\.encoding"):
        [rows for source in find_sources(corpus).units for rows in read_rows(source, corpus, ["text"])]
