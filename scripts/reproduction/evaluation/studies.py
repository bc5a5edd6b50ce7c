"""Studies of decoding itself (Figures 1, 2 and 9): the responses they draw; ``figures.inference`` reads them.

A study looks at one model, or at the last checkpoint of one run. Its responses are kept, one row each, in files
that carry the identity of what they were made from (``reproduction.evaluation.responses``):

=========  ===============================================  =================================================
study      file below ``{SCALE}/inference/{study}/``        further columns
=========  ===============================================  =================================================
entropy    ``{decoder}.parquet``                            ``entropies``: list, nats at temperature 1
forking    ``{decoder}/responses.parquet``                  ``token_ids``: list, the response to be cut
           ``{decoder}/fork_{b}.parquet``                   ``parent``: ``sample`` of the response that was cut;
                                                            ``forked``: false where it had ended before b
majority   ``{decoder}.parquet``
=========  ===============================================  =================================================
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ead import seeds
from reproduction.cluster import devices
from reproduction.config import EntropyStudy, ForkingStudy, InferenceRequest, Verl
from reproduction.config.runs import digest
from reproduction.data import read_dataset
from reproduction.evaluation.responses import (
    SAMPLE_COLUMNS,
    describe_samples,
    loaded,
    sample_responses,
    stored_identity,
    write_samples,
)
from reproduction.files import sha256_of_file, sha256_of_model
from reproduction.models.tokenizer import Tokenizer
from reproduction.progress import Progress
from reproduction.sampling import policy
from reproduction.sampling.sampler import Sampler
from reproduction.tasks.grading import Grader, Problem, problems_of


def choose_problems(
    problems: Sequence[Problem], count: int, *, root_seed: int, dataset: str
) -> list[Problem]:
    """Return ``count`` problems drawn without replacement, in the order of the data set.

    A real data set is often sorted by subject, so its first problems would not stand for it. Studies of one data
    set draw from one random order: a smaller study's problems are among those of a larger one.

    Raises ValueError if there are fewer.
    """
    if count > len(problems):
        raise ValueError(f"{dataset}: {count} problems are asked for, it has {len(problems)}")
    order = seeds.generator(root_seed, "inference", "problems", dataset).permutation(len(problems))
    return [problems[index] for index in sorted(order[:count])]


def draw_study(
    request: InferenceRequest,
    model: Path,
    dataset: Path,
    output: Path,
    *,
    label: str,
    progress: Path | None,
    workers: int,
    vllm: Verl | None = None,
) -> list[dict]:
    """Draw what the study lacks below ``output``; return one record per file, for the manifest.

    ``model`` is a folder in Hugging Face format. Responses come from the in-process sampler, or from vLLM on the
    machine that ``vllm`` describes, on GPUs leased for it. A file whose identity still holds is kept as it is.
    """
    study = request.study
    tokenizer = Tokenizer(model)
    candidates = problems_of(read_dataset(dataset))
    if study.max_prompt_tokens is not None:
        prompts = policy.encode(candidates, tokenizer)
        candidates = [
            problem
            for problem, prompt in zip(candidates, prompts, strict=True)
            if len(prompt) <= study.max_prompt_tokens
        ]
    problems = choose_problems(candidates, study.problems, root_seed=request.root_seed, dataset=study.dataset)
    parts = len(study.positions) + 1 if isinstance(study, ForkingStudy) else 1
    with (
        devices.for_sampling(vllm),
        contextlib.ExitStack() as engine,
        Grader(timeout_s=study.verifier_timeout_s, workers=workers) as grader,
        Progress(progress, label, parts * len(request.decoders) * len(problems), "problem") as bar,
    ):
        job = _Job(request, model, vllm, engine, dataset, output, problems, grader, bar)
        for name in request.decoders:
            if isinstance(study, ForkingStudy):
                job.fork(study, name)
            else:
                keep = ["entropies"] if isinstance(study, EntropyStudy) else []
                job.add(f"{name}.parquet", name, 0, partial(job.respond, name, keep=keep))
    return job.records


class _Job:
    """One study being drawn: what is there is kept, the model is loaded for the first file that is not."""

    def __init__(
        self,
        request: InferenceRequest,
        model: Path,
        vllm: Verl | None,
        engine: contextlib.ExitStack,
        dataset: Path,
        output: Path,
        problems: list[Problem],
        grader: Grader,
        bar: Progress,
    ) -> None:
        self.request, self.output, self.problems = request, output, problems
        self.grader, self.bar = grader, bar
        self.records: list[dict] = []
        self._folder, self._vllm, self._engine = model, vllm, engine
        self._sampler: Sampler | None = None
        self._made_from = {
            "model": sha256_of_model(model),
            "dataset": sha256_of_file(dataset),
            **({"engine": "vllm"} if vllm else {}),
        }

    def add(self, file: str, decoder: str, step: int, draw: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the rows of ``file``, drawn now unless they are there, and record them."""
        path = self.output / file
        identity = digest(
            self._made_from
            | {
                "decoder": self.request.decoders[decoder].model_dump(mode="json", exclude={"label"}),
                "study": self._drawn_by(),
                "root_seed": self.request.root_seed,
                "file": file,
            }
        )
        if stored_identity(path) != identity:
            write_samples(draw(), path, identity)
        record = describe_samples(path, self.output, step, decoder, self.request.study.dataset)
        self.records.append(record)
        self.bar.update(len(self.records) * len(self.problems), file.removesuffix(".parquet"))
        return pd.read_parquet(path)

    def _drawn_by(self) -> dict:
        """The part of the study that the responses of one file depend on."""
        analysis_only = {"decoders", "sizes", "baselines", "template_tokens", "positions"}
        # The subject is known by its weights.
        subject = {"model", "role", "algorithm", "sampler"}
        return self.request.study.model_dump(mode="json", exclude=analysis_only | subject)

    def respond(
        self,
        decoder: str,
        *,
        problems: Sequence[Problem] | None = None,
        samples: int | None = None,
        position: int = 0,
        prefixes: Sequence[Sequence[int]] | None = None,
        keep: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Draw and grade responses: by default the study's number to each of its problems, from their start."""
        study = self.request.study
        if self._sampler is None:
            model = loaded(self._folder, self._vllm, max_new_tokens=study.max_new_tokens)
            self._sampler = self._engine.enter_context(model)
        done = len(self.records) * len(self.problems)
        problems = self.problems if problems is None else problems
        part = "responses" if prefixes is None else f"fork {position}"
        return sample_responses(
            self._sampler,
            self.grader,
            problems,
            self.request.decoders[decoder],
            samples=samples or study.samples,
            max_new_tokens=study.max_new_tokens,
            stream=(self.request.root_seed, "inference", study.dataset, decoder, part),
            prefixes=prefixes,
            keep=keep,
            report=lambda share: self.bar.update(
                done + share / len(problems) * len(self.problems), f"{decoder}, {part}"
            ),
        )

    def fork(self, study: ForkingStudy, decoder: str) -> None:
        responses = self.add(
            f"{decoder}/responses.parquet",
            decoder,
            0,
            partial(self.respond, decoder, keep=["token_ids"]),
        )
        for position in study.positions:
            self.add(
                f"{decoder}/fork_{position}.parquet",
                decoder,
                position,
                partial(self._branches, study, decoder, responses, position),
            )

    def _branches(
        self, study: ForkingStudy, decoder: str, responses: pd.DataFrame, position: int
    ) -> pd.DataFrame:
        """Cut every response after ``position`` tokens and draw ``study.branches`` continuations of each.

        A response that had ended by then has nothing left to draw: its branches are its own row. So every
        position is estimated from the same responses.
        """
        going = (responses["tokens"] > position).to_numpy()
        by_id = {problem.id: problem for problem in self.problems}
        cut = responses[going]
        parts = [responses[~going].loc[lambda frame: frame.index.repeat(study.branches)]]
        if len(cut):
            drawn = self.respond(
                decoder,
                problems=[by_id[problem] for problem in cut["problem"]],
                samples=study.branches,
                position=position,
                prefixes=[ids[:position].tolist() for ids in cut["token_ids"]],
            )
            parts.append(drawn.assign(parent=np.repeat(cut["sample"].to_numpy(), study.branches)))
        parts[0] = parts[0].assign(parent=parts[0]["sample"])
        frame = pd.concat(
            [part.assign(forked=forked) for part, forked in zip(parts, (False, True), strict=False)]
        )
        frame["sample"] = frame.groupby(["problem", "parent"]).cumcount()
        return frame[[*SAMPLE_COLUMNS, "parent", "forked"]].sort_values(
            ["problem", "parent", "sample"], ignore_index=True
        )
