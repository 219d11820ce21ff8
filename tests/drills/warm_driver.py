"""What a driver imports before it works; the server that drivers are forked from imports it once."""

import openai  # noqa: F401
import ray.data
import ray.train.torch  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401

import llambert.cli
import llambert.pipeline  # noqa: F401
from tests.drills import fault_injection  # noqa: F401  # what the drill's own file imports: a forked process imports that again
