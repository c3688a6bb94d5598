"""A host application without models or migration files of its own: each test writes the files that it needs."""
