"""How text becomes words: the tokens that BLEU and NIST count, and those of ROUGE-L, CIDEr and METEOR.

Both follow what the E2E challenge's script uses (Dušek et al. 2020): the rules of mteval-13a, and the Penn Treebank
tokens of Stanford CoreNLP 3.4.1 without punctuation, which that script gets from Java. The second are found here by
longest match over a table of rules that stands for CoreNLP's lexer as far as running English text needs it. Known to
differ: a single letter and full stop before words that open a sentence ("c. The"), 5.x, S&P-500, non-U.S., named
entities of letters (&eacute;), and marks of some scripts of India.
"""

from __future__ import annotations

import re
from functools import lru_cache

_ENTITIES = (("<skipped>", ""), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SYMBOL = re.compile(r"([ -&(-+:-@/\[-`{-~])")  # ASCII punctuation but for ' , - .
_STOP_AFTER_OTHER = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE_OTHER = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])-")


def one_line(text: str) -> str:
    """The text as a line of a file would hold it: line breaks are spaces, the ends are bare."""
    return " ".join(text.splitlines()).strip()


@lru_cache(maxsize=1 << 16)
def mteval_tokens(text: str) -> tuple[str, ...]:
    """Tokens of mteval-13a, lower-cased; an empty text is one empty token, as it is there."""
    text = one_line(text)
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _SYMBOL.sub(r" \1 ", f" {text} ")
    text = _STOP_AFTER_OTHER.sub(r"\1 \2 ", text)
    text = _STOP_BEFORE_OTHER.sub(r" \1 \2", text)
    text = _DASH_AFTER_DIGIT.sub(r"\1 - ", text)
    return tuple(text.lower().split()) or ("",)


_L = r"[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u215f]"  # a letter, of any script
_LD = rf"(?:{_L}|\d)"
_LM = rf"(?:{_L}|[\u00ad\u0300-\u036f\u0900-\u0963])"  # the same, soft hyphens and combining marks
_W = rf"{_LM}(?:{_LM}|\d)*(?:[.!?]{_L}(?:{_LM}|\d)*)*"  # words with no space between sentences stay together
_Q = "['\u2018\u2019\u201b]"  # what may stand as an apostrophe inside a word
_A = "['\u2019]"
_CLITIC = rf"{_A}(?:[msd]|re|ve|ll)"
_PART = rf"(?:[dol]{_Q}{_LD})?{_LD}+"
_SPACE = r"[ \t\u00a0\u2000-\u200a\u3000]"
_NUMBER = r"[-+]?(?:\d*(?:[.:,\u00ad]\d+)+|\d+)"
_ACRONYM = r"[a-z](?:\.[a-z])+"
_ABBREVIATION = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|[ep][dh]\\.d|"
    "mrs?|ms|drs?|profs?|sens?|reps?|attys?|govs?|gen|col|lt|lieut|sgt|maj|cpl|capt|brig|adm|pres|rev|hon|messrs|det|"
    "jr|sr|ste?|ave|blvd|rd|mt|esq|bros|inc|cos?|corp|ltd|plc|dept|univ|assn|natl|intl|elec|mtg|mfg|invt|supt|cie|"
    "ala|ariz|calif|colo|conn|del|fla|ga|ind|kans?|ky|la|md|mich|minn|mo|mont|neb|nev|okla|pa|penn|tenn|tex|va|vt|"
    "wisc?|wyo|(?-i:Ill|Mass|Miss|Ark|Wash|Ore)|alex|wm|jos|etc|al|seq|vs|cf|tel|est|ext|sq|ft|ph|[a-z]"
)
_URL_END = r"[^\s\"<>|.!?(){},-]"

# Each: what becomes the token (group 1) and what must follow it, which counts towards the length of the match.
_RULES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(can)not|(gon)na|(got)ta|(wan)na|(lem)me|(gim)me",
        rf"({_A}t)(?:is|was)",
        r"(</?[a-z!?](?!\w*://)[^>]*>)",
        "(&(?:md|mdash|ndash);|[\u2013-\u2015])",
        r"(&(?:amp|lt|gt|quot|apos|nbsp);|&#[0-9]+;)",
        rf"({_W}){_CLITIC}",
        rf"([a-z\u00ad]*[a-mo-z]\u00ad*)n{_Q}t",
        rf"({_W})",
        rf"({_A}n{_A}?|[ldj]{_A}|dunkin{_A}|somethin{_A}|ol{_A}|{_A}em|{_A}[2-9]0s|{_A}till?|{_A}cause)",
        rf"((?-i:[A-HJ-XZn]){_Q}{_L}{{2,}}|{_L}+[aeiouy]{_Q}(?-i:[aeiouA-Z]){_L}*)",
        r"(nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l|o'clock|ma'am|cap'n|c'est)",
        rf"(y{_A}){_L}",
        rf"(https?://[^\s\"<>|()]+{_URL_END})",
        rf"((?:www\.(?:[^\s\"<>|.!?(){{}},]+\.)+[a-z]{{2,4}}|(?:[^\s\"`'<>|.!?(){{}},\-_$/:]+\.)+(?:com|net|org|edu))"
        rf"(?:/[^\s\"<>|()]+{_URL_END})?)",
        r"([a-z0-9][^\s\"<>|()]*@(?:[^\s\"<>|().]+\.)*[^\s\"<>|().]+)",
        rf"(@[a-z_][a-z_0-9]*|#{_L}+)",
        rf"({_CLITIC})[^a-z]",
        rf"(n{_Q}t)",
        r"(\d{1,2}[-/]\d{1,2}[-/]\d{2,4})",
        rf"({_NUMBER})",
        r"([\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+))",
        r"((?:\d{1,4}[- \u00a0])?\d{1,4}[/\u2044]\d{1,4})",
        r"([a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2})",
        r"((?-i:[A-Z]*)\$|c\+\+|[cf]#)",
        rf"((?:{_ACRONYM}|{_ABBREVIATION})\.)",
        rf"((?:nos?|pp?|figs?|art|prop)\.){_SPACE}*\d",
        rf"({_ACRONYM})\s",
        rf"({_A}[0-9][0-9])\s",
        rf"({_W}\.)[,;:]",
        r"((?:\([0-9]{2,3}\)[ \u00a0]?|\+{0,2}(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
        r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}|(?:\+{0,2}[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})",
        r"([<>]?[:;=][-o*']?(?-i:[()DPOdp\\{@|\[\]]))[^a-z]",
        r"(\.{3,5}|(?:\.[ \u00a0]){2,4}\.|-+|@+|_+|\*+|#+|[?!]+|<<|>>|\")",
        rf"([a-z0-9][a-z0-9.,\u00ad]*(?:-(?:[a-z0-9\u00ad]+|{_ACRONYM}\.))+)",
        rf"({_PART}(?:[-_\u058a\u2010\u2011]{_PART})*)",
        rf"({_PART}(?:[-_\u058a\u2010\u2011]{_PART})*\.)[,;:]",
        r"((?-i:[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+))",
        r"(')[a-z]\S",
        r"([`\u2018-\u201f\u2039\u203a\u00ab\u00bb]{1,2}|'')",
        r"([^\s\x00-\x1f\u2010-\u2012\u2160-\u2188\u3008-\u3011\ue000-\uf8ff\U00010000-\U0010ffff])",  # one character
    )
]
_PLAIN = re.compile(r"([a-z]+)(?=\s)")  # no other rule can take a longer piece of these
_SPLIT = frozenset({"cannot", "gonna", "gotta", "wanna", "lemme", "gimme"})
_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u00a3": "#", "\u20ac": "$", "\u00a4": "$", "\u20a0": "$", "\u00a2": "cents",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2026": "...",
    '"': "''", "&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": "''", "&apos;": "'", "&nbsp;": "",
}  # fmt: skip
_QUOTES = str.maketrans({"\u2018": "`", "\u201b": "`", "\u2039": "`", "\u2019": "'", "\u203a": "'",
                         "\u201c": "``", "\u00ab": "``", "\u201d": "''", "\u00bb": "''"})  # fmt: skip
_SKIPPED = re.compile("[\\s\u200b\u200e\u200f\ufeff]+")
_DROPPED = frozenset({"", "''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})


@lru_cache(maxsize=1 << 16)
def treebank_tokens(text: str) -> tuple[str, ...]:
    """Penn Treebank tokens, lower-cased and without punctuation; a token may hold a no-break space ("5 1/2")."""
    line, position, tokens = one_line(text) + "\n", 0, []
    while position < len(line):
        if skipped := _SKIPPED.match(line, position):
            position = skipped.end()
            continue
        token, position = _next_token(line, position)
        written = _normalised(token)
        if written not in _DROPPED:
            tokens.append(written)
    return tuple(tokens)


def _next_token(line: str, position: int) -> tuple[str, int]:
    """The token that the longest match gives at ``position``, and where it ends; of equals, the first rule's."""
    plain = _PLAIN.match(line, position)
    if plain and plain[1] not in _SPLIT:
        return plain[1], plain.end()
    best = max((match for rule in _RULES if (match := rule.match(line, position))), key=re.Match.end, default=None)
    if best is None:
        return "", position + 1
    group = best.lastindex or 0
    return best[group], best.end(group)


def _normalised(token: str) -> str:
    """A token as the treebank writes it: brackets by name, pounds as #, dashes and ellipses in ASCII."""
    if token.isascii() and token.isalnum():
        return token.lower()
    if token in _WRITTEN:
        return _WRITTEN[token]
    if re.fullmatch(r"[\u2013-\u2015]|&(?:md|mdash|ndash);|-{3,4}", token, re.IGNORECASE):
        return "--"
    if re.fullmatch(r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.", token):
        return "..."
    if len(token) <= 3 or not token[0].isalnum():
        token = token.translate(_QUOTES)
        if token[:1] in "(:;=":  # of a telephone number or a smiley
            token = token.replace("(", "-lrb-").replace(")", "-rrb-")
    return token.replace("\u00ad", "").replace("&amp;", "&").replace(" ", "\u00a0").lower()
