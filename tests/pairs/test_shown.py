"""What prepare shows of its questions: each of another image, as long as there are others."""

from dataclasses import replace
from types import SimpleNamespace

from hadpo.pairs import sample_questions
from hadpo.records import Question, write_jsonl


def test_questions_are_shown_of_images_of_their_own(tmp_path):
    questions = [
        Question(
            question_id=f"{split}-{n}",
            benchmark="pope",
            split=split,
            image_id=f"i{n // 2}",
            image=f"{n // 2}.png",
            text="Is there a cup?",
        )
        for split in ("random", "popular")
        for n in range(8)
    ]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    run = SimpleNamespace(path=lambda name: tmp_path / name)
    shown = sample_questions(run, 2)  # pyright: ignore[reportArgumentType]
    assert [q.question_id for q in shown] == ["random-0", "random-2", "popular-4", "popular-6"]
    more = sample_questions(run, 3)  # pyright: ignore[reportArgumentType]
    assert [q.question_id for q in more][3:] == ["popular-6", "popular-0", "popular-1"]
    labelled = [replace(q, label=("yes", "no")[i % 2]) for i, q in enumerate(questions)]
    write_jsonl(tmp_path / "questions.jsonl", labelled)
    mixed = sample_questions(run, 2)  # pyright: ignore[reportArgumentType]
    assert [q.question_id for q in mixed] == ["random-0", "random-3", "popular-4", "popular-7"]
