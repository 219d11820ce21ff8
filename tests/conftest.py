"""What every test starts from: no hub, no telemetry, and workers of Ray that can import the test modules."""

import os
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", RAY_USAGE_STATS_ENABLED="0")
_MODULES = tempfile.TemporaryDirectory(prefix="llambert-test-modules-")  # where transformers copies models' own code
os.environ["HF_MODULES_CACHE"] = _MODULES.name
_FOLDERS = [_HERE, *(folder for folder in sorted(_HERE.iterdir()) if folder.is_dir())]
os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, _FOLDERS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
