"""Section `data`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import STRICT, Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the data sets lie, each in its official layout; an empty path means: not used."""

    mini_seed: Count = 0  # > 0: draw the synthetic world with this seed into the run folder
    mini_train_images: Count = 0  # images of the synthetic world to mine pairs from
    mini_test_images: Count = 0  # held-out images of the synthetic world to evaluate on
    visual_genome: str = ""  # folder with image_data.json, VG_100K, VG_100K_2
    pairs_folder: str = ""  # folder with HA-DPO's desc_data.json and pope_data.json
    pairs_schema: Literal["llava-v1.5", "minigpt4", "instructblip"] = "llava-v1.5"  # of these files
    instructions: str = ""  # to finetune on, comma separated: LRV's .json, .jsonl, caption folders
    coco: str = ""  # folder with val2014 and objects.json
    vocabulary: str = ""  # JSON of the words the oracle judge knows; empty: from the evidence
