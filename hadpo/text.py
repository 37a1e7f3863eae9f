"""Reading text: sentences, yes and no, n-grams. Strings in, plain values out.

Where the original systems read text in their own way, that way is a function named `..._upstream`
or says so: a published number can only be compared under the reading that made it.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

Meaning = TypeVar("Meaning")

_JSON_START = re.compile(r"[{\[]")
_MOST_TRIES = 200  # brackets of a reply at which a JSON value is looked for
_FORMULA = re.compile(r" *[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # how a cell begins that runs
_SPECIAL_TOKENS = re.compile(r"</?s>|<unk>|<pad>|\[PAD\]", flags=re.IGNORECASE)

_TO_PERIOD = re.compile(r"([^.]+)(?:\.\s*(?=\.))*\.?")  # and to the periods right behind it
# A mark with its quotes and brackets before a blank, a new line, or the end of the text.
_MAYBE_AN_END = re.compile(r"([.!?]+[\"'\u2019\u201d)\]]*)(?=\s|\Z)\s*|\n\s*|\Z")
_LISTED = re.compile(r"\(?(?:\d{1,3}|[a-zA-Z])[.)]")  # "1." at the head of an item
_SHORT = re.compile(
    r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|vs|etc|approx|e\.g|i\.e|a\.m|p\.m|[A-Z])\.$"
)


Segmentation = Literal["upstream", "grammar"]


def sentences(text: str) -> list[str]:
    """The sentences of a description, without their final period, as SHR segments them.

    The text is split at every period (also inside "3.5"; never at ? or !). A sentence that equals,
    or lies inside, an earlier one is dropped; `repeated_segments` counts those. Source: HA-DPO
    shr_eval/shr_utils.py, `seg_cap` and `get_model_cap`, which keep the same sentences.
    """
    return [sentence for sentence, _, is_new in _read(text, "upstream") if is_new]


def segments(text: str, how: Segmentation) -> list[str]:
    """The sentences of a description, each with its end, as a judge is shown them.

    Args:
        text: the description.
        how: "upstream": `sentences`, each closed by a period. "grammar": a sentence ends at . ! or
            ? before a blank, and at a new line; not inside "3.5", not after "Mr." or the number of
            a list. Only a sentence that equals an earlier one, whatever its case, is dropped.
    """
    end = "." if how == "upstream" else ""
    return [sentence + end for sentence, _, is_new in _read(text, how) if is_new]


def segmentation_of(claims: Sequence[str], text: str) -> Segmentation | None:
    """How a description was segmented into claims; None: they are not its sentences."""
    ways: tuple[Segmentation, ...] = ("upstream", "grammar")
    return next((how for how in ways if segments(text, how) == list(claims)), None)


def repeated_segments(text: str, how: Segmentation) -> int:
    """How many sentences `segments` drops because an earlier one says the same."""
    return sum(not is_new for _, _, is_new in _read(text, how))


def first_segments(text: str, count: int, how: Segmentation) -> str:
    """The beginning of `text` that holds its first `count` sentences, repeated ones included."""
    end = len(text) - len(text.lstrip(". \n\r\t")) if how == "upstream" else 0
    for _, stop, is_new in _read(text, how):
        if is_new and not count:
            break
        count -= is_new
        end = stop
    return text[:end].rstrip()


def _read(text: str, how: Segmentation) -> Iterator[tuple[str, int, bool]]:
    """Each sentence, where it ends in the text, and whether no earlier one says the same."""
    earlier: list[str] = []
    if how == "grammar":
        for start, end in _spans(text):
            sentence = text[start:end].strip()
            yield sentence, end, sentence.lower() not in earlier
            earlier.append(sentence.lower())
        return
    for match in _TO_PERIOD.finditer(text):
        if sentence := match[1].strip():
            is_new = not any(sentence in other for other in earlier)
            yield sentence, match.end(), is_new
            earlier += [sentence] * is_new


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence, by their marks and by lines."""
    start = 0
    for match in _MAYBE_AN_END.finditer(text):
        end = match.end(1) if match[1] else match.start()
        before = text[start:end]
        if match[1] and (_LISTED.fullmatch(before.strip()) or _SHORT.search(before)):
            continue
        if re.search(r"\w", before):
            yield start, end
            start = match.end()


def yes_no_upstream(text: str) -> Literal["yes", "no"]:
    """A POPE answer as the original script reads it: yes, unless it says no in one of three ways.

    Only the text before the first period counts; commas vanish; if one of its space-separated words
    is exactly "No", "no" or "not", the answer is no. "NO", "No!" and "" are therefore yes.
    Source: POPE evaluate.py (the same in both POPE repositories).
    """
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def yes_no_anywhere(text: str) -> Literal["yes", "no"] | None:
    """A RePOPE answer as its script reads it: "yes" anywhere in it, else "no"; None: neither.

    Letters count, not words: "eyes" says yes, "snowy" and "not" say no.
    Source: RePOPE src/eval_utils.py, `save_answers`.
    """
    said = text.lower()
    return "yes" if "yes" in said else "no" if "no" in said else None


def yes_no_strict(text: str) -> Literal["yes", "no"] | None:
    """A POPE answer by its first word, whatever its case and punctuation; None if that is neither.

    Special tokens such as </s> are removed first. "There is no car" is None: it would have to be
    interpreted, so it is counted as unparsed.
    """
    words = re.findall(r"[a-z0-9']+", _SPECIAL_TOKENS.sub(" ", text).lower())
    if not words:
        return None
    return {"yes": "yes", "no": "no"}.get(words[0].strip("'"))  # pyright: ignore[reportReturnType]


def distinct(text: str, length: int) -> float | None:
    """Share of distinct n-grams of `length` words: 1 means that nothing is said twice.

    None if the text has fewer words than that. The original calls it "repetition" and deletes
    . : ? , and newlines before it splits, which joins the words on both sides of a newline.
    Source: HA-DPO shr_eval/shr_utils.py, `cal_repetition`.
    """
    words = re.sub(r"[.:\n?,]", "", text).split()
    grams = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return len(set(grams)) / len(grams) if grams else None


def word_count(text: str) -> int:
    """Pieces between single spaces, as SHR counts words (so two spaces make an empty word)."""
    return len(text.split(" "))


def article(noun: str) -> Literal["a", "an"]:
    """The article that POPE puts before an object: "an" before a vowel letter."""
    return "an" if noun[:1].lower() in tuple("aeiou") else "a"


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, in order: "A red-hot cup." is a, red, hot, cup."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def says(text: str, right: str) -> bool:
    """Whether a text holds the words of a right answer, one behind the other; False without any."""
    said, wanted = words(text), words(right)
    starts = range(len(said) - len(wanted) + 1)
    return bool(wanted) and any(said[at : at + len(wanted)] == wanted for at in starts)


def longest_terms(
    said: Sequence[str], terms: Mapping[tuple[str, ...], Meaning], *, longest: int
) -> list[Meaning]:
    """What the known terms among words mean, in order; longer terms win, and none overlap.

    Args:
        said: the words.
        terms: words in a row -> what they mean.
        longest: the length of the longest term.
    """
    found, at = [], 0
    while at < len(said):
        for length in range(min(longest, len(said) - at), 0, -1):
            if meaning := terms.get(tuple(said[at : at + length])):
                found.append(meaning)
                at += length
                break
        else:
            at += 1
    return found


def forms(noun: str) -> set[str]:
    """A noun and what could be its regular plurals: bus, buss, buses."""
    plurals = {noun + "s", noun + "es"} | ({noun[:-1] + "ies"} if noun.endswith("y") else set())
    return {noun, *plurals}


def fold(text: str) -> str:
    """The same text for all texts that differ in case, blanks and signs only.

    Words of all scripts count; in a text without any (emoji), every sign does.
    """
    folded = text.casefold()
    return " ".join(re.findall(r"\w+", folded)) or "".join(folded.split())


def visible(text: str) -> str:
    """The text in Unicode's composed form, without characters of no width: what a person sees."""
    if text.isascii():
        return text
    seen = (c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    return "".join(seen)


def fill(template: str, **values: str) -> str:
    """The template with `{name}` replaced by the value of that name; other braces stay.

    It is one pass, so that values may themselves hold braces.
    """
    slots = re.compile(r"\{(" + "|".join(map(re.escape, values)) + r")\}")
    return slots.sub(lambda slot: values[slot[1]], template)


_START = 300  # characters of a text within which a refusal says so
_REFUSAL = re.compile(
    r"\W*(?:(?:(?:i['\u2019]?m|i am|we are)?\s*(?:very |so |really )?(?:sorry|afraid)|"
    r"i apologi[sz]e|my apologies|unfortunately|as an? (?:ai|artificial|(?:large )?language))\b"
    r".{0,120}?)?\b(?:i|we)(?:['\u2019]m| am| are)?\s*(?:do(?:n['\u2019]t| not) have (?:the "
    r"ability|access)|must decline|(?:can['\u2019]?t|can ?not|could not|couldn['\u2019]t|unable to|"
    r"not able to|won['\u2019]?t|will not)\s+(?:\w+ly )?(?:assist|help|comply|fulfil|provide|"
    r"rewrite|process|access|continue|answer|engage|complete|support|generate|create|produce|"
    r"do (?:that|this)|discuss|describe|analy[sz]e|share|(?:see|view) (?:the |any |this )?"
    r"(?:images?|pictures?|photos?)))\b",
    re.IGNORECASE | re.DOTALL,
)


def is_refusal(text: str) -> bool:
    """Whether a language model says at the start that it will not, or cannot, do what it was asked.

    "I cannot see a dog" is an answer; "I'm sorry, but I can't assist with that" is a refusal.
    """
    return bool(_REFUSAL.match(text.strip()[:_START]))


def no_preference(chosen: str, rejected: str) -> str:
    """Why two answers teach no preference; "" if they do."""
    if not chosen.strip() or not rejected.strip():
        return "an empty text"
    if visible(chosen).split() == visible(rejected).split():
        return "chosen and rejected are the same text"
    sides = [n for n, t in (("chosen", chosen), ("rejected", rejected)) if is_refusal(t)]
    return f"{' and '.join(sides)} text is a model's refusal" if sides else ""


_THOUGHT = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|analysis|scratchpad)"
_THOUGHT_START = re.compile(
    rf"[<\[◁]{_THOUGHT}(?:\s[^<>]*)?[>\]▷]|<\|begin_of_thought\|>|<\|channel\|>analysis<\|message\|>",
    flags=re.IGNORECASE,
)
_THOUGHT_END = re.compile(
    rf"[<\[◁]/{_THOUGHT}\s*[>\]▷]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>",
    flags=re.IGNORECASE,
)


def without_thoughts(reply: str) -> str:
    """A reply without what a reasoning model thought before it answered.

    Everything up to the last end of a thought goes (the start may stand in the prompt), and
    everything from a thought that does not end: it was cut off before the answer.
    """
    ends = list(_THOUGHT_END.finditer(reply))
    answer = reply[ends[-1].end() :] if ends else reply
    open_thought = _THOUGHT_START.search(answer)
    return answer[: open_thought.start()] if open_thought else answer


def number(value: Any) -> float | None:
    """A finite number of a reply, also as "7" or "2.0"; None if it is none."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}(?:\.[0-9]{1,9})?\s*", value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e15 else None


def integer(value: Any) -> int | None:
    """A whole number of a reply, also as "2" or 2.0; None if it is none."""
    found = number(value)
    return int(found) if found is not None and found.is_integer() else None


def json_object(reply: str, name: str) -> dict[str, Any] | None:
    """The JSON object of a reply that has the field `name`; None if there is none, or a doubt.

    It may stand in a code fence or between sentences, and braces elsewhere do not matter; a list of
    objects that stands alone is taken as that field. Two different objects with the field are a
    doubt. An object that lacks the field is given only if it is most of the reply.
    """
    values = _json_values(reply)
    for value, _, start in [*values]:
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            before = reply[:start]
            if any(name in each for each in value):
                values += [(each, 0, 0) for each in value]
            elif before.count("{") <= before.count("}"):  # else a part of a broken object
                values.append(({name: value}, 0, 0))
    objects = [(value, size) for value, size, _ in values if isinstance(value, dict)]
    named = [value for value, _ in objects if name in value]
    if named:
        return named[0] if all(value == named[0] for value in named) else None
    most = max(objects, key=lambda found: found[1], default=({}, 0))
    return most[0] if 2 * most[1] > len(reply) else None


def _json_values(reply: str) -> list[tuple[Any, int, int]]:
    """The JSON objects and lists of a text that lie in no other, with their length and start."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_doubts)
    found: list[tuple[Any, int, int]] = []
    at = 0
    tries = _MOST_TRIES
    while tries and (match := _JSON_START.search(reply, at)):
        tries -= 1
        try:
            value, end = decoder.raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            at = match.start() + 1
        else:
            found.append((value, end - match.start(), match.start()))
            at = end
    return found


def _without_doubts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a reply; a field that stands in it twice, with two values, has none."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = value if name not in found or found[name] == value else None
    return found


def csv_cell(value: Any) -> Any:
    """A value for a CSV file: a text that a spreadsheet would run as a formula gets a ' before it.

    Source: OWASP, CSV injection: cells that begin with = + - @, a tab or a carriage return.
    """
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    try:
        float(value)  # a number
    except ValueError:
        return value if value == "-" else f"'{value}"  # "-": nothing was measured
    return value
