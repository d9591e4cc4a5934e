"""Text to sharded TFRecords of token ids, once, in parallel: `python -m trainers.data.prepare`.

`plan.py` parts the source into units, `unit.py` makes the shards of one, `local.py` runs them in
processes and `beam_job.py` on a Beam runner; `folder.py` keeps what is finished, so that a job that
was killed goes on. The format of the result is told in `trainers.data.shard_format`.
"""
