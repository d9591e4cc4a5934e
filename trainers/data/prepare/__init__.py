"""Text to sharded TFRecords of token ids, once, in parallel: `python -m trainers.data.prepare`."""
