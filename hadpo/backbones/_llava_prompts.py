"""LLaVA's prompts, byte by byte; source: LLaVA's conversation.py."""

from hadpo.backbones._prompt import Prompts, PromptTemplate

_TURN = "USER: <image>\n{instruction} ASSISTANT:"
_AGAIN = PromptTemplate("</s>USER: {instruction} ASSISTANT:")
VICUNA = Prompts(
    train=PromptTemplate(  # conv_vicuna_v1
        "<s>A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        + _TURN
    ),
    evaluate=PromptTemplate(  # conv_llava_v1: "human" where training says "user"
        "<s>A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. "
        + _TURN
    ),
    again=_AGAIN,
)
MINI = Prompts(
    train=PromptTemplate("<s>" + _TURN), evaluate=PromptTemplate("<s>" + _TURN), again=_AGAIN
)
