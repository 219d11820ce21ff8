"""The steps of a Docker file in a clean Debian, without Docker; then commands as the image's user.

    python -m tests.drills.image cluster/Dockerfile --root /tmp/root --run 'python -c "import llambert"'

Reads the file's own ARG, ENV, WORKDIR, COPY, RUN and USER. The base image is imitated: Debian bookworm by debootstrap,
with Debian's Python 3.11 as a virtual environment in /usr/local, where the official image has its Python. Needs root,
debootstrap and unshare, and changes nothing outside ROOT; a ROOT that exists is continued in, a step that ran is not
run again.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
INCLUDED = "ca-certificates,python3-venv,python3-dev"
PASSED_ON = ("PIP_", "HTTP", "http", "NO_PROXY", "no_proxy")  # how this machine reaches its package registry


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) in order; a backslash joins lines, comments are dropped."""
    text = re.sub(r"(?m)^#.*\n", "", dockerfile.read_text())
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def substituted(text: str, variables: dict[str, str]) -> str:
    """Docker's ${NAME} and $NAME."""
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: variables.get(match[1] or match[2], ""), text)


class CleanRoot:
    """A Debian below ``folder``; ``bound``: folders of this machine that its commands may read."""

    def __init__(self, folder: Path, bound: list[Path]):
        self.folder, self.bound = folder, bound
        if not (folder / "etc/debian_version").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", "bookworm", folder], check=True
            )
            self.run("python3 -m venv --copies /usr/local", {}, "/", "0")
        shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")

    def run(self, command: str, environment: dict[str, str], workdir: str, user: str) -> int:
        """The command's exit status; it runs with processes and mounts of its own, which end with it."""
        mounts = f"mount --rbind /dev {self.folder}/dev && "
        for path in self.bound:
            mounts += f"mkdir -p {self.folder}{path} && mount -o bind,ro {path} {self.folder}{path} && "
        inner = f"{mounts} mount -t proc proc {self.folder}/proc && exec chroot --userspec={user}:{user} {self.folder} "
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        script = f"mkdir -p {workdir}; cd {workdir} && {command}"
        return subprocess.run(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                inner + '/bin/sh -c "$1"',
                "sh",
                script,
            ],
            env={"PATH": path} | passed | environment,
            check=False,
        ).returncode

    def copy(self, sources: list[str], target: str, workdir: str) -> None:
        """As COPY does: into a folder that ends in a slash, else to that name."""
        for source in sources:
            into = self.folder / Path(workdir, target).as_posix().lstrip("/")
            if target.endswith("/"):
                into = into / Path(source).name
            into.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (REPOSITORY / source).is_dir() else shutil.copy
            copy(REPOSITORY / source, into, **({"dirs_exist_ok": True} if copy is shutil.copytree else {}))


def main() -> int:
    """0 if every step and every command succeeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument(
        "--bind", type=Path, action="append", default=[], help="A folder that the steps need, as it is."
    )
    parser.add_argument("--skip", default="$^", help="Steps not to run: a regular expression. They are listed.")
    parser.add_argument("--run", action="append", default=[], help="A command after the steps, as the image's user.")
    arguments = parser.parse_args()
    root = CleanRoot(arguments.root.resolve(), arguments.bind)
    log = arguments.root / "steps.json"
    ran = json.loads(log.read_text()) if log.is_file() else []
    variables: dict[str, str] = {}
    environment: dict[str, str] = {}
    workdir, user = "/", "0"
    for word, text in instructions(arguments.dockerfile):
        if word == "ARG":
            variables[text.split("=")[0]] = text.split("=", 1)[1]
        elif word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in substituted(text, variables).split())
        elif word == "WORKDIR":
            workdir = text
        elif word == "USER":
            user = substituted(text, variables)
        elif word == "COPY":
            *sources, target = text.split()
            root.copy(sources, target, workdir)
        elif word == "RUN" and re.search(arguments.skip, text):
            print(f"SKIPPED {text}", flush=True)
        elif word == "RUN" and text not in ran:
            print(f"RUN {text}", flush=True)
            if root.run(text, variables | environment, workdir, user):
                print(f"FAILED {text}", file=sys.stderr)
                return 1
            log.write_text(json.dumps(ran := [*ran, text]))
    for command in arguments.run:
        print(f"AS {user}: {command}", flush=True)
        if root.run(command, environment, environment["HOME"], user):
            print(f"FAILED {command}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
