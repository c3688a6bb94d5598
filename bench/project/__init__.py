"""A host project whose migrations are there to be measured."""
