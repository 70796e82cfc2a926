"""Readers and writers of the formats of imaging, one a module. What brings a dependency is imported when it is needed."""
