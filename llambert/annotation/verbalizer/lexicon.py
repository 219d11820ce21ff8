"""The words that decide how an answer is read, and the part (role) that each plays in a clause."""

from typing import Literal

Role = Literal[
    "break",  #             ends a clause
    "negation",  #          denies what it governs
    "doubt",  #             what it governs is neither affirmed nor denied
    "wrong",  #             as a predicate it denies its subject, before a mention it is a doubt
    "pseudo_negation",  #           after a negation: "not only positive"
    "conjunction",  #             ends the reach of a negation
    "hedge",  #             after a negation: "not entirely positive"
    "contrast",  #              ends a clause as a break does
    "condition",  #                opens a condition
    "frame",  #             may stand around a mention in a verdict
    "quoting",  #           so may this, but what follows it may be a word of the text: 'the word "urgent"'
    "agreement",  #         affirms what was asked
    "retraction",  #        takes back what was said before
    "inability",  #         the LLM cannot or will not say
    "foreign_negation",  #  of a language whose negations are not read
    "number",
    "other",
]


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_NEGATIONS = words(
    "not no never neither nor non without cannot hardly barely less than nothing none nobody nowhere noone nope nah"
    " isnt wasnt arent werent dont doesnt didnt cant wont wouldnt couldnt shouldnt havent hasnt aint ❌"
)
_DOUBTS = words(
    """doubt doubts doubtful doubtfully few little seldom rarely rare scarcely fail fails failed failing avoid avoids
    avoided avoiding refuse refuses refused refusing deny denies denied denying unlikely improbable impossible lack
    lacks lacking lacked absence absent devoid exclude excludes excluded excluding reject rejects rejected dismiss
    dismisses contrary opposite reverse antithesis unlike despite except minus pretend pretends pretending sarcastic
    sarcastically ironic ironically mock supposed supposedly ostensibly superficially initially semi pseudo quasi
    anti faux whether reluctant reluctantly difficult hard questionable unsure uncertain unclear debatable
    insufficient insufficiently hypothetically barring neglects stops lacked shy contradicts contradict disagree
    disagrees dispute disputes disputed refute refutes partially partly seemingly misses missing
    alone"""
)
_WRONGS = words(
    """wrong incorrect false inaccurate untrue inapplicable inappropriate mistaken misleading invalid erroneous
    unsuitable unfitting ruled rejected excluded unlikely improbable impossible unjustified unwarranted unsupported
    misplaced mistake error misnomer misreading stretch exaggeration overstatement nonsense absurd"""
)
# After a negation these deny nothing: "not only positive", "no doubt positive", "no idea".
_PSEUDO_NEGATIONS = words("only just merely simply doubt question idea clue answer information")
_HEDGES = words("entirely completely totally wholly purely fully necessarily exclusively solely always strictly quite")
_CONTRASTS = words("but however although though whereas because since while yet instead")
_CONJUNCTIONS = words("and or also then so")  # "or" alone passes a negation on
_CONDITIONS = words("if otherwise unless suppose supposing assuming")
# Words that may stand around a mention in a verdict, and between a negation and what it denies.
_FRAME = words(
    """a an the this that these it its it's itself that's is are was were be been being am as of in on at for by with i
    i'd i'm i'll my me you your we our would will should could can may might must do does did has have had very
    really at all too rather any either even single one both more most much particularly answer answers label
    category class classification classified classify sentiment review text opinion tone verdict option choice
    rating rate rated score result response output prediction conclusion statement sentence concept document article
    topic passage letter number digit extract excerpt snippet page paragraph piece content sample entry input film
    movie book product reviewer critic author writer user customer speaker comment message post tweet overall final
    total sum correct best right true believe think say said consider considered call called describe described find
    found seem seems appear appears sound sounds express expresses convey conveys show shows indicate indicates
    suggest suggests reflect reflects contain contains give given assign choose select pick evidence sign signs
    indication indications here here's sure certainly certain okay ok well conclude mark marked belongs belong falls
    fall under into therefore thus hence go going level grade star stars point points hmm hm ah oh alright let's
    maybe perhaps somewhat almost nearly slightly stance intent emotion mood urgency priority relation impression
    focus subject theme primary main dominant general closer nearer pure plain sheer task target"""
)
_QUOTING = words("word term phrase to")
QUOTING_PLURALS = words("words terms phrases")
# Of these, what may stand between a mention and a predicate that denies it: "Positive would be wrong".
COPULAS = words(
    "is are was were be been being would will should could can may might must do does did seems seem appears looks"
)
PREFIXES = words("semi pseudo quasi anti faux half")  # right in front of a mention they leave it in doubt
SPEAKERS = words("i it this that they he she we these those one")
LINKING = words("is was are were seems appears looks sounds remains")  # between a subject and what it is
OPTIONS = words("option options choice choices letter class category label")  # in front of a name: "option B is right"
MEASURES = words("probability likelihood chance confidence percentage percent odds")
ARTICLES = words("a an the")
SUBJECTS = words(
    "label answer category class option choice sentiment tone verdict rating one here itself really simply just"
)
# What sums up: a verdict headed by one of them, or holding one, stands above the others.
CONCLUSIVE = words(
    "answer label category class classification verdict conclusion conclude overall final finally total result rating"
    " score decision prediction therefore thus hence ultimately grade output response"
)
AGREEMENTS = words(
    "yes yeah yep yup indeed definitely absolutely certainly exactly precisely clearly obviously correct right true ✅"
)
_EVERYDAY = words("no none not other others all any both either neither some one it an the and or never nothing")
# An everyday answer word that may open an answer: "No it is not", and what may follow it there.
OPENINGS = words("no none")
AFTER_OPENING = words(
    """it its it's this that these those the there i they he she we you not isn't doesn't don't wasn't aren't relation
    relations relationship connection connections link links association associations correlation overlap"""
)
BARE_REPLIES = frozenset(
    map(tuple, map(str.split, ("it is", "it does", "it was", "they are", "this is", "that is so")))
)
NO_REPLIES = words("non nor without less than")  # negations that no reply is made of
# A bare "no" after a category is its value.
DENYING_VALUES = frozenset({"n a"}) | words(
    "false no nope n ❌ absent wrong incorrect untrue na never none not nil zero"
)
_RETRACTIONS = words("wait correction scratch oops")

# Negations of languages in which no rule knows what they govern: whole sentences with them say nothing.
_FOREIGN_NEGATIONS = words(
    """नहीं नही न ना मत बिना nunca jamás jamas tampoco nada ningún ningun ninguna ninguno ni sin ne pas jamais aucun
    aucune sans guère guere rien nicht kein keine keinen keiner keines keinem nie niemals weder ohne kaum nichts
    keineswegs keinesfalls não nao sem nem nessun nessuna senza mai niente niet geen nooit zonder inte ikke ingen
    nej aldrig ei не нет ни нельзя без никогда nie bez żaden değil yok hiç không chưa tidak bukan tanpa لا ليس ليست
    غير لم لن بدون לא אין בלי نیست نه ไม่ 안 아니 아닌 아니다 않다 않습니다 아닙니다 없다"""
)
# Scripts without blanks: a character is a word, so these are read within a clause.
CJK_NEGATIONS = words("不 没 沒 無 无 非 未 别 別 否 勿 莫 ず ぬ")

_PHRASES_OF_ROLE: dict[Role, str] = {
    "negation": """
        instead of, far cry from, far from, anything but, as opposed to, by no means, no longer, less than, in no
        way, not at all, anything other than, rather than, short on, no one, under no circumstances""",
    "doubt": """
        opposite of, contrary to, lack of, absence of, devoid of, free of, free from, short of, at first, on the
        surface, used to, other than, apart from, aside from, not without, can't help, cannot help, in spite of, too
        early, stop short, close to, might have been, should have been, would have been, could have been, at first
        glance, first glance, not sure, by itself, in itself, on its own, not certain, not clear, hard to, tries to,
        try to, attempts to, tried to, attempted to, meant to, claims to, said to be, a few, not
        exactly, rules out, rule out, not even, might seem, may seem, could seem, mistaken for, confused with, out
        of""",
    "wrong": """
        ruled out, out of the question, not applicable, far off, n a, off the table, off the mark""",
    "frame": """
        i e, e g, lean towards, leans towards, leaning towards, lean toward, leans toward, leaning toward, more or
        less, a little, a bit, nothing less than, nothing short of, nothing but, none other than, couldn't be more,
        could not be more, can't be more, could not have been more, couldn't have been more, cannot be more, can't
        get more, not least, no less than, if anything, if any, as if to say""",
    "agreement": """
        of course, for sure, very much so, i think so, i believe so""",
    "pseudo_negation": """
        no doubt, no question, without doubt, without a doubt, without question, beyond doubt, no problem, no
        worries, there is no doubt, not only, not just, not merely, not simply, no matter, no wonder""",
    "retraction": """
        scratch that, on second thought, on second thoughts, strike that, take that back, take it back, i was wrong,
        my mistake, i made a mistake, i made an error, i misread, let me reconsider, let me rethink, let me correct,
        i stand corrected, i meant, i mean, my bad, no wait, wait no, just kidding, that was wrong, that is wrong,
        that's wrong, that's not right, that is not right""",
    "condition": """
        if not, in case, had it been, had it, were it, as if, what if, even if, as though""",
    "inability": """
        i cannot, i can not, i can't, i could not, i couldn't, i won't, i will not, i am unable, i am not able, i
        don't feel, i do not feel, i'm unable, i'm not able, i'm not comfortable""",
    "foreign_negation": """
        な い, ま せ ん, 지 않다""",
}
PHRASES: dict[tuple[str, ...], Role] = {
    tuple(phrase.split()): role for role, phrases in _PHRASES_OF_ROLE.items() for phrase in phrases.split(",")
}


# Later sets win: a word in two of them plays the later part.
_WORDS_OF_ROLE: dict[Role, frozenset[str]] = {
    "frame": _FRAME,
    "quoting": _QUOTING,
    "agreement": AGREEMENTS - _FRAME,
    "doubt": _DOUBTS,
    "wrong": _WRONGS,
    "hedge": _HEDGES,
    "contrast": _CONTRASTS,
    "conjunction": _CONJUNCTIONS,
    "condition": _CONDITIONS,
    "pseudo_negation": _PSEUDO_NEGATIONS - _DOUBTS - _FRAME,
    "retraction": _RETRACTIONS,
    "foreign_negation": _FOREIGN_NEGATIONS | CJK_NEGATIONS,
    "negation": _NEGATIONS,
}
_ROLES: dict[str, Role] = {word: role for role, members in _WORDS_OF_ROLE.items() for word in members}


def role_of(word: str) -> Role:
    """The part that a word plays wherever it stands."""
    if role := _ROLES.get(word):
        return role
    if word.endswith("n't"):
        return "negation"
    if word.startswith("n'") and len(word) > 2:  # French: n'est
        return "foreign_negation"
    return "frame" if word.endswith("ly") and len(word) > 4 else "other"


_FUNCTION_ROLES = words("negation conjunction contrast frame quoting condition agreement")


def is_everyday(word: str) -> bool:
    """Whether English uses a word so often that it is an answer only where answers stand."""
    return len(word) == 1 or word in _EVERYDAY


def is_function_word(word: str) -> bool:
    """Whether a word is too common to be a slip for an answer word."""
    return word in _EVERYDAY or role_of(word) in _FUNCTION_ROLES
