"""Checks llambert on one GPU, without Ray, vLLM or a download: right answers first, then speed; one table.

    python -m tests.benchmarks.gpu_check                        under 8 minutes on an H100 or A100
    python -m tests.benchmarks.gpu_check --device cpu --quick   the same lines at toy sizes: tries the script

Models have random weights in the shapes of roberta-large, ModernBERT-base and SmolLM2-135M; those whose answers are
compared are trained here, or made to be in doubt. Each section is a process with a time limit: one that fails or hangs
costs its own lines only. The exit status is 1 if any line says FAILED, 2 if a package is missing.

A bare machine needs torch, transformers (2.11 and 5.17 were tried, besides the locked ones) and the packages of
``NEEDED``, which ``make gpu-check-wheels`` downloads for Python 3.12 where there is a network.
"""

import argparse
import importlib.util
import os
import sys

NEEDED = {
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "joblib": "joblib",
    "cloudpickle": "cloudpickle",
    "threadpoolctl": "threadpoolctl",
    "narwhals": "narwhals",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "yaml": "pyyaml",
    "fsspec": "fsspec",
    "torch": "torch",
    "transformers": "transformers",
}
"""Module -> the package that has it; all but the last two are what ``make gpu-check-wheels`` downloads."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes; figures of speed mean nothing then")
    parser.add_argument("--only", metavar="SECTION", action="append", help="run this section; may be repeated")
    arguments = parser.parse_args()
    if missing := [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]:
        print(
            f"gpu-check: missing packages: {', '.join(missing)}; run `make gpu-check-wheels` where there is a network, "
            f"then here: {sys.executable} -m pip install --no-index --no-deps --find-links wheels {' '.join(missing)}",
            file=sys.stderr,
        )
        return 2
    # Without it, asking whether there is a GPU (transformers does) spoils CUDA for the processes forked later.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    from tests.benchmarks.gpu_check.sections import SECTIONS, run_sections

    if unknown := sorted(set(arguments.only or ()) - set(SECTIONS)):
        parser.error(f"--only {unknown[0]}: expected one of {', '.join(SECTIONS)}")
    return run_sections(arguments.device, arguments.quick, arguments.only or list(SECTIONS))


if __name__ == "__main__":
    sys.exit(main())
