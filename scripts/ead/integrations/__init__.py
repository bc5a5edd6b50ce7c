"""One file per host library: EAD and TIS inside transformers, vLLM and verl."""
