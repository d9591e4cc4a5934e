"""What each request means, whatever brought it: Predict, Classify, Regress, MultiInference."""
