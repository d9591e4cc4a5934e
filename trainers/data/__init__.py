"""From text to training batches: `sources` finds documents, `corpus` splits and encodes them."""
