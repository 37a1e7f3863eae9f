"""A language model on an OpenAI-compatible server as the judge (OPENAI_BASE_URL, OPENAI_API_KEY).

It rules by the rubrics in `prompts/`, which are ours: scores of another prompt or model cannot be
compared with published ones.
"""

from hadpo.chat import Cache, ChatModel
from hadpo.judges import JudgeSettings
from hadpo.judges._asked import AskedJudge
from hadpo.records import BadInput


def make(*, vocabulary: object, settings: JudgeSettings) -> AskedJudge:
    """The judge; it takes its words from the cases, so the vocabulary is not used."""
    if settings.chat is None:
        raise BadInput("judge llm needs judge_model, the name of a model of the server")
    chat = ChatModel(settings.chat, Cache(settings.replies))
    return AskedJudge(chat, settings)
