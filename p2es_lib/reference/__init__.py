"""One earlier recording of the person: mean beats per lead, when they were made, and the delay to the pulse.

Reading order: :mod:`p2es_lib.core.reference` (what is kept), :mod:`.mean_beat` (how it is made from a recording),
:mod:`.delay` (how far the pulse is behind), :mod:`.placement` (how it is laid under the pulses of another recording).
"""
