"""The final label of each record, who decided it, and what is guaranteed of them all."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.annotation.responses import answers_version, is_transient, iter_answers
from llambert.evaluation.certified import ALL, ESCALATES, NUM_UNUSABLE, Certified
from llambert.evaluation.evidence import learned_texts
from llambert.evaluation.guarantee import achieved_share
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.stage_progress import PartByPartProgress
from llambert.hashing import hash64
from llambert.recipe import digest
from llambert.run import Run
from llambert.stages.escalate.decisions_card import decisions_card
from llambert.stages.escalate.deferred import LOWEST_LEFT_OUT, forgotten_texts
from llambert.stages.response_parser import RESPONSE_COLUMNS, ResponseParser
from llambert.stages.undecided import Hashes, codes_of, contains, labelled_part
from llambert.storage.manifest import Manifest, total
from llambert.storage.versioned_parts import remove_other_versions, unversioned, versioned

ANSWERS_MADE_OF = "decisions_made_of"
Labels = Sequence[str | None]


@dataclass(frozen=True)
class Answered:
    """Texts that an oracle was asked about, by ascending hash; picklable, it travels to every worker."""

    texts: Hashes
    codes: NDArray[np.int16]
    """Of each text its category."""
    by_person: NDArray[np.bool_]
    """Whether a person has decided it; otherwise the annotator has."""
    unusable: Hashes
    """Texts that count as decided and have no answer that names a category, ascending: their records keep the
    classifier's label."""

    @classmethod
    def of(cls, found: Sequence[tuple[Hashes, Labels, bool]], categories: list[str]) -> "Answered":
        """``found``: texts, their labels or None, and whether people gave them; of two labels the first one counts."""
        texts = np.concatenate([np.zeros(0, np.uint64), *(each[0] for each in found)])
        labels = pa.chunked_array([pa.array(each[1], pa.string()) for each in found], pa.string())
        by_person = np.concatenate([np.zeros(0, bool), *(np.full(len(each[0]), each[2]) for each in found)])
        is_usable = np.asarray(pc.is_valid(labels))
        usable, first = np.unique(texts[is_usable], return_index=True)
        codes = codes_of(labels.drop_null(), categories)[first].astype(np.int16)
        return cls(usable, codes, by_person[is_usable][first], np.setdiff1d(texts[~is_usable], usable))


def decide(run: Run, executor: Executor, certificate: Manifest, certified: Certified, deferred: Manifest) -> Manifest:
    """Write ``decisions``, a part for each part of ``labels``, and say in its manifest what is guaranteed.

    Its counts: ``by_<who>``, ``num_unusable`` records whose answer names no category, and ``num_undecided`` records
    below the threshold without an answer. Its measure ``share_bound`` is the share of records that have the oracle's
    label, at least, with the guarantee's confidence. Unusable answers count against it, and where people are the oracle
    all labels of the annotator do, however good they are.
    """
    table, labels = run.table("decisions"), run.table("labels").require_manifest()
    is_asked = is_escalated(certificate, deferred)
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    version = _version(run, is_asked)
    complete = table.read_manifest()
    if complete and complete.upstream.get(ANSWERS_MADE_OF) == version:
        remove_other_versions(table, version, lambda: _version(run, is_asked) == version)
        return complete
    answered = _answered(run, people, is_asked)
    upstream = [part.model_copy(update={"name": versioned(part.name, version)}) for part in labels.parts]
    progress = PartByPartProgress("escalate", table, upstream)
    recipe = run.recipe.label
    pool = Pool(recipe.min_actors, recipe.max_actors, recipe.cpus_per_actor)
    parts = progress.run_parts(executor, DecidePart, (run, certified, answered), pool)
    counts = total(parts)
    made = run.complete(
        "decisions",
        parts,
        upstream={ANSWERS_MADE_OF: version, **_deferred_upstream(run, is_asked)},
        counts=dict(counts),
        measures=_reached(run, certified, deferred, is_asked, counts),
        card=lambda decisions: decisions_card(run, decisions, certificate),
        **progress.seconds,
    )
    remove_other_versions(table, version, lambda: _version(run, is_asked) == version)
    return made


def is_escalated(certificate: Manifest, deferred: Manifest) -> bool:
    """Whether deferred records are asked of the annotator."""
    return bool(certificate.counts[ESCALATES] and deferred.num_kept)


def _version(run: Run, is_asked: bool) -> str:
    """Stands for all that decides whose label each record gets."""
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    made_of = [run.table(name).require_manifest() for name in ("labels", "certificate", "deferred")]
    names = ["responses", *(["escalated"] if is_asked else [])]
    asked = [answers_version(run.table(name).read_manifest()) for name in names]
    return digest(*(manifest.content for manifest in made_of), people.version, *asked)


def _deferred_upstream(run: Run, is_asked: bool) -> dict[str, str]:
    """The tables that the decisions rest on because of what the certificate says -> their fingerprints."""
    return {name: run.fingerprints[name] for name in ("deferred", *(["escalated"] if is_asked else []))}


def _answered(run: Run, people: PeoplesAnswers, is_asked: bool) -> Answered:
    assert run.recipe.guarantee is not None
    found: list[tuple[Hashes, Labels, bool]] = []
    is_annotator = run.recipe.guarantee.oracle == "annotator"
    if not is_annotator:
        hashes = np.array(sorted(people.said), np.uint64)
        found.append((hashes, people.find(hashes)[0], True))
        found += [(*gold, True) for gold in _gold_of_training(run)]
    parser = ResponseParser(run)
    asked = ["responses", "certification_responses"] if is_annotator else []
    for responses in [*asked, *(["escalated"] if is_asked else [])]:
        texts = run.tables[responses].texts
        for _, rows in iter_answers(run.table, [schema.TEXT, *RESPONSE_COLUMNS], responses, texts):
            if responses == "escalated":  # without an answer they are undecided, which the bound takes into account
                rows = rows.filter(pc.invert(is_transient(rows)))
            found.append((hash64(rows[schema.TEXT]), parser.labels(rows)[0], False))
    forgotten = forgotten_texts(run)  # the population takes them for decided: where they are not asked, they are not
    found.append((forgotten, [None] * len(forgotten), False))
    return Answered.of(found, run.task.category_names)


def _gold_of_training(run: Run) -> Iterator[tuple[Hashes, Labels]]:
    """The texts that the classifier was trained on with gold labels, and these, part by part of the corpus."""
    _, trained = learned_texts(run)
    wanted = np.unique(trained)
    if len(wanted):
        for rows in run.table("corpus").iter_tables([schema.TEXT, schema.GOLD_LABEL]):
            known = rows.filter(pc.is_valid(rows[schema.GOLD_LABEL]))
            texts = hash64(known[schema.TEXT])
            is_wanted = contains(wanted, texts)
            yield texts[is_wanted], known[schema.GOLD_LABEL].filter(pa.array(is_wanted)).to_pylist()


class DecidePart:
    """Called with one part of ``labels`` at a time."""

    def __init__(self, run: Run, certified: Certified, answered: Answered) -> None:
        self._run, self._certified, self._answered = run, certified, answered
        self._decisions, self._categories = run.table("decisions"), run.task.category_names

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Commit the decisions of one part, row for row with its labels."""
        part = unversioned(unit["name"])
        stored = self._run.table("labels").read_part(part)
        rows = labelled_part(self._run, part, stored.column_names)
        texts, score = (rows[name].to_numpy() for name in (schema.TEXT_HASH, schema.SCORE))
        codes, answered = codes_of(rows[schema.LABEL], self._categories), self._answered
        is_answered = contains(answered.texts, texts)
        place = np.minimum(np.searchsorted(answered.texts, texts), max(len(answered.texts) - 1, 0))
        final, by = codes.copy(), np.zeros(len(codes), np.int64)
        final[is_answered] = answered.codes[place[is_answered]]
        by[is_answered] = np.where(answered.by_person[place[is_answered]], 2, 1)
        names = pa.array(self._categories, pa.string())
        who = pa.array(["classifier", "annotator", "person"]).take(pa.array(by))
        columns = {
            schema.RECORD_ID: rows[schema.RECORD_ID],
            schema.LABEL: names.take(pa.array(final)),
            schema.SCORE: rows[schema.SCORE],
            schema.DECIDED_BY: who,
            schema.CLASSIFIER_LABEL: rows[schema.LABEL],
        }
        columns |= {name: rows[name] for name in stored.column_names if name not in columns}
        is_unusable = contains(answered.unusable, texts)
        is_below = ~self._certified.is_kept(codes, score, self._categories)
        counts = Counter({f"by_{name}": 0 for name in ("classifier", "annotator", "person")})
        counts.update(f"by_{name}" for name in who.to_pylist())
        counts["num_undecided"] = int((is_below & ~is_answered & ~is_unusable).sum())
        counts[NUM_UNUSABLE] = int(is_unusable.sum())
        if ALL not in self._certified.certificates:
            for code, name in enumerate(self._categories):
                counts[f"{NUM_UNUSABLE}.{name}"] = int((is_unusable & (codes == code)).sum())
                counts[f"by_annotator.{name}"] = int(((by == 1) & (codes == code)).sum())
        table = pa.table(columns)
        labels = Counter(table[schema.LABEL].to_pylist())
        return Outcome([self._decisions.commit_part(unit["name"], table, counts=counts, labels=labels)])


def _reached(
    run: Run, certified: Certified, deferred: Manifest, is_asked: bool, counts: Counter[str]
) -> dict[str, float]:
    """``share_bound`` of all records, or ``share_bound.<category>`` of each; see ``decide``."""
    assert run.recipe.guarantee is not None
    lowest = _lowest_undecided(run, deferred, is_asked)
    rows = run.table("certificate").read([schema.LABEL, schema.SCORE, schema.ORACLE_LABEL])
    score = rows[schema.SCORE].to_numpy().astype(np.float32)
    is_wrong = np.asarray(pc.fill_null(pc.not_equal(rows[schema.LABEL], rows[schema.ORACLE_LABEL]), True))
    labels = np.array(rows[schema.LABEL].to_pylist())
    reached: dict[str, float] = {}
    for name, certificate in certified.certificates.items():
        population = certified.populations[name]
        scores = [each for label, each in lowest.items() if name in (ALL, label)]
        chosen = np.ones(len(labels), bool) if name == ALL else labels == name
        bound = certificate.share_bound
        if scores:
            bound = achieved_share(
                population,
                score[chosen],
                is_wrong[chosen],
                certified.promise,
                min(scores),
                num_thresholds=len(certified.certificates),
            )
        suffix = f".{name}" if name else ""
        num_open = counts[f"{NUM_UNUSABLE}{suffix}"]
        if run.recipe.guarantee.oracle == "people":  # whom the annotator's labels may contradict
            num_open += counts[f"by_annotator{suffix}"]
        share_open = num_open / population.num_records if population.num_records else 0.0
        reached[f"share_bound{suffix}"] = max(bound - share_open, 0.0)
    return reached


def _lowest_undecided(run: Run, deferred: Manifest, is_asked: bool) -> dict[str, float]:
    """For each category that the classifier gives, the lowest score of a deferred record without an answer."""
    prefix = f"{LOWEST_LEFT_OUT}."
    lowest = {key.removeprefix(prefix): value for key, value in deferred.measures.items() if key.startswith(prefix)}
    open_rows = list(run.table("deferred").iter_tables([schema.LABEL, schema.SCORE]))
    if is_asked:
        answered_in = run.table("escalated").iter_tables([schema.ANSWERED_IN])
        pairs = zip(open_rows, answered_in, strict=True)
        open_rows = [rows.filter(pc.is_null(found[schema.ANSWERED_IN])) for rows, found in pairs]
    for rows in open_rows:
        for label, score in zip(rows[schema.LABEL].to_pylist(), rows[schema.SCORE].to_pylist(), strict=True):
            lowest[label] = min(score, lowest.get(label, np.inf))
    return lowest
