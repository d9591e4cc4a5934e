"""Will this SavedModel run on a TensorFlow Serving release? Its ops, attributes and signatures."""
