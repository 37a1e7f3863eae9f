"""Browse descriptions of one or several runs side by side: fixed, broken, still hallucinated."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from hadpo.explore.browser import Browser, Entry
from hadpo.explore.folders import Folders, folders_of
from hadpo.figures import Card, Column, text_card, verdict_lines
from hadpo.records import Question, Verdict, read_jsonl
from hadpo.runs import Run
from hadpo.tables import model_title

Said = dict[tuple[str, str], list[Verdict]]  # run and model -> verdicts, sentence by sentence


def browse_answers(
    *runs: Run | str,
    models: Sequence[str] = ("base", "merged"),
    benchmark: str = "shr",
    per_page: int = 2,
) -> Browser:
    """Judged answers to the same questions, the answers of all runs and models beside each other.

    "fixed" are answers with a wrong sentence before tuning and none after it, "broken" the other
    way round; both compare the first and the last of the columns.

    Args:
        runs: evaluated runs, open or by name; those of other questions have other cards.
        models: which models' answers, in this order.
        benchmark: one whose sentences were judged.
        per_page: cards at a time.

    Raises:
        BadInput: no such run, or a broken file.
    """
    folders = [folders_of(run) for run in runs]
    questions: dict[tuple[str, str], Question] = {}
    said: dict[tuple[str, str], Said] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        own = {q.question_id: q for q in folder.questions(benchmark)}
        for verdict in read_jsonl(folder.evaluated / "verdicts.jsonl", Verdict):
            question = own.get(verdict.case_id)
            if question is None or verdict.model not in models:
                continue
            place = (question.image_id, question.text)
            questions.setdefault(place, question)
            said[place][folder.name, verdict.model].append(verdict)
    columns = [(folder.name, model) for folder in folders for model in models]
    entries = [
        _entry(question, said[place], columns, folders) for place, question in questions.items()
    ]
    is_mini = any(folder.is_mini for folder in folders)
    return Browser(entries, title="judged answers", per_page=per_page, is_mini=is_mini)


def _wrong(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.label == "hallucination" for verdict in verdicts)


def _entry(
    question: Question,
    said: Said,
    columns: Sequence[tuple[str, str]],
    folders: Sequence[Folders],
) -> Entry:
    present = [column for column in columns if column in said]
    counts = [_wrong(said[column]) for column in present]
    first, last = counts[0], counts[-1]
    outcome = "right in both"
    if first or last:
        outcome = "hallucinated in both" if first and last else "fixed" if first else "broken"
    if len(present) == 1:
        outcome = "hallucinated" if first else "right"
    claims = [{v.claim for v in said[column]} for column in present]
    return Entry(
        partial(_card, question, said, present, folders),
        {"outcome": outcome, "split": question.split},
        {
            "where they differ most": len(set.union(*claims) - set.intersection(*claims)),
            "most gained": first - last,
            "most lost": last - first,
            "most wrong sentences": sum(counts),
        },
        f"{question.image_id} " + " ".join(v.claim for vs in said.values() for v in vs),
    )


def _card(
    question: Question,
    said: Mapping[tuple[str, str], Sequence[Verdict]],
    columns: Sequence[tuple[str, str]],
    folders: Sequence[Folders],
) -> Card:
    parts = []
    for run, model in columns:
        verdicts = said[run, model]
        name = f"{run}, {model_title(model)}" if len(folders) > 1 else model_title(model)
        heading = f"{name}: {_wrong(verdicts)} of {len(verdicts)} wrong"
        parts.append(Column(heading, verdict_lines(verdicts)))
    return text_card(
        question.image,
        parts,
        title=f"Image {question.image_id}: {question.text}",
        note="✓ true; ✗ wrong; ? not to be judged.",
        is_mini=any(folder.is_mini for folder in folders),
    )
