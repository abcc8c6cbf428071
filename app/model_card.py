"""The card of an exported model: what it is, what it learnt from, how it was examined, and what it is not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eval.objective import Objective
from feedback.records import OWN
from training.registry import stages_of

Form = Literal["adapter", "merged", "gguf"]
LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "llama.cpp"}
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that `vllm serve --max-lora-rank` takes


@dataclass(frozen=True)
class Base:
    """The model under every version."""

    name: str  # as the objective names it
    sha256: str
    hub_id: str | None  # None for somebody's own folder
    licence: str | None = None  # where it is known
    quantization: str | None = None  # what it was dequantized from


@dataclass(frozen=True)
class Lineage:
    """What a version came from; the base has neither run nor the rest."""

    version: str
    base: Base
    run: Mapping[str, Any] | None = None  # run.json
    decision: Mapping[str, Any] | None = None  # decision.json, once there is one
    dataset: Mapping[str, Any] | None = None  # its manifest
    people: Mapping[str, int] | None = None  # {role: how many said what the dataset was made of}


def model_card(objective: Objective, form: Form, lineage: Lineage) -> str:
    """README.md of the exported folder, with the front matter that a hub reads."""
    sections = [
        _what_it_is(objective, form, lineage),
        "## Use\n\n" + _use(objective, form, lineage),
        "## What it was trained on\n\n" + _training(lineage),
        "## How it was examined\n\n" + _examination(objective, lineage),
        "## Limits\n\n" + _limits(objective, form, lineage),
        "## Licence\n\n" + _licence(lineage),
    ]
    return f"---\n{_front_matter(objective, form, lineage)}\n---\n" + "\n\n".join(sections) + "\n"


def _front_matter(objective: Objective, form: Form, lineage: Lineage) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=lineage.base.hub_id,
        language=objective.curation.language or None,
        library_name=LIBRARIES[form],
        license=lineage.base.licence or "other",
        pipeline_tag="text-generation",
        tags=["ratchet", *(["lora"] if form == "adapter" else []), *stages_of(lineage.run)],
    ).to_yaml()


def _what_it_is(objective: Objective, form: Form, lineage: Lineage) -> str:
    base = lineage.base
    name = f"[{base.hub_id}](https://huggingface.co/{base.hub_id})" if base.hub_id else f"`{_shown(base)}`"
    what = {
        "adapter": "A LoRA adapter for",
        "merged": "Made from",
        "gguf": "In fp32 for llama.cpp, made from",
    }
    tuned = "" if lineage.run is None else ", tuned by Ratchet on what its users and reviewers said"
    return (
        f"# {objective.title}: {lineage.version}\n\n{what[form]} {name}{tuned}. {objective.page.disclaimer}"
    )


def _shown(base: Base) -> str:
    """The base by name, without the place where somebody keeps it."""
    return base.hub_id or base.name.rstrip("/").split("/")[-1]


def _use(objective: Objective, form: Form, lineage: Lineage) -> str:
    version, base = lineage.version, _shown(lineage.base)
    told = f"It expects this system prompt:\n\n```text\n{objective.system_prompt}\n```\n\n"
    if form == "gguf":
        return (
            told + f"```console\n$ llama-server -m {version}.gguf --jinja\n```\n\n"
            "```python\nfrom llama_cpp import Llama\n"
            f'model = Llama("{version}.gguf", n_ctx=2048)\nmodel.create_chat_completion(messages)\n```'
        )
    if form == "merged":
        return (
            told + "```python\nfrom transformers import pipeline\n"
            'model = pipeline("text-generation", "FOLDER")\nmodel(messages, do_sample=False)\n```\n\n'
            "```console\n$ vllm serve FOLDER\n```"
        )
    rank = lineage.run["recipe"]["lora"]["rank"]
    served = next(allowed for allowed in (*VLLM_RANKS, rank) if allowed >= rank)
    exact = (
        f"\n\nThe weights that it was trained on are those of {base} read from {lineage.base.quantization}, so they "
        "differ a little. `ratchet export model base --form merged --out BASE` writes them: name that folder instead."
        if lineage.base.quantization
        else ""
    )
    return (
        told + "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "FOLDER")\n```\n\n'
        f"```console\n$ vllm serve {base} --enable-lora --max-lora-rank {served} --lora-modules {version}=FOLDER"
        f"\n```{exact}"
    )


def _training(lineage: Lineage) -> str:
    run, dataset = lineage.run, lineage.dataset
    if run is None:
        return f"Nothing beside what its makers did (weights and tokenizer: sha256 `{lineage.base.sha256}`)."
    recipe = run["recipe"]
    lines = [_data(run, dataset, lineage.people or {})] if dataset else [f"Dataset `{run['dataset_hash']}`."]
    steps = ", ".join(
        f"{name} {stage['steps']} steps, {stage['tokens']:,} tokens" for name, stage in run["stages"].items()
    )
    if start := run.get("start"):
        lines.append(f"Trained on from {start['version']}, and so from all that it had learnt.")
    lines.append(
        f"LoRA of rank {recipe['lora']['rank']} and alpha {recipe['lora']['alpha']} on all linear layers, seed "
        f"{run['seed']}: {steps}. Chosen: {run['chosen']}; {run['chosen_because']}."
    )
    if "energy_wh" in run:
        lines.append(
            f"Energy of the training, an estimate: {run['energy_wh']:,.2f} Wh; {run['energy_from']}."
        )
    packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    lines.append(
        f"Run {run['run']} on {run['device']}, {run['ended_at'][:10]}, with {packages}.\n\n"
        "| | sha256 |\n|---|---|\n"
        f"| base model | `{lineage.base.sha256}` |\n| adapter | `{run['adapter_sha256']}` |"
    )
    return "\n\n".join(lines)


def _data(run: Mapping[str, Any], dataset: Mapping[str, Any], people: Mapping[str, int]) -> str:
    """The dataset in numbers: nothing in it says who said what."""
    counts = "\n".join(
        f"| {kind} | {n['train']:,} | {n['validation']:,} |"
        for kind, n in run["rows"].items()
        if any(n.values())
    )
    rules = "\n".join(
        f"| {rule} | {n:,} |" for rule, n in dataset["rules"].items() if rule.split(":")[0] in run["rows"]
    )
    knowledge, said = dataset["sources"]["knowledge"], dataset["sources"]["feedback"]
    own = sum(source.startswith(OWN) for source in knowledge)
    tokens = ", ".join(f"{n:,} of {origin}" for origin, n in dataset["tokens"]["by_origin"].items())
    who = ", ".join(f"{role}s: {n:,}" for role, n in people.items()) or "nobody who is still known"
    return f"""Dataset `{dataset["hash"]}`, frozen {dataset["created_at"][:10]}. Personal data was replaced where it
was found.

| source | how many |
|---|---|
| statements about answers | {len(said):,} ({who}) |
| question-answer pairs of the domain's own | {own:,} |
| question-answer pairs that were imported | {len(knowledge) - own:,} |
| tokens to train on | {dataset["tokens"]["trained_on"]:,} ({tokens}) |

| rows | trained on | validated with |
|---|---|---|
{counts}

| rule that made them, both sides | rows |
|---|---|
{rules}"""


def _examination(objective: Objective, lineage: Lineage) -> str:
    decision = lineage.decision
    if decision is None:
        return "Not yet." if lineage.run else "It is what the first candidate is compared with."
    reasons = "\n".join(f"- {reason}" for reason in decision["reasons"])
    rows = "\n".join(
        f"| {name} | {m['champion']:.3f} | {m['candidate']:.3f} | {m['difference']:+.3f} "
        f"[{m['low']:+.3f}, {m['high']:+.3f}] | {m['n']} |"
        for name, m in decision["metrics"].items()
    )
    return f"""Round {decision["round"]} compared it with {decision["champion"]} on items that were held out: \
**{decision["decision"]}**.

{reasons}

| metric | {decision["champion"]} | {lineage.version} | difference, {objective.gate.confidence:.0%} interval | items |
|---|---|---|---|---|
{rows}

The intervals are bootstrapped over clusters of items. Answers were greedy, with a
repetition penalty of {objective.sampling.repetition_penalty:g} as in the chat, of at most {objective.answer_tokens}
tokens."""


def _limits(objective: Objective, form: Form, lineage: Lineage) -> str:
    limits = [
        "The metrics say how near an answer comes to an expert's words, not whether it is true. A model can "
        "invent facts, and repeat what it was trained on.",
        f"Ratchet answers {len(objective.red_flag)} kinds of messages by fixed rules, before the model is asked. "
        "Those rules are not in the weights: without them nothing but the model answers an emergency.",
        "Ratchet takes the chat template's control tokens out of what people write; another server may not.",
        "What people take back later cannot be taken back from a copy: `ratchet erase` names the versions that had "
        "learnt from them.",
    ]
    if lineage.base.quantization and form != "adapter":
        limits.append(
            f"Its base was read from {lineage.base.quantization}; what quantization lost is not here."
        )
    return "\n".join(f"- {limit}" for limit in limits)


def _licence(lineage: Lineage) -> str:
    base = lineage.base
    known = (
        f"The base model is under {base.licence}, which holds for what is made from it."
        if base.licence
        else "The base model's licence holds; it was not recorded here."
    )
    if lineage.run is None:
        return known
    return f"{known} The licences of imported data were not recorded either: look at them before you publish this."
