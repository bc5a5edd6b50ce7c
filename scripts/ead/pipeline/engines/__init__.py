"""Training engines behind one contract: a resolved run configuration in, a run folder out."""
