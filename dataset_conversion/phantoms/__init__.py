"""Generated miniatures of public data sets, and generated tasks of the benchmark."""
