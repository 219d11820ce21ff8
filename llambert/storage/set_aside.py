"""What `llambert repair` has set aside of a run: ``RUN/set_aside/<time>/<table>/<fingerprint>/<file>``."""

from pydantic import ValidationError

from llambert.storage.locations import names_in, open_filesystem
from llambert.storage.manifest import MANIFEST, Manifest
from llambert.storage.run_directory import TableDirectory

SET_ASIDE = "set_aside"


def set_aside_manifest(table: TableDirectory) -> Manifest | None:
    """The latest manifest that was set aside of a table that grows, with what is new since the generation before.

    None if there is none of the table's generation, or if it is damaged itself.
    """
    storage, name, fingerprint = table.uri.rsplit("/", 2)
    folder = f"{storage}/{SET_ASIDE}"
    filesystem, path = open_filesystem(folder)
    for time in sorted(names_in(folder), reverse=True):
        try:
            content = filesystem.cat_file(f"{path}/{time}/{name}/{fingerprint}/{MANIFEST}")
            found = Manifest.model_validate_json(content)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValidationError):  # what is missing in the report is no reason to stop
            return None
        return found if found.generation == table.generation and found == found.sealed() else None
    return None
