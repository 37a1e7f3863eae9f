"""What a mini world says beside captions: instructions, questions, jokes, words of objects."""

import random
from collections.abc import Mapping
from typing import Any

from hadpo.mini.captions import claim_of, sentence, with_article
from hadpo.mini.world import CATEGORIES, COLOURS, SETTINGS, Scene


def instructions(test: Mapping[int, Scene], seed: int) -> list[dict[str, str]]:
    """GAVIE's questions: of each image one about what is there, and two that mislead.

    The tasks name the two sorts of negative instructions of LRV-Instruction: about an object that
    is not there, and about one that is, with a wrong attribute.
    """
    found = []
    for key, scene in test.items():
        draw = random.Random(f"{seed}/instructions/{key}")
        thing = draw.choice(list(scene.objects))
        absent = draw.choice([name for name in CATEGORIES if name not in scene.categories])
        same = {other.colour for other in scene.objects if other.category == thing.category}
        colour = draw.choice([name for name in COLOURS if name not in same])
        asked = {
            "positive": f"What color is the {thing.category}?",
            "negative: absent object": f"Describe the {absent}.",
            "negative: wrong attribute": f"Describe the {colour} {thing.category}.",
        }
        found += [
            {"image_id": str(key), "question": text, "task": task} for task, text in asked.items()
        ]
    return found


def gqa_questions(test: Mapping[int, Scene]) -> dict[str, dict[str, str]]:
    """Questions with one right answer, as GQA's files have them: a colour and a place per image."""
    found = {}
    for key, scene in test.items():
        thing = scene.objects[0]
        asked = {
            "color": (f"What color is the {thing.category}?", thing.colour),
            "place": (f"Where is the {thing.category}?", thing.place),
        }
        for name, (text, answer) in asked.items():
            record = {"question": text, "answer": answer, "imageId": str(key)}
            found[f"{key}-{name}"] = record
    return found


def mmhal_questions(test: Mapping[int, Scene], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """MMHal-Bench's file: of each image one question, in turn of three of its eight types.

    `names` are the images' files; the person's answers are the shortest that are right.
    """
    found = []
    for number, (key, scene) in enumerate(test.items()):
        thing = scene.objects[0]
        absent = next(name for name in CATEGORIES if name not in scene.categories)
        kind, question, answer = (
            ("attribute", f"What color is the {thing.category}?", thing.colour),
            ("adversarial", f"What color is the {absent}?", f"no {absent}"),
            ("relation", f"Where is the {thing.category}?", thing.place),
        )[number % 3]
        record = {"question_type": kind, "image_id": names[key].removesuffix(".jpg")}
        record |= {"image_src": "", "image_content": sorted(scene.categories)}
        found.append(record | {"question": question, "gt_answer": answer, "model_answer": ""})
    return found


def hallusion_questions(
    test: Mapping[int, Scene], names: Mapping[int, str]
) -> list[dict[str, str | None]]:
    """HallusionBench's file: of each image a set of VD and one of VS, `names` being the files.

    VD asks of a thing in the image, and again about the next image, which is the edited one. VS
    asks for a colour, at first without the image.
    """
    fields = ("category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note")
    fields += ("question_id", "question", "gt_answer_details", "gt_answer", "filename")
    found: list[dict[str, str | None]] = []
    scenes = [*test.items()]
    for at, (key, scene) in enumerate(scenes):
        other, edited = scenes[(at + 1) % len(scenes)]
        thing, colour = scene.objects[0].category, scene.objects[0].colour
        there = f"Is there {with_article(thing)} in the image?"
        shown = "There is one.", "There is none."
        seen = f"Is the {thing} {colour}?", f"It is {colour}."
        asked = (
            ("VD", "object", "1", "0", there, shown[0], names[key]),
            ("VD", "object", "2", "1", there, shown[thing not in edited.categories], names[other]),
            ("VS", "colour", "0", "0", *seen, None),
            ("VS", "colour", "1", "1", *seen, names[key]),
        )
        for *kind, figure, question, details, file in asked:
            right = str(int(details != shown[1]))
            values = (*kind, str(at), figure, "mini", "0", question, details, right, file)
            found.append(dict(zip(fields, values, strict=True)))
    return found


def amber_files(test: Mapping[int, Scene], names: Mapping[int, str]) -> dict[str, Any]:
    """AMBER's JSON files by name; `names` are the images' files.

    Of each image a description, whose expected objects are those that its setting usually has, and
    four questions: one about an absent object (as all of Existence), one about a colour, two about
    a number.
    """
    queries: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []

    def add(key: int, query: str, kind: str, **truth: Any) -> None:
        queries.append({"id": len(queries) + 1, "image": names[key], "query": query})
        truths.append({"id": len(truths) + 1, "type": kind, **truth})

    for at, (key, scene) in enumerate(test.items()):
        present = sorted(scene.categories)
        usual = [name for name in SETTINGS[scene.setting] if name not in present][:3]
        thing = scene.objects[0]
        other = next(colour for colour in COLOURS if colour != thing.colour)
        colour, is_so = ((thing.colour, "yes"), (other, "no"))[at % 2]
        add(key, "Describe this image.", "generative", truth=present, hallu=usual)
        absent = usual[0] if usual else next(n for n in CATEGORIES if n not in present)
        there = f"Is there {with_article(absent)} in this image?"
        add(key, there, "discriminative-hallucination", truth="no")
        state = f"Is the {thing.category} {colour} in this image?"
        add(key, state, "discriminative-attribute-state", truth=is_so)
        for count, truth in (("one", "yes"), ("two", "no")):
            number = f"Is there exactly {count} {thing.category} in this image?"
            add(key, number, "discriminative-attribute-number", truth=truth)
    relation: dict[str, list[str]] = {name: [] for name in CATEGORIES}
    return {"query_all": queries, "annotations": truths, "relation": relation}


def jokes(scene: Scene, rng: random.Random, count: int) -> list[str]:
    """Up to `count` jokes about different objects, to finetune on as Oxford HIC's captions.

    A joke is "Ha ha. The {place} shows {phrase}. What an umbrella." What it states is true, so only
    the style changes by learning jokes, and it can be measured whether truth changes with it.
    """
    things = rng.sample(scene.objects, min(count, len(scene.objects)))
    return [f"Ha ha. {sentence(claim_of(t))} What {with_article(t.category)}." for t in things]
