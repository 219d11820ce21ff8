"""What the clauses of a response say together: questions and their answers, values, conditions, retractions."""

from dataclasses import dataclass
from itertools import pairwise

from llambert.annotation.verbalizer import lexicon
from llambert.annotation.verbalizer.clauses import NO_CATEGORIES, Clause, read_clause, split
from llambert.annotation.verbalizer.tokens import Token

_REPLY_ROLES = lexicon.words("frame quoting negation conjunction doubt hedge pseudo_negation agreement wrong")
_OPPOSING = ("but", "yet")
_SENTENCE_ROLES = lexicon.words("condition inability negation foreign_negation")  # beyond their clause
_MAX_WORDS_NEGATING = 5
_VALUE_BREAKS = frozenset(":(-|")
_HEADING_BREAKS = frozenset(":-\n,|")


@dataclass(slots=True)
class Evidence:
    """The categories that a response affirms and those that it denies; ``is_retracted``: it took back what it said."""

    affirmed: frozenset[str] = NO_CATEGORIES
    denied: frozenset[str] = NO_CATEGORIES
    is_retracted: bool = False


def find_evidence(tokens: list[Token], is_cut_off: bool) -> Evidence:
    """The best evidence of a response: its conclusions, else its verdicts, else all it says about a category."""
    if not [True for token in tokens if token[2]]:
        return Evidence()
    clauses, roles = split(tokens)
    for clause in clauses:
        if clause.has_mention:
            read_clause(clause, is_cut_off and clause is clauses[-1])
    for clause, following in pairwise(clauses):
        if clause.has_mention and not following.has_mention:
            if following.ending or following is clauses[-1]:
                _apply_reply(clause, following)
        elif clause.ending == ":" and following.is_verdict and following.affirmed - clause.affirmed:
            clause.clear()  # "To answer your question: suggestion"
        elif following.contrast in _OPPOSING and clause.sentence == following.sentence:
            _mark_contradiction(clause, following)
    if "number" in roles:
        _resolve_numbers(clauses)
    if roles and not roles.isdisjoint(_SENTENCE_ROLES):
        _clear_unreliable(clauses)
    kept = _after_retraction(clauses) if "retraction" in roles else clauses
    evidence = _best(kept)
    evidence.is_retracted = kept is not clauses and not (evidence.affirmed or evidence.denied)
    return evidence


def _best(clauses: list[Clause]) -> Evidence:
    said = [clause for clause in clauses if (clause.affirmed or clause.denied) and not clause.is_question]
    if len(said) == 1:
        return Evidence(said[0].affirmed, said[0].denied)
    if not said:
        # A question counts only if it is one word, and all there is: "Positive?"
        is_bare = len(clauses) == 1 and len(clauses[0].tokens) == 1 and clauses[0].is_question
        return Evidence(clauses[0].affirmed, clauses[0].denied) if is_bare else Evidence()
    verdicts = [clause for clause in said if clause.is_verdict]
    if len(verdicts) > 1:
        conclusive = _conclusive_clauses(clauses)
        if evidence := _combine([clause for clause in verdicts if clause in conclusive], NO_CATEGORIES):
            return evidence
    if evidence := _combine(verdicts, NO_CATEGORIES):
        return evidence
    # What only denies may need more to decide.
    denied = NO_CATEGORIES.union(*[clause.denied for clause in verdicts])
    statements = [clause for clause in said if clause.is_statement and len(clause.affirmed) <= 1]
    everything_denied = NO_CATEGORIES.union(*[clause.denied for clause in said])
    return _combine(statements, denied) or _combine(said, denied) or Evidence(denied=everything_denied)


def _combine(clauses: list[Clause], denied: frozenset[str]) -> Evidence | None:
    """What some clauses say together, but for what better ones ``denied``; None where they affirm nothing."""
    affirmed = NO_CATEGORIES.union(*[clause.affirmed for clause in clauses]) - denied
    return Evidence(affirmed, denied.union(*[clause.denied for clause in clauses])) if affirmed else None


def _reply_polarity(clause: Clause) -> bool | None:
    """Whether a clause without a mention is a bare "yes" (True) or a bare "no" (False); None: neither."""
    num_negations, is_agreement = 0, tuple(token.word for token in clause.tokens) in lexicon.BARE_REPLIES
    for token in clause.tokens:
        is_reply = token.role in _REPLY_ROLES and token.role != "doubt" and token.word not in lexicon.NO_REPLIES
        if token.category or not is_reply:
            return None
        num_negations += token.role in ("negation", "wrong")
        is_agreement |= token.role == "pseudo_negation" or token.word in lexicon.AGREEMENTS or token.role == "agreement"
    if num_negations:
        return num_negations % 2 == 0
    return True if is_agreement else None


def _negates_previous(clause: Clause) -> bool:
    """Whether a sentence denies the one before it as a whole: "Not!", "This one does not."."""
    words = [token.word for token in clause.tokens]
    is_sentence = clause.ending[:1] in (".", "\n", "") and not clause.contrast and len(words) < _MAX_WORDS_NEGATING
    if words == ["not"] or not is_sentence:
        return is_sentence
    is_negation = words[-1].endswith("n't") or (words[-1] == "not" and words[-2] in lexicon.COPULAS)
    return is_negation and words[0] in lexicon.SPEAKERS


def _apply_reply(clause: Clause, following: Clause) -> None:
    """What follows the mention of a category as its value or as the answer: "positive: no", "Positive? Not really."."""
    if clause.is_question:
        if following.sentence != clause.sentence and len(clause.affirmed) == 1 and not clause.denied:
            reply = _reply_polarity(following)
            if reply is not None:
                clause.is_question = False
                if not reply:
                    clause.deny(clause.affirmed)
        return
    breaks, words = set(clause.ending), following.tokens
    if _negates_previous(following) and not clause.tokens[-1].word.startswith(("no", "un")):
        clause.clear()  # "Positive. Not!", "Some find it offensive; I do not."
        return
    is_number = len(words) == 1 and words[0].role == "number"
    is_value = breaks <= _VALUE_BREAKS
    if is_number and ":" not in breaks:  # "Answer: C) 1945"
        is_value = (is_value or breaks == {","}) and (words[0].share is not None or words[0].number in (0, 1))
    if not clause.affirmed or following.contrast or not is_value:
        return
    last = next((t for t in reversed(clause.tokens) if t.category or _has_content(t)), None)
    if last is None or last.category not in clause.affirmed or last.role == "number":
        return
    if is_number:
        clause.set_number(frozenset({last.category}), words[0])
    elif last.role in ("negation", "agreement"):
        return  # "No (it is not)"
    elif breaks and (
        all(token.word in lexicon.DENYING_VALUES for token in words) or _reply_polarity(following) is False
    ):
        clause.deny(frozenset({last.category}))


def _has_content(token: Token) -> bool:
    return token.role not in ("frame", "quoting") and token.word not in lexicon.MEASURES


def _resolve_numbers(clauses: list[Clause]) -> None:
    """Of several categories with a number the largest is affirmed; one alone needs more than half."""
    numbers = {category: number for clause in clauses for category, number in clause.shares.items()}
    if not numbers:
        return
    if len(numbers) > 1:
        are_shares = all(number.share is not None for number in numbers.values())
        values = {c: (n.share if are_shares else n.number) or 0.0 for c, n in numbers.items()}
        top = max(values.values())
        best = [category for category, value in values.items() if value == top]
        denied = frozenset(category for category, value in values.items() if value < top)
        affirmed = frozenset(best if len(best) == 1 else ())
    else:
        ((category, number),) = numbers.items()
        if number.word.isdigit() and number.word not in ("0", "1"):  # of what, it does not say
            if not any(number in clause.tokens for clause in clauses if clause.shares):
                for clause in clauses:
                    clause.affirmed -= {category}  # "Positive: 8"
            return
        share = number.share if number.share is not None else number.number
        affirmed = frozenset({category} if share is not None and share > 0.5 else ())
        denied = frozenset({category} if share == 0 else ())
    for clause in clauses:
        mentioned = (clause.affirmed | clause.denied) & numbers.keys()
        clause.affirmed = (clause.affirmed - mentioned) | (mentioned & affirmed)
        clause.denied = (clause.denied - mentioned) | (mentioned & denied)


def _conclusive_clauses(clauses: list[Clause]) -> set[Clause]:
    """The clauses that sum up, or follow a heading that does: "Final answer: negative"."""
    found: set[Clause] = set()
    is_headed = False
    for clause in clauses:
        words = {token.word for token in clause.tokens if not token.category}
        sums_up = clause.tokens[0].word == "so" or not words.isdisjoint(lexicon.CONCLUSIVE)
        if clause.has_mention:
            if is_headed or sums_up:
                found.add(clause)
            is_headed = False
        else:
            is_frame = all(token.role in ("frame", "quoting", "conjunction", "number") for token in clause.tokens)
            is_heading = (sums_up and is_frame) or clause.tokens[-1].word in lexicon.CONCLUSIVE
            is_headed = is_heading and not _HEADING_BREAKS.isdisjoint(clause.ending)
    return found


def _mark_contradiction(clause: Clause, following: Clause) -> None:
    """A clause that opens with another category after "but" is an answer too: "No, but yes in some contexts"."""
    first = next((token for token in following.tokens if token.role != "conjunction" or token.category), None)
    if clause.affirmed and first is not None and first.category in following.affirmed - clause.affirmed:
        following.is_framed = True


def _clear_unreliable(clauses: list[Clause]) -> None:
    """Forget what is said under a condition, by an LLM that cannot say, or where a negation is not understood."""
    foreign: set[int] = set()
    unable: int | None = None  # sentences
    dangling: int | None = None
    conditional: int | None = None
    for number, clause in enumerate(clauses):
        if clause.is_conditional:
            conditional = clause.sentence
            if clause.tokens[0].word == "otherwise":  # "If it is …, positive; otherwise negative."
                for earlier in clauses[max(number - _MAX_WORDS_NEGATING, 0) : number]:
                    earlier.clear()
        for token in clause.tokens:
            if token.role == "foreign_negation" and not token.category:
                if token.word in lexicon.CJK_NEGATIONS or " " in token.word:
                    clause.clear()
                else:
                    foreign.add(clause.sentence)
        if clause.contrast or ":" in clause.ending:
            unable = None
        if clause.sentence in (unable, dangling, conditional):
            clause.clear()
        if any(token.role == "inability" for token in clause.tokens):
            unable = clause.sentence
        if _ends_in_open_negation(clause):
            dangling = clause.sentence
    for clause in clauses:
        if clause.sentence in foreign:
            clause.clear()


def _ends_in_open_negation(clause: Clause) -> bool:
    """Whether a clause ends in a negation that has met nothing yet: "It is not, in my opinion, …"."""
    *before, last = clause.tokens
    if last.role != "negation" or last.category or not clause.ending.startswith(","):
        return False
    return last.word.endswith("n't") or any(token.word in lexicon.COPULAS for token in before)


def _after_retraction(clauses: list[Clause]) -> list[Clause]:
    """The clauses from the last one that takes back what was said before; all where nothing was said before it."""
    for number in range(len(clauses) - 1, 0, -1):
        tokens = clauses[number].tokens
        takes_back = tokens[0].role == "retraction" or any(t.role == "retraction" and " " in t.word for t in tokens)
        if takes_back and any(clause.affirmed or clause.denied for clause in clauses[:number]):
            return clauses[number:]
    return clauses
