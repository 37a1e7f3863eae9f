"""Named ways to decode: ours, and those that were published with a model."""

from hadpo.generation.decoding import Decoding

_PRESETS = (
    Decoding(name="greedy"),
    # FuxiaoLiu/LRV-Instruction, MiniGPT-4/minigpt4/conversation/conversation.py: the demo
    Decoding(name="lrv-v1", temperature=1.0, top_p=0.9, max_new_tokens=300),
    # FuxiaoLiu/LRV-Instruction, utils/inference.py; a ban on repeated pairs of tokens hurts facts
    Decoding(
        name="lrv-v2", temperature=1.0, top_k=3, top_p=0.9, no_repeat_ngram=2, max_new_tokens=512
    ),
    # Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py
    Decoding(
        name="minigpt4", temperature=1.0, top_p=0.9, repetition_penalty=1.05, max_new_tokens=300
    ),
)
PRESETS = {preset.name: preset for preset in _PRESETS}
