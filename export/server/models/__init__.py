"""Which versions of which models are served, and how they are loaded and warmed up."""
