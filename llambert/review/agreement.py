"""How far people agree who answered the same items."""

from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa of two people on the items both answered; ``kappa`` None where it is not defined."""

    people: tuple[str, str]
    num: int
    num_equal: int
    kappa: float | None

    @property
    def sentence(self) -> str:
        """What is printed."""
        kappa = "not defined" if self.kappa is None else f"{self.kappa:.3f}"
        first, second = self.people
        return f"{first} and {second}: {self.num_equal} of {self.num} answers equal, Cohen's kappa {kappa}."


def agreements(answers: dict[str, dict[str, str]]) -> list[Agreement]:
    """Of each two people; ``answers``: person -> item -> answer."""
    return [_agreement(people, answers) for people in combinations(sorted(answers), 2)]


def _agreement(people: tuple[str, str], answers: dict[str, dict[str, str]]) -> Agreement:
    from sklearn.metrics import cohen_kappa_score

    first, second = (answers[person] for person in people)
    both = sorted(first.keys() & second.keys())
    pairs = [(first[item], second[item]) for item in both]
    # Kappa is 0/0 if both people give a single, equal answer to everything.
    is_defined = len({answer for pair in pairs for answer in pair}) > 1
    kappa = float(cohen_kappa_score(*zip(*pairs, strict=True))) if is_defined else None
    return Agreement(people, len(both), sum(a == b for a, b in pairs), kappa)
