"""Whether the answers of people that a run has saved are whole."""

from collections.abc import Iterator, Mapping

from llambert.annotation.peoples_answers import names_answers
from llambert.errors import InputError
from llambert.integrity.finding import Finding, FindingKind, Location
from llambert.integrity.part_checks import check_part, fault
from llambert.run import Run
from llambert.storage.manifest import Manifest
from llambert.storage.part_file import is_part
from llambert.storage.run_directory import TableDirectory
from llambert.tables import TableSpec

_MADE_OF_ANSWERS = ("certificate", "deferred", "decisions", "decisions_by_label")


def check_peoples_answers(run: Run, spec: TableSpec, manifests: Mapping[str, Manifest]) -> Iterator[Finding]:
    """All faults of the table ``people``: each of its parts can be read, and its name is that of its content.

    Nothing can make damaged answers again: what the guarantee made of them is made again of those that are left.
    """
    store = run.table(spec.name)
    redo = _made_of(run, manifests)
    for name in sorted(store.file_names()):
        if any(step.startswith(".") for step in name.split("/")):
            continue
        if not is_part(name) or "/" in name:
            problem = "a file that holds no answers of people"
            yield Finding(FindingKind.UNEXPECTED_PART, spec.name, name, problem)
            continue
        for kind, problem in _problems(run, store, name):
            said = f"{problem}; its answers are lost unless the files that they came in are imported again"
            yield Finding(kind, spec.name, name, said, ((spec.name, name), *redo))


def _problems(run: Run, store: TableDirectory, name: str) -> list[tuple[FindingKind, str]]:
    try:
        if problems := check_part(store, store.committed_part(name), False, run.task.category_names).problems:
            return problems
        rows = store.read_part(name)
    except InputError as error:
        return [(FindingKind.UNREADABLE, fault(error))]
    if not names_answers(name, rows):
        return [(FindingKind.ALTERED, "its name is not that of the answers in it")]
    return []


def _made_of(run: Run, manifests: Mapping[str, Manifest]) -> tuple[Location, ...]:
    """The parts of the complete tables that people's answers decided."""
    if run.recipe.guarantee is None or run.recipe.guarantee.oracle != "people":
        return ()
    return tuple(
        (table, part.name) for table in _MADE_OF_ANSWERS if table in manifests for part in manifests[table].parts
    )
