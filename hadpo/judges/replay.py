"""The stored replies of an earlier judging as the judge: no key, no network, no cost.

It reads `judge_replies.jsonl` of a run, or the cache beside the runs, and finds a reply by the
settings, the prompt and the case that it was given to. What is not there is listed, never guessed.
"""

from hadpo.chat import Cache, ChatModel
from hadpo.judges import JudgeSettings
from hadpo.judges._asked import AskedJudge
from hadpo.records import BadInput


def make(*, vocabulary: object, settings: JudgeSettings) -> AskedJudge:
    """The judge; it takes its words from the cases, so the vocabulary is not used."""
    if settings.chat is None or settings.replies is None:
        raise BadInput("judge replay needs judge_model, as it was named when the replies were made")
    chat = ChatModel(settings.chat, Cache.of_file(settings.replies), is_replay=True)
    return AskedJudge(chat, settings)
