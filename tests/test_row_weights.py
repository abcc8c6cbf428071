"""A row counts as its weight says: an epoch shows it as often."""

import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training import QUICK, finished, new_run, pair_row, sft_row

from training.base_model import load_tokenizer
from training.device import Device
from training.recipe import Sft
from training.rows import pair_rows, read_rows, sft_rows, training_order
from training.stage import ordered

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = [10 * (row % 7) + row % 3 for row in range(40)]


def test_weights_of_one_change_nothing():
    """The order is the one without weights, row by row, for whole epochs and parts."""
    for epochs in (0.3, 1, 2.5):
        without = training_order(LENGTHS, batch=4, epochs=epochs, seed=3)
        assert training_order(LENGTHS, batch=4, epochs=epochs, seed=3, weights=[1.0] * 40) == without


def test_a_quarter_of_the_weight_is_a_quarter_of_the_times():
    """Over many epochs each row is shown its weight's share of them, and one of weight 1 in every epoch."""
    weights = [0.25, 1.0, 0.6, 0.25] * 10
    times = Counter(training_order(LENGTHS, batch=4, epochs=200, seed=1, weights=weights))
    for row, weight in enumerate(weights):
        assert times[row] == 200 if weight == 1 else abs(times[row] - 200 * weight) < 25
    assert sum(times.values()) == pytest.approx(200 * sum(weights), abs=1)


def test_in_one_epoch_chance_decides_which_rows_are_shown():
    """Over the seeds a row of weight 0.25 is in a quarter of the first epochs, also where it is the only one."""
    weights = [1.0] * 39 + [0.25]
    seen = sum(39 in training_order(LENGTHS, batch=4, epochs=1, seed=s, weights=weights) for s in range(400))
    assert 70 <= seen <= 130


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30), st.integers(0, 99), st.integers(1, 4))
def test_an_epoch_shows_the_sum_of_the_weights(weights, seed, epochs):
    """Within one row for any weights, none more than once an epoch, and never nothing; laid out the same each time."""
    lengths = [10 + row for row in range(len(weights))]
    order = training_order(lengths, batch=4, epochs=epochs, seed=seed, weights=weights)
    assert order == training_order(lengths, batch=4, epochs=epochs, seed=seed, weights=weights)
    assert len(order) >= 1 and abs(len(order) - max(1, epochs * sum(weights))) < 1 + 1e-6
    assert max(Counter(order).values()) <= epochs


@pytest.mark.parametrize(
    ("kind", "row", "tokenise"), [("sft", sft_row, sft_rows), ("preference", pair_row, pair_rows)]
)
def test_the_weights_of_a_dataset_reach_the_trainer(tmp_path, model, kind, row, tokenise):
    """From the Parquet file to what a stage reads; a row without one counts whole."""
    heavy, light = row(1), row(22)
    table = [heavy | {"weight": 1.0}] * 10 + [light | {"weight": 0.25}] * 40
    (tmp_path / kind).mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / kind / "train.parquet")
    tokenizer = load_tokenizer(model)
    rows, _ = tokenise(tokenizer, read_rows(tmp_path, kind, "train"), 512)
    read = ordered(rows, Sft(epochs=2), seed=1, max_steps=None, device=Device("cpu"))
    times = Counter(read["weight"])
    assert times[1.0] == 20 and times[0.25] == pytest.approx(20, abs=1)
    assert tokenise(tokenizer, [row(1)], 512)[0]["weight"] == [1.0]


def test_run_json_says_how_often_rows_were_shown(tmp_path, model):
    """What an epoch showed in all, and how many rows each stage was shown."""
    run = new_run(tmp_path, model, sft=(16, 4), preference=(8, 0), recipe=QUICK | {"sft": {"epochs": 2}})
    file = tmp_path / "data" / "sft" / "train.parquet"
    rows = [row | {"weight": 0.5} for row in pyarrow.parquet.read_table(file).to_pylist()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    finished(run)
    made = json.loads((run / "run.json").read_text())
    assert made["effective_rows"] == {"sft": 8.0, "preference": 8.0}
    assert made["stages"]["sft"]["rows_shown"] == pytest.approx(16, abs=1)
    assert made["stages"]["dpo"]["rows_shown"] == 8
