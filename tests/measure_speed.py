"""How fast the small model is examined and trained, beside plain PyTorch: `python -m tests.measure_speed`.

Each part runs in a process of its own, so that the most memory it had can be told; within it ours and the plain way
take turns, batch by batch, on public data (RATCHET_TEST_DATA, else ../shared/data); the plain way has PyTorch's own
matrix products (see training.products). Prints one Markdown table.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("RATCHET_TEST_DATA", "../shared/data"))
OBJECTIVE = Path("objectives/medical")
QUESTIONS, NEW_TOKENS = 48, 60
SFT_STEPS, DPO_STEPS = 8, 5
MATRIX = 2048  # rows and columns of the products that show the machine's peak


def lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def questions() -> list[list[dict[str, str]]]:
    """Prompts of the golden suite, as an evaluation asks them."""
    from eval.objective import load_objective

    system = {"role": "system", "content": load_objective(OBJECTIVE).system_prompt}
    asked = lines(OBJECTIVE / "golden.jsonl")[:QUESTIONS]
    return [[system, {"role": "user", "content": row["question"]}] for row in asked]


def sft_examples() -> list[dict[str, Any]]:
    """Public answers to learn, as many as the steps take."""
    found = random.Random(7).sample(lines(DATA / "medquad_qa.jsonl"), 8 * SFT_STEPS)
    return [
        {
            "prompt": [*questions()[0][:1], {"role": "user", "content": row["question"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
        for row in found
    ]


def pair_examples() -> list[dict[str, Any]]:
    """Public corrections against what the model had said."""
    found = random.Random(7).sample(lines(DATA / "medquad_corrections.jsonl"), 4 * DPO_STEPS)
    return [
        {
            "prompt": [*questions()[0][:1], row["messages"][0]],
            "chosen": [{"role": "assistant", "content": row["correction"]}],
            "rejected": [row["messages"][1]],
        }
        for row in found
    ]


def megabytes() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def matrix_peak() -> float:
    """Floating-point operations a second of a large fp32 product, now."""
    import torch

    left, right = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    began = time.monotonic()
    left @ right
    return 2 * MATRIX**3 / (time.monotonic() - began)


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """While inside, whoever computes matrix products in PyTorch by itself does so."""
    from training.products import hasten

    if (ours := hasten()) is not None:
        ours._destroy()
        hasten.cache_clear()
    try:
        yield
    finally:
        hasten()


# answering


def answering(base: Path, adapter: Path | None, rounds: int) -> dict[str, Any]:
    """`Responder.answers` beside `generate` on the same batches, in turn, twice `rounds` times each."""
    import torch

    from training.rendering import render
    from training.responder import ANSWERING, Responder, _batches

    prompts = questions()
    responder = Responder(base, adapter)
    ids = [render(responder.tokenizer, prompt) for prompt in prompts]
    responder.answers(prompts[:2], 4, lambda done, total: None)

    def ours() -> int:
        return sum(a.tokens for a in responder.answers(prompts, NEW_TOKENS, lambda done, total: None))

    @as_torch_comes()
    @torch.inference_mode()
    def plain() -> int:
        written = 0
        pad = responder.tokenizer.pad_token_id
        for batch in _batches([len(row) for row in ids], ANSWERING, reserve=NEW_TOKENS):
            width = max(len(ids[i]) for i in batch)
            rows = torch.tensor([[pad] * (width - len(ids[i])) + ids[i] for i in batch])
            mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in batch])
            out = responder.model.generate(
                input_ids=rows, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS
            )
            new = out[:, width:]
            written += int(((new != pad).cumprod(-1).sum(-1) + 1).clamp(max=new.shape[1]).sum())
        return written

    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    tokens = {}
    ways = ("ours", ours), ("plain", plain)
    for name, way in (*ways, *reversed(ways)) * rounds:
        began = time.monotonic()
        tokens[name] = way()
        rates[name].append(tokens[name] / (time.monotonic() - began))
    assert tokens["ours"] == tokens["plain"], f"not the same answers: {tokens}"
    rate, plain_rate = (statistics.median(rates[name]) for name in ("ours", "plain"))
    return {"tokens_per_s": rate, "plain_tokens_per_s": plain_rate, "ratio": rate / plain_rate}


# training


def plan_of(base: Path) -> Any:
    """The recipe's defaults on the small model."""
    from training.plan import Plan

    return Plan(run="r0001", dataset=base, dataset_hash="", base_model=base, base_model_name="", recipe={})


class Plain:
    """A plain loop of PyTorch and PEFT: the adapter and the batches of `trainer`, in its order, with its loss."""

    def __init__(self, base: Path, trainer: Any, rows: Any, batch: int) -> None:
        import torch
        from peft import get_peft_model

        from training.base_model import load_model, load_tokenizer
        from training.stage import lora

        self.model = get_peft_model(load_model(base), lora(plan_of(base).recipe)).train()
        self.learned = [weight for weight in self.model.parameters() if weight.requires_grad]
        theirs = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        with torch.no_grad():
            for mine, other in zip(self.learned, theirs, strict=True):
                mine.copy_(other)
        self.optimizer = torch.optim.AdamW(self.learned, weight_decay=0.0, fused=True)
        self.pad = load_tokenizer(base).pad_token_id
        self.batches = (rows.select(range(at, at + batch)) for at in range(0, len(rows), batch))

    @as_torch_comes()
    def step(self, rate: float) -> float:
        """Learn the next batch at `rate`; its loss."""
        import torch
        import torch.nn.functional as F

        from training.rows import NO_LOSS

        rows = next(self.batches)
        width = max(rows["length"])
        ids = torch.tensor([row + [self.pad] * (width - len(row)) for row in rows["input_ids"]])
        labels = torch.tensor([row + [NO_LOSS] * (width - len(row)) for row in rows["labels"]])
        mask = torch.tensor([[1] * length + [0] * (width - length) for length in rows["length"]])
        whole = self.model.get_base_model()
        hidden = whole.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        loss = F.cross_entropy(whole.lm_head(hidden[wanted != NO_LOSS]), wanted[wanted != NO_LOSS])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def operations(model: Any, rows: Any) -> float:
    """Floating-point operations that a step over `rows` cannot do without.

    For each token 4 N, N the weights of the linear layers (forward 2 N, the gradient of what comes in 2 N; frozen
    weights take none), and 6 for each weight of the adapter; for each labelled token 4 V H in the head; for a row of T
    tokens 6 T^2 H a layer of causal attention, half of it masked away.
    """
    config = model.config
    names = model.get_base_model().model.named_parameters()
    frozen = sum(w.numel() for name, w in names if "base_layer" in name)
    adapter = sum(w.numel() for w in model.parameters() if w.requires_grad)
    head = 4 * config.vocab_size * config.hidden_size
    total = 0
    for length, labels in zip(rows["length"], rows["labels"], strict=True):
        labelled = sum(label >= 0 for label in labels)
        attention = 6 * length**2 * config.hidden_size * config.num_hidden_layers
        total += length * (4 * frozen + 6 * adapter) + labelled * head + attention
    return total


def train(trainer: Any, turn: Callable[[float], None]) -> tuple[float, list[float]]:
    """Run `trainer` to its end, with `turn` (told the rate) after each step; its seconds without those, its losses."""
    from transformers import TrainerCallback

    from training.stage import compact_head

    class Pause(TrainerCallback):
        away = 0.0

        def on_step_begin(self, *_: Any, optimizer: Any, **__: Any) -> None:
            self.rate = optimizer.param_groups[0]["lr"]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            began = time.monotonic()
            turn(self.rate)
            self.away += time.monotonic() - began

    pause = Pause()
    trainer.add_callback(pause)
    began = time.monotonic()
    with compact_head():
        trainer.train()
    seconds = time.monotonic() - began - pause.away
    return seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line]


def stage_in(folder: Path, name: str) -> Any:
    """A stage whose progress nobody keeps."""
    from training.interruption import Interruption
    from training.progress import ProgressFile
    from training.stage import Stage

    return Stage(name, folder / name, ProgressFile(folder / "progress.jsonl", False), Interruption())


def sft(base: Path, folder: Path) -> dict[str, Any]:
    """SFT's steps, each followed by the plain loop's."""
    from training.base_model import load_tokenizer
    from training.device import this_device
    from training.rows import sft_rows
    from training.sft import sft_trainer
    from training.stage import learned, ordered, save_adapter

    plan, stage = plan_of(base), stage_in(folder, "sft")
    rows, _ = sft_rows(load_tokenizer(base), sft_examples(), plan.recipe.max_length)
    order = ordered(rows, plan.recipe.sft, plan.recipe.seed, None, this_device())
    trainer = sft_trainer(plan, rows, stage, this_device())
    plain = Plain(base, trainer, order, plan.recipe.sft.batch_size)
    peaks, plain_peaks, plain_seconds, plain_losses = [], [], [], []

    def turn(rate: float) -> None:
        peaks.append(matrix_peak())
        with as_torch_comes():
            plain_peaks.append(matrix_peak())
        began = time.monotonic()
        plain_losses.append(plain.step(rate))
        plain_seconds.append(time.monotonic() - began)

    seconds, losses = train(trainer, turn)
    for mine, other in zip(losses, plain_losses, strict=True):
        assert abs(mine - other) < 2e-3, f"not the same work: {losses}, {plain_losses}"
    save_adapter(trainer.model, learned(trainer.model), stage)
    tokens, peak = sum(order["length"]), statistics.median(peaks)
    return {
        "tokens_per_s": tokens / seconds,
        "plain_tokens_per_s": tokens / sum(plain_seconds),
        "ratio": sum(plain_seconds) / seconds,
        "share_of_peak": operations(trainer.model, order) / seconds / peak,
        "peak": peak,
        "plain_peak": statistics.median(plain_peaks),
        "padding": padding(order, trainer.args.per_device_train_batch_size),
    }


def padding(rows: Any, batch: int) -> float:
    """The share of padding in what the model reads."""
    lengths = rows["length"]
    read = sum(batch * max(lengths[at : at + batch]) for at in range(0, len(lengths), batch))
    return 1 - sum(lengths) / read


def sft_alone(base: Path, folder: Path) -> dict[str, Any]:
    """Two steps on the longest of the rows, for the memory they take."""
    from training.base_model import load_tokenizer
    from training.device import this_device
    from training.rows import sft_rows
    from training.sft import sft_trainer

    plan = plan_of(base)
    rows, _ = sft_rows(load_tokenizer(base), sft_examples(), plan.recipe.max_length)
    longest = rows.sort("length", reverse=True).select(range(16))
    train(sft_trainer(plan, longest, stage_in(folder, "alone"), this_device()), lambda rate: None)
    return {"longest": max(longest["length"])}


def dpo(base: Path, folder: Path) -> dict[str, Any]:
    """DPO's steps from the adapter that SFT left."""
    from training.base_model import load_tokenizer
    from training.device import this_device
    from training.preference import dpo_trainer
    from training.rows import pair_rows

    plan = plan_of(base)
    rows, _ = pair_rows(load_tokenizer(base), pair_examples(), plan.recipe.max_length)
    began = time.monotonic()
    trainer = dpo_trainer(plan, rows, folder / "sft" / "adapter", stage_in(folder, "dpo"), this_device())
    reference = time.monotonic() - began
    seconds, _ = train(trainer, lambda rate: None)
    tokens = sum(
        2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows
    )
    return {
        "tokens_per_s": tokens / seconds,
        "with_reference": tokens / (seconds + reference),
        "longest": max(rows["length"]),
    }


PARTS = {
    "answers": lambda base, folder: answering(base, None, rounds=2),
    "sft": sft,
    "dpo": dpo,
    "tuned": lambda base, folder: answering(base, folder / "sft" / "adapter", rounds=1),
    "alone": sft_alone,
}


def part(name: str, base: Path, folder: Path) -> None:
    """One part, alone in its process; prints what it found."""
    import torch

    from training.threads import usable_threads

    torch.set_num_threads(usable_threads())
    print(json.dumps(PARTS[name](base, folder) | {"megabytes": megabytes()}))


def table(found: dict[str, dict[str, Any]], model: float) -> str:
    """The figures as Markdown; `model` is the size of the weights in MB."""
    answers, tuned, taught, pairs, alone = (found[p] for p in ("answers", "tuned", "sft", "dpo", "alone"))

    def memory(of: dict[str, Any]) -> str:
        return f"{of['megabytes']:.0f} MB, {of['megabytes'] / model:.1f}"

    rows = [
        ("what", "ours", "plain PyTorch", "ratio"),
        ("---",) * 4,
        *(
            (what, f"{f['tokens_per_s']:.0f}", f"{f['plain_tokens_per_s']:.0f}", f"{f['ratio']:.2f}")
            for what, f in (
                ("answers of the base model, tokens/s", answers),
                ("answers of a tuned model, tokens/s", tuned),
                ("SFT, tokens/s", taught),
            )
        ),
        (
            "SFT, share of the matrix peak",
            f"{taught['share_of_peak']:.2f}",
            f"{taught['share_of_peak'] / taught['ratio']:.2f}",
            "",
        ),
        (
            "DPO, tokens/s",
            f"{pairs['tokens_per_s']:.0f}",
            "",
            f"{pairs['tokens_per_s'] / taught['tokens_per_s']:.2f} of SFT",
        ),
        (
            "DPO with the reference's pass",
            f"{pairs['with_reference']:.0f}",
            "",
            f"{pairs['with_reference'] / taught['tokens_per_s']:.2f} of SFT",
        ),
        (
            "large product, GFLOP/s",
            f"{taught['peak'] / 1e9:.0f}",
            f"{taught['plain_peak'] / 1e9:.0f}",
            f"{taught['peak'] / taught['plain_peak']:.2f}",
        ),
        ("most memory, answers; over the model's size", memory(answers), "", ""),
        (f"most memory, SFT (rows up to {alone['longest']} tokens)", memory(alone), "", ""),
        (f"most memory, DPO (up to {pairs['longest']})", memory(pairs), "", ""),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    if not DATA.is_dir():
        sys.exit(
            f"NO PUBLIC DATA: {DATA} does not exist; name it with RATCHET_TEST_DATA. Nothing was measured."
        )
    from app.settings import read_settings
    from training.base_model import base_model_folder

    base = base_model_folder("smollm2-135m-instruct", read_settings().cache)
    size = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 1e6
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PARTS:
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "tests.measure_speed",
                "part",
                name,
                str(base),
                folder,
            ]
            said = subprocess.run(
                command, check=True, env=environment, stdout=subprocess.PIPE, text=True
            ).stdout
            found[name] = json.loads(said.splitlines()[-1])
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    print(table(found, size))


if __name__ == "__main__":
    if sys.argv[1:2] == ["part"]:
        part(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
