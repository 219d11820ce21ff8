"""What a corpus' source holds now: as a whole, the ``generation`` of the corpus, and unit by unit.

The content of a unit is that of its own files: a file that is added, removed or changed leaves every other unit as it
is. Where the files that decide a unit's rows cannot be told apart it is that of the whole source: of a UMLS
release, a data set of the hub (its commit), or one that ``save_to_disk`` wrote.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from llambert.corpora import umls
from llambert.corpora.rows import SourceFile, Sources
from llambert.corpus_recipe import CorpusRecipe
from llambert.printable import escaped
from llambert.recipe import digest
from llambert.storage.manifest import Growth, SourceUnit
from llambert.storage.reference import content_identity, file_identities, find_files, is_hub_name

_UNITS_OF_FILES = ("text_files", "imdb", "huggingface", "umls")  # formats


@dataclass(frozen=True)
class Contents:
    """``generation``: a hash of the files that are read, and no others. ``files``: path within the corpus -> hash."""

    generation: str
    files: dict[str, str] = field(default_factory=dict)


def read_contents(corpus: CorpusRecipe) -> Contents:
    """What the source of a corpus holds now; hashes of large local files are cached."""
    if corpus.format == "umls":  # a release has tens of gigabytes that are not read
        return Contents(digest(*map(content_identity, umls.uris(corpus))))
    if corpus.format == "huggingface" and is_hub_name(corpus.path):
        return Contents(digest(content_identity(corpus.path, corpus.huggingface.revision, repo_type="dataset")))
    # Hidden files in a data set's folder can decide how the others are read.
    files = file_identities(find_files(corpus.path, hidden=corpus.format == "huggingface"))
    return Contents(digest(sorted(files.items())), files)


def generation(corpus: CorpusRecipe) -> str:
    """A hash of what the source of a corpus holds now."""
    return read_contents(corpus).generation


def with_contents(sources: Sources, contents: Contents) -> Sources:
    """The units, each with its ``content``."""
    units = sources.units
    # The other files of a data set, such as its card, can decide how its data are read.
    beside: list[tuple[str, str]] = []
    if units[0].format == "huggingface":
        named = {unit.name for unit in units}
        beside = sorted((name, hashed) for name, hashed in contents.files.items() if name not in named)

    def content(unit: SourceFile) -> str:
        names = [unit.name] if unit.format == "huggingface" else [*(unit.members or [unit.name])]
        if not all(name in contents.files for name in names):
            return digest(contents.generation)
        return digest([(name, contents.files[name]) for name in names], beside)

    return replace(sources, units=[replace(unit, content=content(unit)) for unit in units])


def changed_files(corpus: CorpusRecipe, contents: Contents, known: Iterable[SourceUnit]) -> Growth | None:
    """Which files are new, changed or removed since a corpus was read from ``known``, without opening one.

    None where a unit is made of several files, or of none.
    """
    if corpus.format in _UNITS_OF_FILES:
        return None
    before = {unit.name: unit.content for unit in known}
    now = {escaped(name): digest([(name, hashed)], []) for name, hashed in contents.files.items()}
    return compared_files(before, now) if before else None


def compared_files(before: dict[str, str], now: dict[str, str]) -> Growth:
    """Numbers of files new, changed and so on, by their contents before and now."""
    both = before.keys() & now.keys()
    num_same = sum(before[name] == now[name] for name in both)
    return Growth(
        since="",
        num_files_new=len(now.keys() - before.keys()),
        num_files_changed=len(both) - num_same,
        num_files_removed=len(before.keys() - now.keys()),
        num_files_same=num_same,
    )
