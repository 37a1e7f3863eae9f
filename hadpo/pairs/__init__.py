"""What is trained on: preference pairs, published or mined, and instructions to finetune on."""

from hadpo.pairs.stage import plan, prepare, read_prepared, sample_images, sample_questions
from hadpo.pairs.style import Style, measure_style, summarize_style
