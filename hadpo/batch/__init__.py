"""Pairs to packed rows: [prefix | chosen | rejected], one row per pair or per image.

The prefix (prompt and image tokens) is read once for both answers. Positions of the rejected answer
restart at the end of the prefix, and the mask keeps the answers apart, so each answer sees exactly
what it would see in a row of its own. Only the states that predict an answer's tokens
are looked at; the first tokens of both answers are predicted by one state, the last of the prefix.

Pairs of one image may share a row, as a tree: [common | rest | chosen | rejected | rest | ...].
What their prefixes have in common, the image tokens above all, is read once for all of them.
"""

from hadpo.batch.examples import Example, fit_answer, tokenize
from hadpo.batch.packing import Packed, aligned, grouped, pack, pack_rows, row_length, row_sizes
from hadpo.batch.scoring import answer_logps, embed, read_pixels, token_table
