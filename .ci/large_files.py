"""`python .ci/large_files.py FILE ...` refuses large files: models, wheels and data do not belong in the repository."""

import sys
from pathlib import Path

MAX_BYTES = 300_000  # the largest file, tests/verbalizer/answers.jsonl, has 251,000


def main(names: list[str]) -> int:
    """Print each file that is too large; the exit status."""
    sizes = {name: Path(name).stat().st_size for name in names}
    large = {name: size for name, size in sizes.items() if size > MAX_BYTES}
    for name, size in large.items():
        print(f"{name}: {size:,} bytes; a file in the repository has at most {MAX_BYTES:,}")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
