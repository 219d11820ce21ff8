"""What every test starts from: no hub, no telemetry, and a folder of its own for models' own code."""

import os
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", RAY_USAGE_STATS_ENABLED="0")
_MODULES = tempfile.TemporaryDirectory(prefix="llambert-test-modules-")  # where transformers copies models' own code
os.environ["HF_MODULES_CACHE"] = _MODULES.name
