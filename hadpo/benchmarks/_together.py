"""All models' answers to one question, judged side by side in a drawn order."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator

from hadpo.records import Answer


def together(answers: Iterable[Answer], *, seed: int) -> Iterator[tuple[str, list[Answer]]]:
    """Question ids with the answers to them; graders favour places, so seed and id shuffle them."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.question_id].append(answer)
    for key, group in groups.items():
        shown = sorted(group, key=lambda answer: answer.model)
        random.Random(f"{seed}/{key}").shuffle(shown)
        yield key, shown
