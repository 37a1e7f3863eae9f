"""Training: `steps` is the loop, a generator; `train` is the stage around it."""

from hadpo.trainer.loop import StepMetrics, steps
from hadpo.trainer.stage import decode_batch, held_out_margins, plan, read_records, train
