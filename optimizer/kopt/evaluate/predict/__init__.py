"""Modelled time of a candidate at full size, from what was compiled (trace) and what was counted, without a GPU.

stage.py      the stage: counts, models, and says how far to trust it
counted.py    what the counting interpreter found, validated
constants.py  what the model knows about each GPU, with sources; which numbers were fitted
demand.py     what one program asks of each unit of an SM, in clocks
model.py      from demands to microseconds: overlap, latency, waves, power
"""
