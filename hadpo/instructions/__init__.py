"""Instruction data: LRV's positive and negative instructions made by a model, and Oxford HIC.

`generate` asks a language model, or the oracle, about images whose regions are known; `hic`
converts humorous captions. Both write files of records, and the originals' own layouts.
"""
