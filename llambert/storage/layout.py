"""``layout.json``: which version of the layout a run's directory has, and who made it."""

from pydantic import BaseModel, ValidationError

from llambert import __version__
from llambert.errors import InputError

LAYOUT_VERSION = 2
"""Of a run's directory. Raise it when this version cannot resume what the last one wrote."""
LAYOUT = "layout.json"


class _Layout(BaseModel):
    """The content of the file."""

    layout: int
    made_by: str


_WITHOUT_FILE = _Layout(layout=1, made_by="an earlier llambert")


def written_layout() -> str:
    """What this version writes."""
    return _Layout(layout=LAYOUT_VERSION, made_by=f"llambert {__version__}").model_dump_json()


def check_layout(uri: str, text: str | None, has_recipe: bool) -> None:
    """``InputError`` if the run at ``uri`` has another layout, or ``text``, of its file, does not say which."""
    try:
        layout = _Layout.model_validate_json(text) if text is not None else _WITHOUT_FILE
    except ValidationError as error:
        raise InputError(
            f"storage: {uri}/{LAYOUT} is damaged: it does not say which layout the run has; "
            f"restore the file ({written_layout()}, if this version made the run) or choose another storage"
        ) from error
    if layout.layout != LAYOUT_VERSION and (text is not None or has_recipe):
        raise InputError(
            f"storage: the run in {uri} was made by {layout.made_by} (layout {layout.layout}), which "
            f"llambert {__version__} (layout {LAYOUT_VERSION}) cannot read; choose another storage"
            + ("" if text else f" (if its {LAYOUT} was lost, restore it: {written_layout()})")
        )
