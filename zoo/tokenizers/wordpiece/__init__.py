"""WordPiece, as BERT has it, in TensorFlow's graph."""
