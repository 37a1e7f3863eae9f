"""The mini tokenizer: a sentencepiece model with LLaMA's settings, trained on the mini language.

Every word of the language is one piece, so a sentence costs about nine tokens; anything else is
spelt in letters or bytes.
"""

import io
import random
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import sentencepiece

from hadpo.mini.captions import (
    DESCRIPTION_QUESTIONS,
    facts,
    presence_question,
    true_sentences,
)
from hadpo.mini.world import CATEGORIES, COLOURS, PLACES, scenes

VOCABULARY_SIZES = range(450, 800, 10)
ROLES = ("USER:", "ASSISTANT:")
_WORD = re.compile(r"(?<![^ ])[A-Za-z]+(?![^ .,:])")  # of letters alone


def texts() -> list[str]:
    """The language the tokenizer learns from.

    A question stands behind a full stop too: after the newline that follows the image its first
    word has no space before it, and is a piece of its own.
    """
    lines = [
        line for scene in islice(scenes(0, held_out=False), 400) for line in true_sentences(scene)
    ]
    lines += [line for scene in islice(scenes(0, held_out=False), 60) for line in facts(scene)]
    lines += [presence_question(name) for name in CATEGORIES] * 20
    lines += [f"What is at the {place}?" for place in PLACES] * 20
    lines += [f"Where is the {name}?" for name in CATEGORIES] * 20
    lines += [f"There is no {name}. a {colour}, an" for name in CATEGORIES for colour in COLOURS]
    lines += [*DESCRIPTION_QUESTIONS, "Yes.", "No.", *ROLES] * 60
    asked = ("Describe", "Take", "Please", "Could", "Is", "What", "Where")
    lines += [f".{word}" for word in asked] * 60
    random.Random(0).shuffle(lines)
    return lines


def words(lines: Iterable[str] = ()) -> list[str]:
    """Every word of the language, and of more lines, in the form in which it occurs."""
    found = {f" {word.rstrip('.,?:')}" for line in texts() for word in line.split()}
    found |= {f" {word}" for line in lines for word in _WORD.findall(line)}
    return sorted(word.replace(" .", "").replace(" ", "▁") for word in found)


def train(path: Path, prompts: Sequence[str] = ()) -> sentencepiece.SentencePieceProcessor:
    """Write the smallest `tokenizer.model` in which every word is one piece, and return it.

    Args:
        path: the file.
        prompts: texts around instructions, whose words become pieces too.
    """
    corpus = [*texts(), *list(prompts) * 60]
    for size in VOCABULARY_SIZES:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=model,
            vocab_size=size,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        pieces = {processor.id_to_piece(index) for index in range(processor.vocab_size())}
        if pieces.issuperset(words(prompts)):
            path.write_bytes(model.getvalue())
            return processor
    raise ValueError(f"no vocabulary up to {VOCABULARY_SIZES.stop} pieces holds every word whole")
