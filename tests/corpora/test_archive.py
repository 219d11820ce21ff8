"""An archive gives all of its members or one line: damage to any bit of a header never makes it end early."""

import bz2
import gzip
import io
import lzma
import random
import tarfile

import pytest

from llambert.corpora.archive import read_archive
from llambert.corpora.rows import HIDDEN_FILES, Counted, Malformed
from llambert.errors import InputError

BLOCK = tarfile.BLOCKSIZE
END = b"\0" * 2 * BLOCK
LONG = "long/" + "x" * 150 + ".txt"


def tar(*names: str, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive of files, each with its name as content, and its end mark alone behind them."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(name), 1_700_000_000, "somebody"
            archive.addfile(info, io.BytesIO(name.encode(errors="surrogateescape")))
        end = archive.offset
    return sink.getvalue()[:end] + END


def read(folder, content: bytes, name: str = "a.tar"):
    (folder / name).write_bytes(content)
    return list(read_archive(str(folder / name), 1000))


def headers(content: bytes) -> list[int]:
    """Where the header blocks of a plain archive begin."""
    return [
        place for place in range(0, len(content) - len(END), BLOCK) if content[place + 257 : place + 262] == b"ustar"
    ]


def check_flips(folder, form: int, num: int | None = None) -> None:
    content = tar("a.txt", "b.txt", "c.txt", form=form)
    every = [(start, bit) for start in headers(content) for bit in range(8 * BLOCK)]
    whole = read(folder, content)
    assert [name for name, _ in whole] == ["a.txt", "b.txt", "c.txt"]
    chosen, num_refused = every if num is None else random.Random(0).sample(every, num), 0
    for start, bit in chosen:
        damaged = bytearray(content)
        damaged[start + bit // 8] ^= 1 << bit % 8
        try:
            assert read(folder, bytes(damaged)) == whole, f"bit {bit} of the header at {start}"
        except InputError as error:
            assert "cannot be read as a tar archive" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            num_refused += 1
    assert num_refused > 0.9 * len(chosen)


FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("form", FORMS)
def test_a_flipped_bit_of_a_header_is_the_same_members_or_one_line(tmp_path, form):
    check_flips(tmp_path, form, num=400)


@pytest.mark.slow
def test_every_flipped_bit_of_every_header_is_the_same_members_or_one_line(tmp_path):
    check_flips(tmp_path, tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_flipped_bits_anywhere_in_an_archive_with_long_names_never_lose_a_member(tmp_path, form):
    content = tar("a.txt", LONG, "ü.txt", "z.txt", form=form)
    bits = random.Random(1).sample(range(8 * (len(content) - len(END))), 800)
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert len(read(tmp_path, bytes(damaged))) == 4, f"bit {bit}"
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    content = tar("a.txt", "b.txt")
    for end in [*range(0, len(content) - len(END), 64), len(content) - len(END) + 100]:
        with pytest.raises(InputError, match="cannot be read as a tar archive"):
            read(tmp_path, content[:end])


def test_one_block_of_zeros_is_an_end_and_more_of_them_are_padding(tmp_path):
    content = tar("a.txt")
    assert read(tmp_path, content[:-BLOCK]) == read(tmp_path, content) == read(tmp_path, content + b"\0" * 20_000)


@pytest.mark.parametrize("behind", [b"x", tar("b.txt"), b"\0" * 30_000 + b"x", b"\0" * 9 + b"x"])
def test_anything_behind_the_end_mark_is_refused(tmp_path, behind):
    with pytest.raises(InputError, match="behind the archive's end mark"):
        read(tmp_path, tar("a.txt") + behind)


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_flipped_bits_of_a_compressed_archive_are_refused_or_change_nothing(tmp_path, ending, pack):
    packed = pack(tar("a.txt", "b.txt", "c.txt"))
    whole = read(tmp_path, packed, f"a.tar.{ending}")
    for bit in random.Random(2).sample(range(8 * len(packed)), 300):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert read(tmp_path, bytes(damaged), f"a.tar.{ending}") == whole
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_hidden_members_are_skipped_links_are_malformed_and_folders_are_nothing(tmp_path):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, kind in [
            ("./pos", tarfile.DIRTYPE),
            (".", tarfile.LNKTYPE),
            ("./pos/.ipynb_checkpoints/1_9.txt", tarfile.REGTYPE),
            ("./pos/._1_9.txt", tarfile.REGTYPE),
            ("./pos/2_9.txt", tarfile.SYMTYPE),
            ("./pos/3_9.txt", tarfile.LNKTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    found = read(tmp_path, sink.getvalue())
    assert [content for _, content in found[1:3]] == [Counted(HIDDEN_FILES)] * 2
    assert [content.reason for _, content in found if isinstance(content, Malformed)] == ["not_a_file"] * 3


def test_a_members_name_need_not_be_utf_8(tmp_path):
    [(name, content)] = read(tmp_path, tar("caf\udce9.txt"))
    assert (name, content) == ("caf\udce9.txt", b"caf\xe9.txt")
