"""Parsing recorded Llama-2-70b responses: agreement with the reference's labels, and responses a second.

``python -m tests.benchmarks.bench_parse`` from the repository; needs the recorded responses to 25,000 IMDb
reviews (``--responses``, JSON lines with record_id, response, reference_label).
"""

import argparse
import gzip
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

from llambert.annotation.verbalizer import Verbalizer

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "imdb" / "responses_llama2_70b_train_25k.jsonl.gz"
SENTIMENT = {"positive": ["positive"], "negative": ["negative"]}
NUM_TIMED = 100_000
LIMIT_S = 2.0
MAX_WRONGLY_REJECTED = 2
# The paper's reference implementation on these responses: accuracy against gold in per cent, and unparsed.
REFERENCE_ACCURACY, REFERENCE_UNPARSED = 94.92, 9
# Answers as chat models give them; {} makes each response a different string, so that nothing is remembered.
WORDY = [
    "Negative.\n\nThe reviewer mentions {}",
    "I would classify this as positive, {}",
    "{}: the sentiment is not positive",
    "Sure! Here's my answer: negetive {}",
    "The review {} is a positive one, although it has negative moments",
    "As an AI language model I cannot say {}",
]


def main() -> None:
    """Print both sides of each claim; exit status 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=Path, default=RECORDED)
    path = parser.parse_args().responses
    if not path.is_file():
        print(f"bench_parse: skipped, {path.name} is not there")
        return
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    held = [report_agreement(rows), *report_times([row["response"] for row in rows])]
    sys.exit(0 if all(held) else 1)


def report_agreement(rows: list[dict]) -> bool:
    """Labels beside the reference's, and what that says of accuracy."""
    verbalizer = Verbalizer(SENTIMENT)
    readings = [verbalizer.read(row["response"]) for row in rows]
    pairs = [(reading, row) for reading, row in zip(readings, rows, strict=True)]
    with_label = [(reading, row) for reading, row in pairs if row["reference_label"]]
    others = [(reading, row) for reading, row in pairs if not row["reference_label"]]
    num_equal = sum(reading.category == row["reference_label"] for reading, row in with_label)
    num_rejected = sum(reading.category is None for reading, _ in others)
    print(
        f"agreement    {num_equal:,} of {len(with_label):,} with a reference label ({num_equal / len(with_label):.2%})"
    )
    print(f"the others   ours rejects {num_rejected}, the reference {len(others)}:")
    for reading, row in others:
        print(f"             {row['response']!r:55} -> {reading.category or reading.reject_reason}")
    reasons = Counter(reading.reject_reason for reading in readings if reading.reject_reason)
    print(f"unparsed     {sum(reasons.values())} of {len(rows):,} {dict(reasons)}; reference {REFERENCE_UNPARSED}")
    # The recording has no gold labels. Where the labels are the reference's, so is the number that are right; the
    # responses that only we read may add to it.
    low = REFERENCE_ACCURACY * num_equal / len(with_label)
    high = REFERENCE_ACCURACY + 100 * (len(others) - num_rejected) / len(rows)
    print(f"accuracy     {low:.2f} to {high:.2f} % of the train reviews; reference {REFERENCE_ACCURACY:.2f} %")
    return num_equal == len(with_label) and num_rejected <= MAX_WRONGLY_REJECTED


def report_times(recorded: list[str]) -> list[bool]:
    """Seconds of one core for 100,000 responses: the recorded ones, and wordy ones of which no two are the same."""
    draw = random.Random(0)
    wordy = [draw.choice(WORDY).format(draw.getrandbits(40)) for _ in range(NUM_TIMED)]
    repeated = (recorded * -(-NUM_TIMED // len(recorded)))[:NUM_TIMED]
    held = []
    for name, responses in {"recorded": repeated, "wordy": wordy}.items():
        verbalizer = Verbalizer(SENTIMENT)
        started = time.process_time()
        for response in responses:
            verbalizer.read(response)
        seconds = time.process_time() - started
        rate = f"{len(responses) / seconds:,.0f} responses/s"
        print(f"time         {seconds:.2f} s for {len(responses):,} {name} responses ({rate}); limit {LIMIT_S:.0f} s, "
              f"ratio {LIMIT_S / seconds:.1f}")  # fmt: skip
        held.append(seconds <= LIMIT_S)
    return held


if __name__ == "__main__":
    main()
