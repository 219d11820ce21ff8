"""BARGAIN's own package (Zeighami et al. 2025, arXiv 2509.02896; PyPI ``bargain``) on stored scores and answers.

``BARGAIN_A`` is its entry point with an accuracy target: a proxy's labels are kept above a threshold, all other records
and those sampled on the way are the oracle's. Its proxy and oracle ask a model through threads, one record at a time;
here they look up what is stored and count alike: a record decided by the oracle is one call.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.guarantee import Promise
from tests.benchmarks.replays.undecided import Outcome, Undecided


def load_package(folder: Path | None) -> tuple[Any, str]:
    """The module, or None and why not."""
    if folder is None or not folder.is_dir():
        return (
            None,
            f"BARGAIN is skipped: no package in {folder} (pip install --no-deps --target FOLDER bargain==0.1.3)",
        )
    sys.path.insert(0, str(folder))
    try:
        import BARGAIN  # type: ignore[import-not-found]
    except ImportError as error:
        return None, f"BARGAIN is skipped: {error}"
    return BARGAIN, ""


def bargain(module: Any, records: Undecided, promise: Promise, seed: int) -> Outcome:
    """One run; its target is the share of the undecided records that keeps the promise for all."""

    class StoredProxy(module.Proxy):  # type: ignore[misc, name-defined]
        def get_preds_and_scores(self, indxs: Any, data_records: Any) -> tuple[NDArray, NDArray]:
            return np.zeros(len(indxs), int), records.score[indxs]

    class StoredOracle(module.Oracle):  # type: ignore[misc, name-defined]
        def is_answer_correct(self, data_indxs: Any, data_records: Any, proxy_output_at_indxs: Any) -> NDArray:
            sampled.update(data_indxs.tolist())
            return ~records.wrong[data_indxs]

        def get_pred(self, data_records: Any, indxs: Any = None) -> NDArray:
            return np.ones(len(data_records), int)

    sampled: set[int] = set()
    rule = module.BARGAIN_A(
        StoredProxy(verbose=False), StoredOracle(verbose=False), target=records.target_of(promise),
        delta=promise.level, verbose=False, seed=seed,
    )  # fmt: skip
    _, is_oracles = rule.process(np.arange(len(records.score)), return_oracle_usage=True)
    decided, chosen = np.flatnonzero(is_oracles), np.array(sorted(sampled), dtype=np.int64)
    num_wrong = int(records.wrong.sum() - records.wrong[decided].sum())
    num_sampled = len(np.unique(records.question[chosen]))
    num_questions = len(np.unique(records.question[np.union1d(decided, chosen)]))
    return Outcome(1 - num_wrong / records.num_records, num_sampled, num_questions - num_sampled)
