"""Below which score a served label needs review: what the certificate of the served run says of its own records."""

import math
from collections.abc import Mapping
from typing import Any

from llambert.errors import InputError
from llambert.evaluation.certified import ALL, Certified
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.run import Run
from llambert.section import validate
from llambert.storage.locations import open_filesystem
from llambert.storage.manifest import MANIFEST, Manifest
from llambert.storage.run_directory import RunDirectory

ReviewThresholds = Mapping[str, float]
"""Category, or ``ALL``, -> the lowest score with which its labels are kept; infinite where none are."""


def needs_review(thresholds: ReviewThresholds, label: str, score: float) -> bool:
    """Whether the certificate would not keep this label."""
    return score < thresholds.get(label, thresholds.get(ALL, math.inf))


def of_run(run: Run, checkpoint: Manifest) -> ReviewThresholds | None:
    """Those of an opened run's certificate; None if it has none. ``InputError`` if it is of another classifier."""
    certificate = run.table("certificate").read_manifest() if run.recipe.guarantee else None
    return _thresholds(run.directory, certificate, checkpoint) if certificate else None


def of_directory(directory: RunDirectory, recipe: Mapping[str, Any], checkpoint: Manifest) -> ReviewThresholds | None:
    """As ``of_run``, of the last certificate in a run's directory that is of the guarantee in its saved ``recipe``."""
    if not recipe.get("guarantee"):
        return None
    where = f"{directory.uri}/recipe.yaml: guarantee"
    wanted = validate(GuaranteeRecipe, recipe["guarantee"], "", where).model_dump(mode="json")
    found = [each for each in _complete(directory) if each.recipe == wanted]
    return _thresholds(directory, max(found, key=lambda each: each.completed_at), checkpoint) if found else None


def _complete(directory: RunDirectory) -> list[Manifest]:
    filesystem, path = open_filesystem(f"{directory.uri.rstrip('/')}/certificate")
    folders = [str(file).split("/")[-2] for file in filesystem.glob(f"{path}/*/{MANIFEST}")]
    return [directory.table("certificate", fingerprint).require_manifest() for fingerprint in folders]


def _thresholds(directory: RunDirectory, certificate: Manifest, checkpoint: Manifest) -> ReviewThresholds:
    sample = directory.table("certification", certificate.upstream["certification"]).require_manifest()
    labels = directory.table("labels", sample.upstream["labels"]).require_manifest()
    if labels.model_identity != checkpoint.content:
        raise InputError(
            f"{directory.uri}: its certificate is of the labels of another classifier than the one in checkpoint/: "
            "`llambert run` labels and certifies with this one"
        )
    certificates = Certified.of(certificate).certificates
    return {name: math.inf if each.threshold is None else each.threshold for name, each in certificates.items()}
