"""Questions to answers: an image is seen once, its prompt read once, questions run in parallel.

Questions are grouped by image. If image tokens do not depend on the instruction, one vision pass
and one prefill of everything before the instruction serve all questions of an image; several images
share a batch. Questions that repeat (POPE asks its positives in three splits) are answered once. In
float32 the answers are those of one question at a time.
"""

from hadpo.generation.answering import generate
from hadpo.generation.decoding import PRESETS, Decoding
from hadpo.generation.processes import Job, Part, generate_in_processes
from hadpo.generation.server import REPLIES, Served
from hadpo.generation.stream import Turn, stream
