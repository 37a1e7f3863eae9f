"""The mini world and its models: small pictures whose content is known exactly, and tiny VLMs.

`build` writes one world in the official formats of Visual Genome, COCO, POPE, SHR and CC-SBU-Align.
The bias of the models in `weights/` is injected by us; a mini run teaches, it is not a result.
"""

from hadpo.mini.files import build
from hadpo.mini.gallery import Exhibit, gallery
