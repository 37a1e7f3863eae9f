"""MiniGPT-4's prompts, byte by byte; source: conversation.py and minigpt4.py."""

from dataclasses import replace

from hadpo.backbones._prompt import Prompts, PromptTemplate

# The first <Img>...</Img> are words; the picture comes in the second. Blanks at the ends count.
_SYSTEM = (
    "<s>Give the following image: <Img>ImageContent</Img>. You will be able to see the image once "
    "I provide it to you. Please answer my questions."
)
_PICTURE = "<Img><image></Img> {instruction}"
_LLAMA2_TRAIN = PromptTemplate(f"<s>[INST] {_PICTURE} [/INST] ")
LLAMA2 = Prompts(
    train=_LLAMA2_TRAIN,
    evaluate=PromptTemplate(f"{_SYSTEM}<s>[INST] {_PICTURE} [/INST] "),  # yes, a second <s>
    again=PromptTemplate("<s>[INST] {instruction} [/INST] "),  # and no </s> before it
)
LLAMA2_HADPO = replace(  # pope_eval.py and shr_eval.py strip the prompt
    LLAMA2, evaluate=PromptTemplate(f"{_SYSTEM}<s>[INST] {_PICTURE} [/INST]")
)
_VICUNA0_TRAIN = PromptTemplate(f"<s>###Human: {_PICTURE} ###Assistant: ")
VICUNA0 = Prompts(
    train=_VICUNA0_TRAIN,
    evaluate=PromptTemplate(f"{_SYSTEM}###Human: {_PICTURE}###Assistant: "),
    again=PromptTemplate("###Human: {instruction}###Assistant: "),
)
VICUNA0_LRV = replace(  # the older conversation.py of LRV and HIC has no blank at the end
    VICUNA0, evaluate=PromptTemplate(f"{_SYSTEM}###Human: {_PICTURE}###Assistant:")
)
