"""What the benchmarks run: models of three sizes, the default scale's task, and its training configuration."""

from pathlib import Path

from ead import seeds
from reproduction.config import Configuration, WarmStartModel, load_scale, runs
from reproduction.data import write_dataset
from reproduction.tasks import TASKS, GeneratedData, GeneratedTask
from reproduction.training import warmstart

# name -> hidden size, layers, heads, MLP size: 115 thousand, 6.5 and 29 million parameters
SIZES = {"115k": (64, 2, 2, 192), "6M": (288, 6, 9, 864), "29M": (512, 8, 8, 1664)}
PROMPTS, ROLLOUTS, FORCED_TOKENS = 32, 8, 64  # a step with forced lengths: 256 responses of 64 tokens


def definition(size: str) -> WarmStartModel:
    hidden, layers, heads, mlp = SIZES[size]
    sizes = {"hidden_size": hidden, "layers": layers, "heads": heads, "mlp_size": mlp}
    return load_scale("cpu").models["tiny"].model_copy(update=sizes)


def write_model(folder: Path, size: str, *, trained: bool = False) -> int:
    """Write a model of that size, with random weights or trained as the default scale's; return its parameters."""
    folder.mkdir(parents=True)
    if trained:
        model, _ = warmstart.train(definition(size), task(), dataset().problems(0, None), root_seed=0)
    else:
        weights = seeds.torch_generator(0, "benchmark", size)
        model = warmstart.build_model(definition(size), task().vocabulary, weights)
    model.save(folder)
    warmstart.write_tokenizer(folder, task().vocabulary)
    return sum(parameter.numel() for parameter in model.parameters())


def dataset() -> GeneratedData:
    """The default scale's training problems."""
    scale = load_scale("cpu")
    return scale.datasets[scale.training.dataset]


def task() -> GeneratedTask:
    return TASKS[dataset().kind]


def write_problems(path: Path, data: GeneratedData | None = None) -> None:
    """Write the problems of ``data``, by default those of :func:`dataset`."""
    data = dataset() if data is None else data
    write_dataset(data.rows(data.problems(0, data.limit), path.stem), path)


def run_configuration(*, forced: bool, sampler: str = "tau1.0") -> runs.RunConfiguration:
    """The default scale's training; ``forced``: one mini-batch of responses of :data:`FORCED_TOKENS` tokens."""
    settings = {"steps": 10_000, "checkpoint_every": 10_000}
    changes: dict = {"training": settings}
    if forced:
        settings |= {
            "prompts": PROMPTS,
            "mini_batch_prompts": PROMPTS,
            "max_new_tokens": FORCED_TOKENS,
        }
    scale = load_scale("cpu", changes)
    return runs.resolve(
        Configuration(),
        scale,
        role="llama_1b",
        algorithm="dapo",
        sampler=sampler,
        rollouts=ROLLOUTS if forced else None,
        seed=0,
    )


def describe(configuration: runs.RunConfiguration) -> dict:
    """What a program that does not know run configurations needs of one."""
    training, algorithm = configuration.training, configuration.algorithm_definition
    return {
        "prompts": training.prompts,
        "n": configuration.n,
        "mini_batches": training.prompts // training.mini_batch_prompts,
        "max_new_tokens": training.max_new_tokens,
        "learning_rate": configuration.learning_rate,
        "betas": list(training.betas),
        "clip_low": algorithm.clip_low,
        "clip_high": algorithm.clip_high,
        "gradient_clip": training.gradient_clip,
    }


def step_flops(size: str) -> dict[str, float]:
    """Floating-point operations of the matrix products with weights in a step with forced lengths.

    Two for each weight and token; the update has three such passes. A prompt is read once for all its responses when
    they are drawn, and with each of them in the update. Attention, norms and the optimiser are left out.
    """
    hidden, layers, _, mlp = SIZES[size]
    in_layers = layers * (4 * hidden**2 + 3 * hidden * mlp)
    head = len(warmstart.token_ids(task().vocabulary)) * hidden
    responses = PROMPTS * ROLLOUTS
    drawn = responses * FORCED_TOKENS
    prompt = len(dataset().problems(0, 1)[0].prompt.split())
    return {
        "sampling": 2.0 * (in_layers * (drawn + PROMPTS * prompt) + head * drawn),
        "update": 6.0 * (in_layers * (drawn + responses * prompt) + head * drawn),
    }
