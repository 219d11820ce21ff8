"""Numbers in a response about a rating that are no rating: ends of scales, list numbers, counts, sums, percentages."""

import re
from collections.abc import Callable

# How a scale is named, whose ends are no ratings.
_SCALE = re.compile(
    r"\b(?:scale|range|ranges|ranging|rated|number|integer|score)\s+(?:is\s+)?(?:of\s+|from\s+|between\s+)+\d+\s*"
    r"(?:to|and|through|-|–|—)\s*\d+|\b\d+\s*(?:to|-|–)\s*\d+\s+scale\b|\(\s*\d+\s*(?:to|-|–)\s*\d+\s*\)"
    r"|\bout of (?:a (?:possible|maximum|total) (?:of )?)?\d+\b"
)
_RATIO = re.compile(
    r"(?<![\d/.,])(\d+(?:\.0+)?)['\"*_\s]*(?:(?:stars?|points?|pts?)\s+)?"
    r"(?:/|\bout of(?: a (?:possible|maximum|total)(?: of)?)?\b)"
    r"['\"*_\s]*(\d+)(?![\d/])"
)
_N_OF_M = re.compile(r"(?<![\d/.,])(\d+)\s+of\s+(\d+)(?![\d/])")
_SUM = re.compile(r"\d+(?:\s*\+\s*\d+)+(?:\s*=(?=\s*\d))?")
_SPAN = re.compile(r"(\d+)\s+(?:to|through)\s+(?=\d)")
_LISTED = re.compile(r"(?m)^[ \t>*_#(\[-]*\d{1,3}[.)\]]+[*_]*[ \t]+(?=\S)")
_COUNTED = re.compile(
    r"(?<![^\W_])(?:no\.\s*|nr\.\s*|#\s*|№\s*|\$\s*|€\s*|£\s*)\d+(?:[.,]\d+)*|\d+(?:[.,]\d+)*\s?(?:%|percent\b)"
)
_STARS = re.compile(r"(?<![\d.,/-])(\d+(?:\.0+)?)[ \t*]{0,4}-?[ \t*]{0,4}(?:stars?|points?|pts?)\b")
_GLUED = re.compile(r"\b(class|label|category|score|rating|level|grade|answer|option)_?(?=\d)")


def strip_non_ratings(text: str, top: float) -> str:
    """The text without them; ``top``: the highest rating, of which a ratio must be ("4/5", "4 out of 5")."""
    if not any(map(str.isdigit, text)):
        return text

    def ratio_or(other: str) -> Callable[[re.Match[str]], str]:
        return lambda ratio: ratio[1] if float(ratio[2]) == top > 1 else other.format(ratio[0])

    text = _GLUED.sub(r"\1 ", text)
    text = _RATIO.sub(ratio_or(" "), text)
    text = _N_OF_M.sub(ratio_or("{}"), text)
    text = _SCALE.sub(" ", text)
    text = _SPAN.sub(r"\1 or ", _SUM.sub(" ", text))
    text = _LISTED.sub("\n", text)
    text = _COUNTED.sub(" ", text)
    return _STARS.sub(r"\1", text)
