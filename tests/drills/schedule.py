"""Which faults are injected into a run, and when: drawn by a seed, printed as one line and parsed from it."""

import random
import re
from dataclasses import dataclass

STAGES = ("ingest", "annotate", "finetune", "label")
_LINE = re.compile(r"^(\w+)\+([\d.]+) ([a-z0-9 ]+?)(?: for ([\d.]+))?$")

# Fault -> for how many seconds, at peak_nodes, where it lasts; None: it is done once.
FAULTS: dict[str, float | None] = {
    "kill driver": None,
    "stop driver": 3.0,
    "kill actor": None,
    "stop actor": 3.0,
    "kill node": None,
    "stop raylet": 2.0,
    "kill head": None,
    "stop gcs": 2.0,
    "kill s3": 2.0,
    "stop s3": 3.0,
    "slow network": 3.0,
    "broken connections": 2.0,
    "busy store": 2.0,
    "full disk": 2.0,
    "clock jump": None,
    "corrupt part": None,
    "delete part": None,
    "truncate manifest": None,
    "two drivers": None,
}
DAMAGE = ("corrupt part", "delete part", "truncate manifest")


@dataclass(frozen=True)
class Fault:
    """``kind`` happens ``after_s`` seconds into ``stage``, and lasts ``for_s`` seconds."""

    stage: str
    after_s: float
    kind: str
    for_s: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.for_s:g}" if self.for_s else ""
        return f"{self.stage}+{self.after_s:g} {self.kind}{lasting}"


def parse(text: str) -> list[Fault]:
    """The schedule written as its faults, joined by semicolons; ``ValueError`` names what is not a fault."""
    faults = []
    for line in text.split(";"):
        match = _LINE.match(line.strip())
        if not match or match[1] not in STAGES or match[3] not in FAULTS:
            raise ValueError(f"{line.strip()!r} is no fault: STAGE+SECONDS KIND [for SECONDS], of {', '.join(FAULTS)}")
        faults.append(Fault(match[1], float(match[2]), match[3], float(match[4] or 0)))
    return faults


def draw(seed: int, number: int, only: str | None = None) -> list[Fault]:
    """The ``number``-th drill's schedule: each kind comes first in turn, and every third drill has a second fault."""
    rng = random.Random(f"{seed}-{number}")
    kinds = list(FAULTS)
    random.Random(f"{seed}-{number // len(kinds)}").shuffle(kinds)
    chosen = [only or kinds[number % len(kinds)]]
    if rng.random() < 1 / 3:
        chosen.append(only or rng.choice(kinds))
    stages = sorted(rng.choices(STAGES, k=len(chosen)), key=STAGES.index)
    faults = []
    for stage, kind in zip(stages, chosen, strict=True):
        longest = FAULTS[kind]
        lasting = round(rng.uniform(0.3, longest), 2) if longest else 0.0
        faults.append(Fault(stage, round(rng.uniform(0, 1.5), 2), kind, lasting))
    return faults
