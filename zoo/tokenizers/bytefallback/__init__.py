"""BPE of characters with bytes for those that it lacks, as Llama 2, Mistral and Gemma have it."""
