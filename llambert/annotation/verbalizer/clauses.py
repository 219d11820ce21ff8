"""Tokens clause by clause: which categories each affirms and denies."""

from typing import Literal

from llambert.annotation.verbalizer import lexicon
from llambert.annotation.verbalizer.lexicon import Role
from llambert.annotation.verbalizer.tokens import Token

_MAX_AHEAD = 8  # tokens that are looked at ahead: time stays proportional to length
_Scope = Literal["", "denied", "unclear"]


_DENYING_ROLES = frozenset({"negation", "wrong", "doubt"})
_LIST_ROLES = frozenset({"break", "joint"})
_BARE_ANSWER_ROLES = frozenset({"break", "frame", "quoting", "undoing", "negation", "agreement", "number", "joint"})
_NONE: frozenset[str] = frozenset()


class Clause:
    """What the words up to a break say of the categories.

    ``closing``: the breaks behind it. ``turn``: the word that opens it: "but". ``sentence``: the number of its
    sentence. ``is_simple``: framing words and then a mention, its first. ``is_framed``: nothing but mentions and words
    that frame an answer. ``is_statement``: such words, and a subject: "the essay is …". ``shares``: category -> the
    number that is given for it.
    """

    affirmed = denied = _NONE
    shares: dict[str, Token] | None = None
    is_framed = is_statement = True
    is_question = is_conditional = False

    def __init__(
        self, tokens: list[Token], closing: str, sentence: int, turn: str, has_mention: bool, is_simple: bool
    ) -> None:
        self.tokens, self.closing, self.sentence, self.turn = tokens, closing, sentence, turn
        self.has_mention, self.is_simple = has_mention, is_simple

    @property
    def is_verdict(self) -> bool:
        """Whether it is an answer and nothing else."""
        return self.is_framed and len(self.affirmed) <= 1

    def affirm(self, category: str) -> None:
        """Add one to what it affirms."""
        self.affirmed |= {category}

    def deny(self, categories: frozenset[str]) -> None:
        """Make these denied, and no longer affirmed."""
        self.denied |= categories
        self.affirmed -= categories

    def clear(self) -> None:
        """Count what it says for nothing."""
        self.affirmed = self.denied = _NONE

    def set_number(self, categories: frozenset[str], number: Token) -> None:
        """Note the number that is given for these, unless there was one."""
        self.shares = {**dict.fromkeys(categories, number), **(self.shares or {})}


def split(tokens: list[Token]) -> tuple[list[Clause], set[Role]]:
    """The clauses of a response, not yet read, and the roles of its words but for the most common ones.

    A comma ends a clause unless a list of categories goes on behind it: "positive, negative".
    """
    clauses: list[Clause] = []
    current: list[Token] = []
    roles: set[Role] = set()
    sentence, turn, has_category = 0, "", False
    is_simple = True
    for at, token in enumerate(tokens):
        word, role, category, _ = token
        if category:
            is_simple = is_simple and not has_category
            has_category = True
            current.append(token)
        elif role == "frame":
            is_simple = is_simple and not has_category
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
        elif (role != "break" and role != "turn") or (word == "," and has_category and _is_category_next(tokens, at)):
            is_simple = False
            current.append(token)
            roles.add(role)
        elif role == "turn":
            if current:
                clauses.append(Clause(current, "", sentence, turn, has_category, is_simple))
                current, has_category, is_simple = [], False, True
            turn = word
        else:
            if current:
                clauses.append(Clause(current, word, sentence, turn, has_category, is_simple))
                current, turn, has_category, is_simple = [], "", False, True
            elif clauses and word not in clauses[-1].closing:
                clauses[-1].closing += word
            if word == "?":
                _mark_question(clauses, sentence)
            if word in ".?\n":
                sentence += 1
                turn = ""
    if current:
        clauses.append(Clause(current, "", sentence, turn, has_category, is_simple))
    return clauses, roles


def _is_value(clauses: list[Clause], word: str, role: Role) -> bool:
    """Whether a word right behind a category and a colon or equals sign is its value, and nothing else."""
    if role != "number" and word not in ("true", "false"):
        return False
    return bool(clauses) and clauses[-1].closing == ":" and clauses[-1].tokens[-1].category is not None


def _is_open_negation(token: Token) -> bool:
    """Whether a negation has something to come behind it."""
    return token.role == "negation" and (token.word in ("not", "non") or token.word.endswith("n't"))


def _mark_question(clauses: list[Clause], sentence: int) -> None:
    for clause in reversed(clauses):
        if clause.sentence != sentence:
            break
        clause.is_question = True


def _is_category_next(tokens: list[Token], comma: int) -> bool:
    """Whether a category stands right behind the comma: "positive, negative"."""
    at = comma + 1
    while at < len(tokens) and not tokens[at].category and tokens[at].role in ("negation", "joint"):
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
    _subjects = _NONE  # mentions whose predicate may follow: "positive is wrong"
    _joined_subjects = _NONE  # mentions so far that "and" joins: "A and C are wrong"
    _has_copula = False
    _awaiting_number = _NONE  # mentions whose number may follow: "positive is 0.2"
    _roles: set[str] | None = None  # of all words that are no mention, once asked for

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
            self._clause.affirmed = _NONE  # "A spam message wouldn't."

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
            clause.affirm(category)
        mentioned = _NONE if self._scope else frozenset((category,))
        is_joined = at > 0 and self._tokens[at - 1].role == "joint"
        self._subjects, self._has_copula = (
            (self._joined_subjects | mentioned if is_joined else mentioned),
            False,
        )
        self._joined_subjects = self._subjects
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
            self._subjects = _NONE
        if word not in lexicon.MEASURES:
            self._awaiting_number = _NONE

    def _update_subjects(self, word: str) -> None:
        """A word that may stand between a mention and its predicate, or ends the wait for one."""
        if not self._subjects:
            return
        if word in lexicon.COPULAS:
            self._has_copula = True
        elif word not in lexicon.SUBJECTS and not word.endswith("ly"):
            self._subjects = self._subjects if self._has_copula and word in lexicon.ARTICLES else _NONE

    def _read_other(self, at: int) -> None:
        clause = self._clause
        if self._scope:
            self._scope = "unclear"
        clause.is_framed = False
        if clause.is_statement:
            clause.is_statement = self._is_subject(at)

    def _update_scope(self, at: int, word: str, role: Role) -> None:
        """What a word of this role does to the mentions behind it."""
        if role == "negation":
            self._scope = "" if self._scope == "denied" and word != "nor" else self._scope or "denied"
        elif role == "doubt" or role == "wrong":
            self._scope = "unclear"
            if role == "wrong":  # "a positive reading is ruled out"
                self._clause.affirmed = _NONE
        elif role == "break" or role == "joint":
            if not self._continues_scope(at, word):
                self._scope = ""
        elif role == "undoing":
            if self._scope == "denied":
                self._scope = ""
        elif role == "hedge":
            self._scope = "unclear" if self._scope else ""
        elif role == "if":
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

    def _continues_scope(self, at: int, joint: str) -> bool:
        """Whether a negation reaches beyond a joint: "not good and positive", "not so positive", "not A or B"."""
        if joint in ("or", "so"):
            return True
        ahead = self._tokens[at + 1 : at + 1 + _MAX_AHEAD]
        follower = next((t for t in ahead if t.category or not t.word.endswith("ly")), None)
        return joint == "and" and follower is not None and follower.category is not None

    def _is_predicate(self, at: int, word: str, role: str) -> bool:
        """Whether the word denies the mention before it: "positive does not apply", "positive is wrong"."""
        if word == "❌":
            return at > 0 and bool(self._tokens[at - 1].category)
        is_auxiliary = word.endswith("n't") or word in ("cannot", "never")
        return self._has_copula or (is_auxiliary and role == "negation")

    def _deny_subjects(self, at: int) -> None:
        clause, rest = self._clause, self._tokens[at + 1 : at + 2 + _MAX_AHEAD]
        clause.affirmed -= self._subjects
        is_simple = len(rest) <= _MAX_AHEAD and not any(
            t.category or t.role in ("negation", "doubt", "hedge", "undoing") for t in rest
        )
        if is_simple and all(self._is_predicate_word(t, rest) for t in rest):
            clause.deny(self._subjects)
        self._scope = "unclear" if self._tokens[at].word != "❌" else ""

    @staticmethod
    def _is_predicate_word(token: Token, rest: list[Token]) -> bool:
        return token.role in ("frame", "quoting", "agreement", "joint") or (token.role == "other" and len(rest) <= 2)

    def _start_condition(self) -> None:
        """Behind "if" nothing is said; what would be, if it were not so, is not."""
        if self._is_condition:
            return
        self._is_condition = True
        if any(token.word in ("would", "could", "might", "i'd") for token in self._tokens):
            self._clause.is_conditional |= bool(self._clause.affirmed)
            self._clause.affirmed = _NONE

    def _read_number(self, at: int, token: Token) -> None:
        """A number right behind a mention, or a share before one, is that category's: "80 % positive"."""
        follower = self._tokens[at + 1] if at + 1 < len(self._tokens) else None
        if self._awaiting_number and (follower is None or follower.role in ("break", "joint") or follower.category):
            self._clause.set_number(self._awaiting_number, token)
        elif "%" in token.word:
            ahead = next((t for t in self._tokens[at + 1 : at + 1 + _MAX_AHEAD] if t.category), None)
            if ahead is not None and ahead.category:
                self._clause.set_number(frozenset((ahead.category,)), token)

    def _is_mention(self, at: int, token: Token) -> bool:
        if token.role == "number":
            return self._is_list or self._is_in_answer_position(at)
        return not lexicon.is_everyday(token.word) or self._is_list or self._is_in_answer_position(at)

    def _is_in_answer_position(self, at: int) -> bool:
        """Whether an everyday word stands where an answer does: opening its clause ("no") or at its end."""
        word, role, *_ = self._tokens[at]
        if self._is_coordinated(at) and self._is_bare_answer:
            return True
        if at and self._tokens[at - 1].word in lexicon.OPTIONS:
            return True
        if at and self._tokens[at - 1].word == "a" and word in lexicon.OPENINGS:
            return True  # "It's a no from me."
        follower = self._tokens[at + 1] if at + 1 < len(self._tokens) else None
        if follower is not None and follower.role != "break":
            if at == 0 and word in lexicon.OPENINGS:
                return follower.word in lexicon.AFTER_OPENING
            return role == "number" and self._is_bare_answer and follower.role in ("negation", "agreement")
        # What was cut off behind "The review is a" ended there by chance.
        return not self._is_cut_off and ((len(word) > 1 and not word[0].isdigit()) or self._is_bare_answer)

    def _is_coordinated(self, at: int) -> bool:
        """Whether a joint stands between this mention and another one: "I'd say 3 or 4", "4 or maybe 5"."""
        ahead = [
            token for token in self._tokens[at + 1 : at + 4] if token.role not in ("frame", "quoting") or token.category
        ]
        behind = [
            token
            for token in self._tokens[max(at - 3, 0) : at]
            if token.role not in ("frame", "quoting") or token.category
        ]
        return (len(ahead) > 1 and ahead[0].role == "joint" and ahead[1].category is not None) or (
            len(behind) > 1 and behind[-1].role == "joint" and behind[-2].category is not None
        )
