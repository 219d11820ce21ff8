"""Tokens clause by clause: which categories each affirms and denies."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from llambert.annotation.verbalizer import lexicon
from llambert.annotation.verbalizer.lexicon import Role
from llambert.annotation.verbalizer.tokens import Token

_MAX_AHEAD = 8  # tokens that are looked at ahead: time stays proportional to length
_Scope = Literal["", "denied", "unclear"]


_DENYING_ROLES = lexicon.words("negation wrong doubt")
_LIST_ROLES = lexicon.words("break conjunction")
_BARE_ANSWER_ROLES = lexicon.words("break frame quoting pseudo_negation negation agreement number conjunction")
_PREDICATE_ROLES = lexicon.words("frame quoting agreement conjunction")
NO_CATEGORIES: frozenset[str] = frozenset()


class Clause:
    """What the words up to a break say of the categories.

    ``ending``: the breaks after it. ``contrast``: the word that opens it: "but". ``sentence``: the number of its
    sentence. ``is_simple``: framing words and then a mention, its first. ``is_framed``: nothing but mentions and words
    that frame an answer. ``is_statement``: such words, and a subject: "the essay is …". ``shares``: category -> the
    number that is given for it.
    """

    affirmed = denied = NO_CATEGORIES
    shares: Mapping[str, Token] = MappingProxyType({})
    is_framed = is_statement = True
    is_question = is_conditional = False

    def __init__(
        self, tokens: list[Token], ending: str, sentence: int, contrast: str, has_mention: bool, is_simple: bool
    ) -> None:
        self.tokens, self.ending, self.sentence, self.contrast = tokens, ending, sentence, contrast
        self.has_mention, self.is_simple = has_mention, is_simple

    @property
    def is_verdict(self) -> bool:
        """Whether it is an answer and nothing else."""
        return self.is_framed and len(self.affirmed) <= 1

    def deny(self, categories: frozenset[str]) -> None:
        """Make these denied, and no longer affirmed."""
        self.denied |= categories
        self.affirmed -= categories

    def clear(self) -> None:
        """Ignore what it says."""
        self.affirmed = self.denied = NO_CATEGORIES

    def set_number(self, categories: frozenset[str], number: Token) -> None:
        """Note the number that is given for these, unless there was one."""
        self.shares = {**dict.fromkeys(categories, number), **self.shares}


def split(tokens: list[Token]) -> tuple[list[Clause], set[Role]]:
    """The clauses of a response, not yet read, and the roles of its words but for the most common ones.

    A comma ends a clause unless a list of categories continues after it: "positive, negative".
    """
    clauses: list[Clause] = []
    current: list[Token] = []
    roles: set[Role] = set()
    questions: set[int] = set()  # numbers of sentences
    sentence, contrast, has_category, is_simple = 0, "", False, True
    for at, token in enumerate(tokens):
        word, role, category, _ = token
        if category or role == "frame":
            if has_category:
                is_simple = False
            elif category:
                has_category = True
            current.append(token)
        elif role == "other":
            is_simple = False
            current.append(token)
        elif not current and _is_value(clauses, word, role):
            # "positive = 1 negative = 0": the value is a clause, whatever follows it.
            clauses.append(Clause([token], ":", sentence, "", False, False))
            roles.add(role)
        elif word == "\n" and current and _is_open_negation(current[-1]):
            continue  # a line that was wrapped: "not\npositive"
        elif role not in ("break", "contrast") or (word == "," and has_category and _is_category_next(tokens, at)):
            is_simple = False
            current.append(token)
            roles.add(role)
        else:
            if current:
                ending = word if role == "break" else ""
                clauses.append(Clause(current, ending, sentence, contrast, has_category, is_simple))
                current, contrast, has_category, is_simple = [], "", False, True
            elif role == "break" and clauses and word not in clauses[-1].ending:
                clauses[-1].ending += word
            if role == "contrast":
                contrast = word
            elif word in ".?\n":
                if word == "?":
                    questions.add(sentence)
                sentence += 1
                contrast = ""
    if current:
        clauses.append(Clause(current, "", sentence, contrast, has_category, is_simple))
    if questions:
        for clause in clauses:
            clause.is_question = clause.sentence in questions
    return clauses, roles


def _is_value(clauses: list[Clause], word: str, role: Role) -> bool:
    """Whether a word right behind a category and a colon or equals sign is its value, and nothing else."""
    if role != "number" and word not in ("true", "false"):
        return False
    return bool(clauses) and clauses[-1].ending == ":" and clauses[-1].tokens[-1].category is not None


def _is_open_negation(token: Token) -> bool:
    """Whether a negation still needs a word to negate."""
    return token.role == "negation" and (token.word in ("not", "non") or token.word.endswith("n't"))


def _is_category_next(tokens: list[Token], comma: int) -> bool:
    """Whether a category follows the comma directly: "positive, negative"."""
    at = comma + 1
    while at < len(tokens) and not tokens[at].category and tokens[at].role in ("negation", "conjunction"):
        at += 1
    return at < len(tokens) and tokens[at].category is not None


def read_clause(clause: Clause, is_cut_off: bool) -> None:
    """Fill in what the clause affirms and denies. ``is_cut_off``: the response ends in it, by chance."""
    word, role, category, is_typo = clause.tokens[-1]
    if clause.is_simple and category and role != "number" and not is_typo and not lexicon.is_everyday(word):
        clause.affirmed = frozenset((category,))  # "The sentiment is positive": most answers
    else:
        _Reader(clause, is_cut_off).read()


class _Reader:
    """Reads one clause from its first token to its last."""

    _scope: _Scope = ""
    _is_condition = _is_unable = False
    _subjects = NO_CATEGORIES  # mentions whose predicate may follow: "positive is wrong"
    _conjoined_subjects = NO_CATEGORIES  # mentions so far that "and" joins: "A and C are wrong"
    _has_copula = False
    _awaiting_number = NO_CATEGORIES  # mentions whose number may follow: "positive is 0.2"
    _roles: set[str] | None = None  # of all words that are no mention; computed on first use

    def __init__(self, clause: Clause, is_cut_off: bool) -> None:
        self._clause, self._tokens, self._is_cut_off = clause, clause.tokens, is_cut_off

    @property
    def _is_list(self) -> bool:
        """Whether it is nothing but categories: "positive, negative"."""
        return self._has_only(_LIST_ROLES)

    @property
    def _is_bare_answer(self) -> bool:
        """Whether it is an answer and nothing else, so far as single words tell."""
        return self._has_only(_BARE_ANSWER_ROLES)

    def _has_only(self, roles: frozenset[str]) -> bool:
        if self._roles is None:
            self._roles = {token.role for token in self._tokens if not token.category}
        return self._roles <= roles

    def read(self) -> None:
        for at, token in enumerate(self._tokens):
            if token[2] and self._is_mention(at, token):
                self._read_mention(at, token)
            elif token[1] != "frame" or self._subjects:
                self._read_word(at, token)
        if self._scope == "denied" and token.role == "negation" and not token.category:
            self._clause.affirmed = NO_CATEGORIES  # "A spam message wouldn't."

    def _read_mention(self, at: int, token: Token) -> None:
        clause, category = self._clause, token.category
        assert category is not None
        if self._is_condition:
            clause.is_conditional = True
        elif self._is_unable or self._is_quoted(at) or (token.is_typo and not (self._is_list or self._is_bare_answer)):
            clause.is_framed = clause.is_statement = False
        elif self._scope == "denied":
            clause.denied |= {category}
        elif not self._scope:
            clause.affirmed |= {category}
        mentioned = NO_CATEGORIES if self._scope else frozenset((category,))
        is_conjoined = at > 0 and self._tokens[at - 1].role == "conjunction"
        self._subjects, self._has_copula = (
            (self._conjoined_subjects | mentioned if is_conjoined else mentioned),
            False,
        )
        self._conjoined_subjects = self._subjects
        self._awaiting_number = self._subjects
        if token.word == "no" and not self._is_list:
            self._scope = "denied"  # "no related findings"

    def _read_word(self, at: int, token: Token) -> None:
        word, role = token[0], token[1]
        if role == "frame" or role == "quoting":
            self._update_subjects(word)
            return
        if word in lexicon.PREFIXES and at + 1 < len(self._tokens) and self._tokens[at + 1].category:
            role = "doubt"
        if role == "other" or role == "foreign_negation":
            self._read_other(at)
        elif role == "number":
            self._read_number(at, token)
        elif self._subjects and role in _DENYING_ROLES and self._is_predicate(at, word, role):
            self._deny_subjects(at)
        else:
            self._update_scope(at, word, role)
        if role == "agreement" or role == "number":
            self._update_subjects(word)
        else:
            self._subjects = NO_CATEGORIES
        if word not in lexicon.MEASURES:
            self._awaiting_number = NO_CATEGORIES

    def _update_subjects(self, word: str) -> None:
        """Keep the mentions whose predicate may follow, or drop them if ``word`` cannot precede a predicate."""
        if not self._subjects:
            return
        if word in lexicon.COPULAS:
            self._has_copula = True
        elif word not in lexicon.SUBJECTS and not word.endswith("ly"):
            self._subjects = self._subjects if self._has_copula and word in lexicon.ARTICLES else NO_CATEGORIES

    def _read_other(self, at: int) -> None:
        clause = self._clause
        if self._scope:
            self._scope = "unclear"
        clause.is_framed = False
        if clause.is_statement:
            clause.is_statement = self._is_subject(at)

    def _update_scope(self, at: int, word: str, role: Role) -> None:
        """Apply a word of this role to the mentions after it."""
        if role == "negation":
            self._scope = "" if self._scope == "denied" and word != "nor" else self._scope or "denied"
        elif role == "doubt" or role == "wrong":
            self._scope = "unclear"
            if role == "wrong":  # "a positive reading is ruled out"
                self._clause.affirmed = NO_CATEGORIES
        elif role == "break" or role == "conjunction":
            if not self._continues_scope(at, word):
                self._scope = ""
        elif role == "pseudo_negation":
            if self._scope == "denied":
                self._scope = ""
        elif role == "hedge":
            self._scope = "unclear" if self._scope else ""
        elif role == "condition":
            self._start_condition()
        elif role == "inability":
            self._is_unable = True

    def _is_quoted(self, at: int) -> bool:
        """Whether a mention is a word of the text: 'The word "urgent" appears', "to be toxic, a text must …"."""
        if at == 0:
            return False
        word, role, *_ = self._tokens[at - 1]
        if role == "quoting":
            return word != "to"
        return word in lexicon.QUOTING_PLURALS or (at == 2 and word == "be" and self._tokens[0].word == "to")

    def _is_subject(self, at: int) -> bool:
        """Whether a word, before any mention, is what the clause says something of: "The essay is …"."""
        clause, ahead = self._clause, self._tokens[at + 1 : at + 3]
        return not (clause.affirmed or clause.denied) and any(token.word in lexicon.LINKING for token in ahead)

    def _continues_scope(self, at: int, conjunction: str) -> bool:
        """Whether a negation extends beyond a conjunction: "not good and positive", "not so positive", "not A or B"."""
        if conjunction in ("or", "so"):
            return True
        ahead = self._tokens[at + 1 : at + 1 + _MAX_AHEAD]
        follower = next((t for t in ahead if t.category or not t.word.endswith("ly")), None)
        return conjunction == "and" and follower is not None and follower.category is not None

    def _is_predicate(self, at: int, word: str, role: str) -> bool:
        """Whether the word denies the mention before it: "positive does not apply", "positive is wrong"."""
        if word == "❌":
            return at > 0 and bool(self._tokens[at - 1].category)
        is_auxiliary = word.endswith("n't") or word in ("cannot", "never")
        return self._has_copula or (is_auxiliary and role == "negation")

    def _deny_subjects(self, at: int) -> None:
        clause, rest = self._clause, self._tokens[at + 1 : at + 2 + _MAX_AHEAD]
        clause.affirmed -= self._subjects
        if len(rest) <= _MAX_AHEAD and all(
            not t.category and (t.role in _PREDICATE_ROLES or (t.role == "other" and len(rest) <= 2)) for t in rest
        ):
            clause.deny(self._subjects)
        self._scope = "unclear" if self._tokens[at].word != "❌" else ""

    def _start_condition(self) -> None:
        """After "if" nothing is affirmed, and neither is what "would" be the case before it."""
        if self._is_condition:
            return
        self._is_condition = True
        if any(token.word in ("would", "could", "might", "i'd") for token in self._tokens):
            self._clause.is_conditional |= bool(self._clause.affirmed)
            self._clause.affirmed = NO_CATEGORIES

    def _read_number(self, at: int, token: Token) -> None:
        """Assign a number directly after a mention, or a share before one, to that category: "80 % positive"."""
        follower = self._tokens[at + 1] if at + 1 < len(self._tokens) else None
        is_last = follower is None or follower.role in ("break", "conjunction") or bool(follower.category)
        if self._awaiting_number and is_last:
            self._clause.set_number(self._awaiting_number, token)
        elif "%" in token.word:
            ahead = next((t.category for t in self._tokens[at + 1 : at + 1 + _MAX_AHEAD] if t.category), None)
            if ahead is not None:
                self._clause.set_number(frozenset((ahead,)), token)

    def _is_mention(self, at: int, token: Token) -> bool:
        is_distinctive = token.role != "number" and not lexicon.is_everyday(token.word)
        return is_distinctive or self._is_list or self._is_in_answer_position(at)

    def _is_in_answer_position(self, at: int) -> bool:
        """Whether an everyday word is where an answer would be: at the start of its clause ("no") or at its end."""
        word, role, *_ = self._tokens[at]
        before = self._tokens[at - 1].word if at else ""
        if before in lexicon.OPTIONS or (before == "a" and word in lexicon.OPENINGS):  # "It's a no from me."
            return True
        if self._is_bare_answer and self._is_coordinated(at):
            return True
        follower = self._tokens[at + 1] if at + 1 < len(self._tokens) else None
        if follower is not None and follower.role != "break":
            if at == 0 and word in lexicon.OPENINGS:
                return follower.word in lexicon.AFTER_OPENING
            return role == "number" and self._is_bare_answer and follower.role in ("negation", "agreement")
        # "The review is a", cut off there, does not end in the answer "a".
        return not self._is_cut_off and ((len(word) > 1 and not word[0].isdigit()) or self._is_bare_answer)

    def _is_coordinated(self, at: int) -> bool:
        """Whether a conjunction joins this mention to another one: "I'd say 3 or 4", "4 or maybe 5"."""
        for nearby in (self._tokens[at + 1 : at + 4], self._tokens[max(at - 3, 0) : at][::-1]):
            words = [token for token in nearby if token.role not in ("frame", "quoting") or token.category]
            if len(words) > 1 and words[0].role == "conjunction" and words[1].category:
                return True
        return False
