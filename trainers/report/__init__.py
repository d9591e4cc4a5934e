"""What a run was worth: scores, baselines, figures and the report."""
