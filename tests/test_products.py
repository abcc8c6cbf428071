"""Matrix products on a CPU are as exact when oneDNN computes them, whatever shape, type and layout they have."""

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM

from training import products
from training.products import hasten, replace_products

SHAPES = [
    (1, 600, 500),
    (2, 600, 500),
    (9, 600, 500),
    (300, 600, 500),
    (400, 16, 600),
    (3, 5, 7),
    (0, 600, 500),
    (4, 0, 600),
    (300, 600, 0),
]


@pytest.fixture
def replaced() -> Iterator[None]:
    """With oneDNN, on this processor too, and afterwards as it was."""
    if (before := hasten()) is not None:
        yield
        return
    if not torch.backends.mkldnn.is_available():
        pytest.skip("NO ONEDNN in this PyTorch: the other products are not tested")
    before = replace_products()
    yield
    before._destroy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("layout", ["plain", "turned", "strided"])
def test_products_are_exact(replaced: None, shape: tuple[int, int, int], kind: torch.dtype, layout: str):
    """As near to the product in double precision as the type allows, with a bias and without."""
    rows, inner, columns = shape
    drawn = torch.Generator().manual_seed(1)

    def matrix(height: int, width: int) -> torch.Tensor:
        if layout == "turned":
            return torch.randn(width, height, generator=drawn).to(kind).t()
        if layout == "strided":
            return torch.randn(height, 2 * width, generator=drawn).to(kind)[:, ::2]
        return torch.randn(height, width, generator=drawn).to(kind)

    left, right, bias = matrix(rows, inner), matrix(inner, columns), matrix(1, columns)[0]
    double = torch.complex128 if kind.is_complex else torch.float64
    exact = left.to(double) @ right.to(double)
    near = {"rtol": 2e-2, "atol": 1} if kind is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close((left @ right).to(double), exact, **near)
    torch.testing.assert_close(torch.addmm(bias, left, right).to(double), exact + bias.to(double), **near)
    same = torch.addmm(bias[:1], left, right)
    torch.testing.assert_close(same.to(double), exact + bias[:1].to(double), **near)
    for other in (bias.repeat_interleave(2)[::2], bias[:1].expand(columns)):
        torch.testing.assert_close(
            torch.addmm(other, left, right).to(double), exact + other.to(double), **near
        )
    weighed = torch.addmm(bias, left, right, beta=0.5, alpha=2)
    torch.testing.assert_close(weighed.to(double), 2 * exact + 0.5 * bias.to(double), **near)


def test_large_products_go_to_onednn(replaced: None):
    """Of two rows and more; one row, and what is small, stays where it was."""
    large, small = torch.randn(600, 500), torch.randn(30, 20)
    for left, right, there in ((torch.randn(2, 600), large, True), (torch.randn(1, 600), large, False)):
        assert went_to_onednn(left, right) is there
    assert not went_to_onednn(torch.randn(9, 30), small)


def went_to_onednn(left: torch.Tensor, right: torch.Tensor) -> bool:
    with torch.profiler.profile() as seen:
        left @ right
    return any("mkldnn" in event.key for event in seen.key_averages())


def test_a_model_learns_the_same(replaced: None, model):
    """Loss and gradients of a whole model, forward and backward, in fp32 as in double precision."""
    ids = torch.arange(3 * 200).reshape(3, 200) % 900
    fine = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    fast = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    losses = [tried(ids, labels=ids).loss for tried in (fast, fine)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for mine, other in zip(fast.parameters(), fine.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-3, atol=1e-6)


def test_other_processors_keep_what_they_have(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Nothing is replaced where MKL does all it can, or where nobody can say."""
    monkeypatch.setattr(products, "PROCESSORS", tmp_path / "cpuinfo")
    assert not products._held_back()
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\nflags : avx512f\n")
    assert not products._held_back()
