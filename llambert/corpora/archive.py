"""Tar archives, compressed or not, read once from their start to their end, or refused."""

import tarfile
from collections.abc import Iterator
from typing import Self

from llambert.corpora.opening import open_bytes
from llambert.corpora.rows import HIDDEN_FILES, Counted, Malformed, RowFault
from llambert.errors import InputError, one_line
from llambert.storage.reference import is_hidden

_CHUNK_BYTES = 1 << 20
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# Of what comes before a member's own header and is held in memory: its name if that is long, and its attributes.
_MAX_EXTENSION_BYTES = 256 << 10
_MAX_EXTENSIONS = 16
_MAX_GLOBAL_KEYS = 1000


def read_archive(uri: str, limit: int) -> Iterator[tuple[str, bytes | Malformed | Counted]]:
    """The members of an archive that are files or links, by path, each with its first ``limit`` bytes.

    A hidden one is skipped, a link malformed. ``InputError`` for an archive that is damaged: a tar ends at a
    block of zeros, after which there is nothing but zeros; one that ends otherwise has lost members.
    """
    with open_bytes(uri) as stream:
        try:
            with _Archive.open(fileobj=stream, mode="r|") as archive:
                while member := archive.next():
                    archive.members = []  # tarfile keeps all of them, a kilobyte each
                    if not member.isdir():
                        yield member.name, _content(archive, member, uri, limit)
                _require_end(archive, uri)
        except tarfile.TarError as error:
            raise InputError(f"{uri}: cannot be read as a tar archive: {error}") from error


class _Member(tarfile.TarInfo):
    """A header that cannot be read is an error; ``tarfile`` itself takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The archive's next member."""
        try:
            return super().fromtarfile(archive)
        except (tarfile.EOFHeaderError, tarfile.ReadError, InputError):  # type: ignore[attr-defined]
            raise  # the end mark, as tarfile is to see it; what is said already
        except Exception as error:  # a damaged extension of a header can raise anything
            if isinstance(error, (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError)):  # type: ignore[attr-defined]
                raise tarfile.ReadError("it is cut off: it has no end mark") from error
            raise tarfile.ReadError(f"a header is damaged, at byte {archive.offset:,}: {one_line(error)}") from error

    def _proc_member(self, archive: "_Archive") -> "_Member":
        """As ``tarfile`` does, which takes any amount of memory for a name or a map of a sparse file."""
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("it holds a sparse file: unpack it and name the folder")
        archive.num_extensions = archive.num_extensions + 1 if self.type in _EXTENSIONS else 0
        if archive.num_extensions > _MAX_EXTENSIONS or len(archive.pax_headers) > _MAX_GLOBAL_KEYS:
            raise tarfile.ReadError("there are more extensions of headers than any program writes")
        if archive.num_extensions and not 0 <= self.size <= _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"a name, or the attributes of a file, of {self.size:,} bytes")
        if self.size < 0:
            raise tarfile.ReadError(f"a file of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("it holds a sparse file: unpack it and name the folder")


class _Archive(tarfile.TarFile):
    """Extensions of headers are counted from one member to the next: each is on the stack until the member is found."""

    tarinfo = _Member
    num_extensions = 0
    members: list[tarfile.TarInfo]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, uri: str, limit: int) -> bytes | Malformed | Counted:
    if is_hidden(member.name):
        return Counted(HIDDEN_FILES)
    if not member.isfile():
        return Malformed(None, member.name, RowFault.NOT_A_FILE, f"{uri}/{member.name}")
    content = archive.extractfile(member)
    assert content is not None, f"{member.name} is a file without content"
    return content.read(limit)


def _require_end(archive: tarfile.TarFile, uri: str) -> None:
    """``InputError`` unless the rest of the archive, behind its end mark, is zeros."""
    stream = archive.fileobj
    assert stream is not None, "an archive that is open has a stream"
    while chunk := stream.read(_CHUNK_BYTES):
        if chunk.strip(b"\0"):
            raise InputError(
                f"{uri}: there is something behind the archive's end mark: it is damaged, or several archives were "
                "written one after another (unpack them, or join them with tar --concatenate)"
            )
