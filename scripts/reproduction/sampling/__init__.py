"""What draws responses: the in-process sampler, and vLLM."""
