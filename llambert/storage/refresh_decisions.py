"""Which checkpoint labels each generation of a growing corpus: decided once, and kept with its reason.

``RUN/refresh/<recipe of the checkpoint>/<generation>-<classifier.refresh>``, created once: drivers that decide at the
same time agree on the first.
"""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llambert.errors import Damaged
from llambert.storage.locations import names_in
from llambert.storage.run_directory import RunDirectory

_REMEDY = "delete it and start the same command again: it is decided anew"


class Decision(BaseModel):
    """``trained_in``: the generation whose checkpoint labels ``generation``, which is the ``number``-th of the run.

    ``checkpoint``: its fingerprint; ``replaces``: that of the earlier one which does not stay. ``reason``: why.
    ``figures``: what it was decided by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    generation: str
    number: int
    trained_in: str
    checkpoint: str
    replaces: str | None = None
    reason: str
    figures: dict[str, float] = Field(default_factory=dict)

    @property
    def stays(self) -> bool:
        """Whether the checkpoint of an earlier generation goes on labelling."""
        return self.trained_in != self.generation


def find_decision(directory: RunDirectory, recipe: str, generation: str, refresh: str) -> Decision | None:
    """What was decided; None if nothing was yet."""
    return _read(directory, f"refresh/{recipe}/{generation}-{refresh}")


def all_decisions(directory: RunDirectory, recipe: str) -> list[Decision]:
    """Those of all generations, the latest first, and of one generation those that train before those that keep."""
    folder = f"refresh/{recipe}"
    names = sorted(name for name in names_in(f"{directory.uri.rstrip('/')}/{folder}") if not name.startswith("."))
    found = [decision for name in names if (decision := _read(directory, f"{folder}/{name}"))]
    return sorted(found, key=lambda decision: (-decision.number, decision.stays))


def store_decision(directory: RunDirectory, recipe: str, refresh: str, decision: Decision) -> Decision:
    """The decision, or the one that another driver has stored before."""
    directory.create(f"refresh/{recipe}/{decision.generation}-{refresh}", decision.model_dump_json(indent=1))
    return find_decision(directory, recipe, decision.generation, refresh) or decision


def _read(directory: RunDirectory, name: str) -> Decision | None:
    text = directory.find(name, _REMEDY)
    try:
        return None if text is None else Decision.model_validate_json(text)
    except ValidationError as error:
        raise Damaged(f"{directory.uri}/{name}", "it holds no decision", _REMEDY) from error
