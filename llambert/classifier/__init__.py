"""A checkpoint in, labels out: batching, packing and the speed of one machine; no Ray."""
