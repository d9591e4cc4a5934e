"""`--compile_for=v5e-8`: the steps of a run compiled for TPUs, on a machine that has none."""
