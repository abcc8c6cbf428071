"""What a training takes in electricity: read from the machine's counters where that is allowed, else estimated.

What is read is an estimate too: processors and GPUs count for everything that runs on them, and fans, disks and power
supplies are left out.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

CORE_WATTS = 12.0  # of a busy core; Green Algorithms' for an unknown processor (doi:10.1002/advs.202100707)
POWERCAP = Path("/sys/class/powercap")  # Linux; since CVE-2020-8694 often for root alone


class Part(Protocol):
    """A part of the machine, or of what it did."""

    source: str

    def joules(self) -> float:
        """Since this process began, or since somebody looked first."""


@dataclass(frozen=True)
class Meter:
    """The parts together."""

    parts: Sequence[Part]

    @property
    def source(self) -> str:
        """Where the numbers are from, in words."""
        return "; ".join(part.source for part in self.parts)

    def joules(self) -> float:
        """Of all parts."""
        return sum(part.joules() for part in self.parts)


def this_machine(processes: int, powercap: Path = POWERCAP) -> Meter:
    """The meter of a process that shares each step with others, which take as much as it does."""
    zones = _zones(powercap)
    processors = Counters(zones) if zones else ProcessorTime(processes)
    return Meter([processors, *([_gpu(processes)] if torch.cuda.is_available() else [])])


class ProcessorTime:
    """What so many busy cores draw for as long as this process used them."""

    source = f"{CORE_WATTS:.0f} W for each busy core"

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def joules(self) -> float:
        return CORE_WATTS * time.process_time() * self._processes


class Counters:
    """RAPL: the processors' own counters, which begin anew at their range; each look must come before that."""

    source = "measured by the processors (RAPL)"

    def __init__(self, zones: Sequence[Path]) -> None:
        self._range = {zone: _number(zone / "max_energy_range_uj") for zone in zones}
        self._last = {zone: _number(zone / "energy_uj") for zone in zones}
        self._sum = 0  # microjoules

    def joules(self) -> float:
        for zone, last in self._last.items():
            now = self._last[zone] = _number(zone / "energy_uj")
            self._sum += now - last if now >= last else now + self._range[zone] - last
        return self._sum / 1e6


class GpuCounter:
    """NVML: the counter of the GPU that this process works on."""

    def __init__(self, nvml: Any, uuid: str, processes: int) -> None:
        nvml.nvmlInit()
        self._nvml, self._processes = nvml, processes
        self._handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        self._first = self._now()
        self.source = "measured by the GPU (NVML)" + (f", times {processes}" if processes > 1 else "")

    def joules(self) -> float:
        return (self._now() - self._first) / 1e3 * self._processes

    def _now(self) -> int:
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)  # millijoules


class Uncounted:
    """A GPU that does not tell."""

    source = "the GPU not counted"

    def joules(self) -> float:
        return 0.0


def _gpu(processes: int) -> Part:
    try:
        import pynvml
    except ModuleNotFoundError:
        return Uncounted()
    try:
        return GpuCounter(pynvml, str(torch.cuda.get_device_properties().uuid), processes)
    except pynvml.NVMLError:  # one older than Volta, or a part of one
        return Uncounted()


def _zones(powercap: Path) -> list[Path]:
    """Whole processors, and the memory beside them; none unless each of them may be read."""
    zones = [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))  # AMD's, too
        if (zone / "name").read_text("utf-8").startswith(("package", "dram"))
    ]
    try:
        for zone in zones:
            _number(zone / "energy_uj")
    except OSError:
        return []
    return zones


def _number(file: Path) -> int:
    return int(file.read_text("utf-8"))
