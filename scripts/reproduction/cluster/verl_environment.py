"""The environment variables of every process of verl and vLLM."""

from reproduction.config import Verl

WORKERS = "reproduction.engines.verl.workers"
CPU_PLATFORM = "reproduction.cluster.verl_cpu"
# For glibc, which reads it when a process starts. On a CPU, logits of 150,000 tokens come and go, and the kernel would
# zero every page of them anew: most of the time of a step.
KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def environment(machine: Verl) -> dict[str, str]:
    """Return the environment variables that every process of verl and vLLM needs."""
    modules = [WORKERS]
    values = {
        "HF_HUB_OFFLINE": "1",  # models and data are local by now
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # vLLM 0.24's second runner has no interface for logits processors
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if machine.device == "cpu":
        modules.insert(0, CPU_PLATFORM)  # verl asks for its platform while the rest is imported
        values |= {
            "VERL_PLATFORM": "cpu",
            "VERL_ENGINE_DEVICE": "cuda",  # the name under which verl registers its FSDP engine
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_worker_niceness": "0",  # Ray's workers would wait for whatever else runs here
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_HOST_IP": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "TORCHDYNAMO_DISABLE": "1",  # compiling costs minutes, and tiny models gain nothing
            "OMP_NUM_THREADS": "1",
            **KEEPS_MEMORY,
        }
    return {**values, "VERL_USE_EXTERNAL_MODULES": ",".join(modules)}
