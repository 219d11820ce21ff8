r"""A record a file: columns record_id (its path below the corpus' folder), text and folder (the one it lies in).

In a path that is not UTF-8 the bytes that are not are escaped: ``caf\xE9.txt``.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from llambert import schema
from llambert.corpora.encodings import codec_of, decode, other_encoding
from llambert.corpora.opening import COMPRESSIONS, open_bytes
from llambert.corpora.rows import Malformed, Row, RowFault, Rows, SourceFile, Sources, batched, require_columns
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.printable import escaped
from llambert.recipe import digest
from llambert.storage.locations import is_local, open_location
from llambert.storage.reference import FoundFiles, find_files

COLUMNS = [schema.RECORD_ID, schema.TEXT, "folder"]
FILES_PER_UNIT = 1000  # on average
_BYTES_PER_UNIT = 64 << 20
_REMOTE_READERS = 32
_HEAD_BYTES = 4096


def find(corpus: CorpusRecipe) -> Sources:
    """All visible files of a folder or a glob, some hundred a unit."""
    found = find_files(corpus.path)
    return Sources(units_of(found, found.files, corpus.format), found.num_hidden)


def units_of(found: FoundFiles, names: Iterable[str], format_name: str) -> list[SourceFile]:
    """Some of the files that were found as units, each of consecutive files, in the order given.

    ``_begins_unit`` says at which files a unit begins; its key is that of its first file. So adding or removing a file
    moves no other file to another unit, unless a unit begins at it.
    """
    uri = found.filesystem.unstrip_protocol(found.folder or "/")
    units: list[SourceFile] = []
    first, members, num_bytes = "", list[str](), 0
    for name in names:
        inside, size = found.inside(name), found.files[name]["size"] or 0
        if _begins_unit(inside, size):
            if members:
                units.append(SourceFile(digest(first), uri, format_name, num_bytes, members, name=first))
            first, members, num_bytes = inside, [], 0
        members.append(inside)
        num_bytes += size
    return [*units, SourceFile(digest(first), uri, format_name, num_bytes, members, name=first)]


def _begins_unit(inside: str, num_bytes: int) -> bool:
    """Decided by a hash of the path, regardless of other files; the larger the file, the likelier."""
    number = int.from_bytes(blake2b(os.fsencode(inside), digest_size=8).digest(), "big")
    return number / 2**64 < 1 / FILES_PER_UNIT + num_bytes / _BYTES_PER_UNIT


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """A row for each file; a file that cannot be read is malformed."""
    require_columns(columns, COLUMNS, source.uri)
    return batched(_rows(source, corpus, columns), columns)


def _rows(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Row | Malformed]:
    for member, content in read_members(source, corpus):
        if isinstance(content, Malformed):
            yield content
            continue
        codec, num_mark = codec_of(content[:_HEAD_BYTES], corpus.encoding)
        if not num_mark and other_encoding(content[:_HEAD_BYTES], codec):
            shown = content[:_HEAD_BYTES].decode("ascii", errors="surrogateescape").replace("\0", "\udc80")
            yield Malformed(None, shown, RowFault.OTHER_ENCODING, f"{source.uri}/{member}")
            continue
        text, name = decode(content, corpus.encoding), escaped(member)
        values = dict(zip(COLUMNS, (name, text, name.rpartition("/")[0].rpartition("/")[2]), strict=True))
        yield [values[column] for column in columns]


def read_members(source: SourceFile, corpus: CorpusRecipe) -> Iterator[tuple[str, bytes | Malformed]]:
    """The unit's files in order, each with as much of its content as ``max_text_chars`` can need."""
    filesystem, root = open_location(source.uri)
    # UTF-8 takes four bytes a character at most, an encoding with shift sequences eight.
    limit = (4 if corpus.encoding is None else 8) * (corpus.max_text_chars + 1)

    def content(member: str) -> bytes | Malformed:
        path = f"{root.rstrip('/')}/{member}"
        try:
            if is_here and not path.endswith(tuple(COMPRESSIONS)):
                with Path(path).open("rb") as stream:
                    return stream.read(limit)
            with open_bytes(filesystem.unstrip_protocol(path)) as stream:
                return stream.read(limit)
        except (OSError, InputError) as error:
            return Malformed(None, str(error), RowFault.UNREADABLE_FILE, filesystem.unstrip_protocol(path))

    is_here = is_local(filesystem)
    if is_here:
        yield from ((member, content(member)) for member in source.members)
        return
    with ThreadPoolExecutor(_REMOTE_READERS) as readers:
        for start in range(0, len(source.members), 4 * _REMOTE_READERS):
            members = source.members[start : start + 4 * _REMOTE_READERS]
            yield from zip(members, readers.map(content, members), strict=True)
