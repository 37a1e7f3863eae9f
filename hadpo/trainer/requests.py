"""What is asked where a record is a caption without a request; one is drawn for each record.

The originals draw one for each batch anew. Ours is drawn from the seed and the record's id, so that
a training sees the same texts however often it is started.
"""

import random

REQUESTS = {
    "detailed": (  # Vision-CAIR/MiniGPT-4, prompts/alignment.txt; HA-DPO asks the same four
        "Describe this image in detail.",
        "Take a look at this image and describe what you notice.",
        "Please provide a detailed description of the picture.",
        "Could you describe the contents of this image for me?",
    ),
    "humour": (  # Oxford HIC at 06340d3, minigpt4/prompts/alignment.txt
        "Describe this image in a funny way.",
        "Take a look at this image and tell a joke about it.",
        "Please provide a humourous description of the picture.",
        "Could you write a funny caption of this image for me?",
    ),
}


def request(name: str, record_id: str, seed: int) -> str:
    """One of the requests `name`, the same for the same record and seed."""
    return random.Random(f"{seed}/request/{record_id}").choice(REQUESTS[name])
