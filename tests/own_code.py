"""A model folder made into one that comes with code of its own, which leaves a mark where it is run."""

import json
from pathlib import Path

CODE = """
from pathlib import Path

from transformers import {config}, {model}

Path({mark!r}).touch()


class OwnConfig({config}):
    model_type = "own"


class OwnModel({model}):
    config_class = OwnConfig
"""


def add_own_code(folder: Path, auto_class: str, model: str) -> Path:
    """Let ``auto_class`` load the folder, as transformers' ``model``, only by a file in it; returns the mark."""
    mark = folder.parent / f"{folder.name}-code-was-run"
    config = model.partition("For")[0] + "Config"
    (folder / "own_model.py").write_text(CODE.format(config=config, model=model, mark=str(mark)))
    values = json.loads((folder / "config.json").read_text())
    values |= {"model_type": "own", "auto_map": {"AutoConfig": "own_model.OwnConfig", auto_class: "own_model.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(values))
    return mark
