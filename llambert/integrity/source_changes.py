"""Whether the source of a run's corpus has changed since the run read it."""

from llambert.corpora.contents import changed_files, read_contents
from llambert.errors import InputError
from llambert.run import Run


def source_note(run: Run) -> str:
    """What is new in the source, in words; empty if nothing is, or if no start has read it yet. No file is opened that
    was hashed before."""
    read = run.last_read()
    if read is run:
        return ""
    try:
        contents = read_contents(run.recipe.corpus)
    except InputError as error:
        return f"the source cannot be read now: {error}"
    if contents.generation == read.generation:
        return ""
    last = read.table("corpus").last_manifest()
    files = changed_files(run.recipe.corpus, contents, last.sources) if last else None
    changes = f": {files.of_files}" if files else ""
    return f"the source has changed since it was read{changes}; the next start reads what is new"
