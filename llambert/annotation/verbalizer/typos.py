"""When a word counts as a slip for an answer word."""

_MIN_LETTERS_ANY_EDIT = 6  # shorter words have too many neighbours among ordinary words: "now", "scam", "word"


def is_typo(word: str, meant: str) -> bool:
    """Whether ``word`` is one edit (Damerau-Levenshtein) from ``meant``, and probably meant as it.

    The first letter is never the wrong one ("danger" is no slip for "anger", "amoral" none for "moral"). Of a word
    of fewer than six letters only a doubled letter and two letters that changed places are slips: "yess", "wrold".
    """
    if abs(len(word) - len(meant)) > 1 or word == meant or word[:1] != meant[:1]:
        return False
    short, long = sorted((word, meant), key=len)
    same = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    is_any_edit = len(meant) >= _MIN_LETTERS_ANY_EDIT
    if len(short) < len(long):
        is_doubled = long == word and long[same] == long[same - 1]
        return short[same:] == long[same + 1 :] and (is_any_edit or is_doubled)
    is_swap = word[same : same + 2] == meant[same : same + 2][::-1] and word[same + 2 :] == meant[same + 2 :]
    return is_swap or (is_any_edit and word[same + 1 :] == meant[same + 1 :])
