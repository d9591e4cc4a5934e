"""A loaded SavedModel and the runs of its session, batched or not."""
