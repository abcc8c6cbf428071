"""The head on a CPU: log-probabilities of the labelled positions only, in little memory."""

from typing import Any

import torch

ROWS = 512  # positions whose logits exist at once; fewer read the vocabulary's weights more often


class LabelledHead(torch.autograd.Function):
    """Log-probability of `targets` [N] under softmax(`hidden` [N, H] @ `weight`.T [V, H]), natural logarithm.

    The gradient of each by its own row of `hidden` is taken while its logits are there: two matrix products,
    where keeping the logits costs N * V floats and making them again a third product. `weight` stays frozen.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_probs = hidden.new_empty(len(hidden))
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        scores = hidden.new_empty(min(ROWS, len(hidden)), len(weight))
        for at in range(0, len(hidden), ROWS):
            part, wanted = hidden[at : at + ROWS], targets[at : at + ROWS, None]
            score = torch.log_softmax(part @ weight.t(), -1, out=scores[: len(part)])
            log_probs[at : at + ROWS] = score.gather(-1, wanted)[:, 0]
            if slopes is not None:
                missed = score.exp_().neg_().scatter_add_(-1, wanted, torch.ones_like(score[:, :1]))
                slopes[at : at + ROWS] = missed @ weight
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return log_probs

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradient[:, None], None, None


class Head:
    """Stands in on a CPU for TRL's own function of the same work, `otherwise`, which makes all logits twice.

    What TRL would log besides (entropy, accuracy, mean logits) nobody reads here, and comes back as zeros.
    """

    def __init__(self, otherwise: Any) -> None:
        self._otherwise = otherwise

    def apply(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk: int,
        softcap: float | None,
        scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[torch.Tensor | None, ...]:
        """Log-probabilities, and the fields that `outputs` names, in TRL's order."""
        plain = bias is None and softcap is None and temperature == scale == 1 and not weight.requires_grad
        if hidden.device.type != "cpu" or not plain:
            given = hidden, weight, bias, targets, temperature, chunk, softcap, scale, outputs
            return self._otherwise.apply(*given)
        log_probs = LabelledHead.apply(hidden, weight, targets)
        unread = torch.zeros_like(log_probs, requires_grad=False)
        fields = {name: unread for name in ("entropy", "log_sum_sq_probs", "mean_logits")}
        fields["is_top1"] = unread.bool()
        return log_probs, *(field if name in outputs else None for name, field in fields.items())
