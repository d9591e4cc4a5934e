"""Programs for developers: they make the tables and descriptors that the packages hold."""
