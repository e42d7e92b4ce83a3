"""Numbers of the simulated subjects: which belong to which split, and which to the stream of a training."""

#: First simulated subject number of each split, and of the stream of fresh training subjects. A split has fewer than
#: 10 million subjects, so no two of them ever share a subject.
SUBJECT_OFFSETS = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
STREAM_OFFSET = 100_000_000
#: Stream of each training seed: step * batch size must stay below this, so streams of different seeds are disjoint.
STREAM_STRIDE = 20_000_000
#: The simulator numbers subjects with 32 bits, which leaves room for this many streams.
MAX_SEED = (2**32 - 2 - STREAM_OFFSET) // STREAM_STRIDE - 1
