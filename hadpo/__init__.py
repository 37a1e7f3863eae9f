"""hadpo: a reproducible research kit for hallucination in vision-language models.

Read `records` first: every stage reads files of records and writes files of records. Importing the
package imports nothing heavy; `python -m hadpo` and the notebooks pull in what they need.
"""

__version__ = "0.1.0"
