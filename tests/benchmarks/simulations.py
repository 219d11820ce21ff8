"""The command line of benchmarks that simulate how often something holds, in parts."""

import argparse
import sys
from collections.abc import Callable, Mapping

import numpy as np


def run_parts(
    description: str, parts: Mapping[str, Callable[[int, np.random.Generator], bool]], repetitions: int
) -> None:
    """Run each of ``parts``, or the one asked for, with ``repetitions`` samples a setting and a generator of its own.

    A part prints its table and says whether its limits hold. Exit status 1 where one is exceeded by more than chance.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repetitions", type=int, default=repetitions, help="samples a setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=parts, help="one of the parts")
    options = parser.parse_args()
    held = [
        report(options.repetitions, np.random.default_rng(options.seed))
        for name, report in parts.items()
        if options.only in (None, name)
    ]
    print("\nevery limit holds" if all(held) else "\na limit is exceeded")
    sys.exit(0 if all(held) else 1)
