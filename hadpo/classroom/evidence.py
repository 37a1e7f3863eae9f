"""What a mini run's stage prepare has written that the lessons look into."""

from collections.abc import Iterator

from hadpo.judges import oracle
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.records import Answer, Evidence, read_json, read_jsonl
from hadpo.runs import Run


def oracle_of(prepare: Run) -> oracle.Oracle:
    """The judge that knows the words of the run's world."""
    path = prepare.path("vocabulary.json")
    words = read_json(path, dict, expected="run stage prepare again")
    return oracle.make(vocabulary=from_json(words, where=path))


def known_images(prepare: Run) -> dict[str, Evidence]:
    """What is known of each image."""
    every = read_jsonl(prepare.path("evidence.jsonl"), Evidence)
    return {evidence.image_id: evidence for evidence in every}


def own_descriptions(prepare: Run) -> Iterator[Answer]:
    """What the model said of the training images before any training."""
    every = read_jsonl(prepare.path("own_answers.jsonl"), Answer)
    return (answer for answer in every if answer.benchmark == "description")
