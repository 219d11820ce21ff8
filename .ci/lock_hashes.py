"""`python .ci/lock_hashes.py LOCK PYLOCK`: write into LOCK the SHA-256 of every file that may be installed for a line.

PYLOCK is the same resolution as PEP 751 writes it (`uv pip compile -o pylock.NAME.toml`), which names the files. Those
of other Pythons and systems are left out: they are four in five. A package whose lock has a local build of it (torch's
`+cpu`) gets none: that build is another file on each index that has it, and `make` installs it first, on its own.
"""

import re
import sys
import tomllib
from pathlib import Path

from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

MINORS = (11, 12)
SYSTEMS = re.compile(r"any|win_amd64|(manylinux.*|linux)_(x86_64|aarch64)|macosx_.*_(arm64|x86_64|universal2)")


def main(lock: Path, pylock: Path) -> int:
    """Rewrite the lock; 1 if a package has no file that could be installed."""
    packages = tomllib.loads(pylock.read_text())["packages"]
    hashes = {(canonicalize_name(package["name"]), package["version"]): _hashes(package) for package in packages}
    text = lock.read_text().replace(" \\\n", "\n")
    local_builds = set(re.findall(r"^([A-Za-z0-9._-]+)==[^\s;+]+\+", text, re.MULTILINE))
    lines, missing = [], []
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
        if line.startswith("    --hash="):
            continue
        if match is None or match[1] in local_builds:
            lines.append(line)
            continue
        found = hashes.get((canonicalize_name(match[1]), match[2]), [])
        missing += [] if found else [match[0]]
        lines.append(" \\\n".join([line, *(f"    --hash=sha256:{one}" for one in found)]))
    if missing:
        print(f"{lock}: no file to install for {', '.join(missing)}", file=sys.stderr)
        return 1
    lock.write_text("\n".join(lines) + "\n")
    return 0


def _hashes(package: dict) -> list[str]:
    """Of the source archive and of the wheels for the project's Pythons and systems."""
    wheels = [wheel for wheel in package.get("wheels", []) if any(map(_fits, _tags(wheel)))]
    files = wheels + ([package["sdist"]] if "sdist" in package else [])
    return sorted(file["hashes"]["sha256"] for file in files)


def _tags(wheel: dict) -> frozenset[Tag]:
    return parse_wheel_filename(wheel.get("name") or wheel["url"].rpartition("/")[2])[3]


def _fits(tag: Tag) -> bool:
    interpreters = {"py3", *(f"py3{minor}" for minor in MINORS), *(f"cp3{minor}" for minor in MINORS)}
    if tag.abi == "abi3":
        interpreters |= {f"cp3{minor}" for minor in range(2, max(MINORS) + 1)}
    return tag.interpreter in interpreters and SYSTEMS.fullmatch(tag.platform) is not None


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
