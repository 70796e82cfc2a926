from doubling import es, piped  # noqa: F401 (fixtures)
