"""One module per host library: EAD inside transformers, vLLM and SGLang; EAD and TIS inside verl and TRL."""
