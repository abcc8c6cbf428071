"""What a training takes in electricity: read where the machine has counters, else estimated, and called an estimate."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_training import finished, new_run

from training.candidate import make_candidate
from training.energy import CORE_WATTS, GpuCounter, Meter, this_machine
from training.interruption import Cancelled, Interruption
from training.progress import ProgressFile

ESTIMATED = "12 W for each busy core"


def zone(powercap: Path, place: str, name: str, microjoules: int) -> Path:
    """A counter as Linux shows it."""
    folder = powercap / place
    folder.mkdir(parents=True, exist_ok=True)
    for file, said in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", 1_000_000_000)):
        (folder / file).write_text(f"{said}\n")
    return folder / "energy_uj"


def test_counters_of_all_processors_and_their_memory_are_summed(tmp_path):
    """From the first look on; a core counts within its processor, and a counter that began anew goes on."""
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    meter = this_machine(2, tmp_path)
    assert meter.joules() == 0 and meter.source == "measured by the processors (RAPL)"
    for file, now in ((first, 7_000_000), (second, 2_000_000), (memory, 500_000)):
        file.write_text(f"{now}\n")
    assert meter.joules() == pytest.approx(2 + 3 + 0.5)
    second.write_text("3000000\n")
    assert meter.joules() == pytest.approx(6.5)


def test_without_counters_processor_time_is_what_it_costs(tmp_path):
    """A machine that has none, or lets nobody read them; processes that share the work count alike."""
    alone, four = this_machine(1, tmp_path), this_machine(4, tmp_path)
    before = alone.joules()
    assert four.joules() == pytest.approx(4 * before, rel=0.05)
    assert alone.source == ESTIMATED
    zone(tmp_path, "intel-rapl:0", "package-0", 5).unlink()
    assert this_machine(1, tmp_path).source == ESTIMATED


def test_gpu_is_read_by_its_name():
    """NVML counts in thousandths, since the driver was loaded; every process has a GPU like this one."""
    counts, asked = iter([5_000, 7_500]), []
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counts),
    )
    gpu = GpuCounter(nvml, "c0ffee", processes=2)
    assert gpu.joules() == 2.5 * 2 and asked == ["GPU-c0ffee"]
    assert gpu.source == "measured by the GPU (NVML), times 2"


class Steady:
    """A part that takes ten joules a look."""

    source = "by hand"

    def __init__(self) -> None:
        self._sum = 0.0

    def joules(self) -> float:
        self._sum += 10
        return self._sum


def test_starts_are_summed(tmp_path):
    """Each line says what the run has taken so far, also in steps that were lost and taken again."""
    file = tmp_path / "progress.jsonl"
    for steps in ((1, 2, 3), (2, 3)):
        progress = ProgressFile(file, meter=Meter([Steady()]))
        for step in steps:
            progress.add({"stage": "sft", "step": step})
    said = [json.loads(line)["energy_j"] for line in file.read_text().splitlines()]
    assert said == [10, 20, 30, 40, 50]
    assert ProgressFile(file, meter=Meter([Steady()])).joules() == 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="A GPU IS HERE: the estimate is not tested")
@pytest.mark.usefixtures("one_thread")
def test_stopped_training_counts_what_it_took_before(tmp_path, model):
    """run.json says how much and how it is known; what the start that was stopped took is in it."""
    run = new_run(tmp_path, model, sft=(8, 0), max_steps=2)
    with pytest.raises(Cancelled, match="step 1"):
        make_candidate(run, Interruption(asked=True))
    before = ProgressFile(run / "progress.jsonl").joules()
    assert before > 0
    made = finished(run)
    assert made["energy_wh"] * 3600 > before
    if this_machine(1).source == ESTIMATED:
        own = CORE_WATTS * time.process_time()
        assert made["energy_wh"] * 3600 == pytest.approx(before + own, rel=0.05)
        assert made["energy_from"] == ESTIMATED
