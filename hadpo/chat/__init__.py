"""Ask a language model, once: an OpenAI-compatible server, a cache, a budget, and replay.

`ChatModel.ask` sends what the cache does not know, several requests at a time, and writes each
reply to the cache before it is read, so nothing that was paid for is lost. Errors, refusals and
truncated replies are never cached. The server's address and key come from the
environment (OPENAI_BASE_URL, OPENAI_API_KEY) and are written nowhere.
"""

from hadpo.chat.cache import Cache, cache_file
from hadpo.chat.model import ChatModel
from hadpo.chat.request import (
    Bill,
    ChatResult,
    ChatSettings,
    Prompt,
    Reply,
    Request,
    Unfinished,
    object_schema,
)
