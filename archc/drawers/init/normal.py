"""Normal initialisation."""

from __future__ import annotations

from archc.schema import Init, field


class Normal(Init):
    """Every matrix from a normal distribution; norms at one, biases at zero."""

    std: float = field("standard deviation", default=0.02, ge=0)
    output_by_depth: bool = field("divide projections back to the stream by sqrt(2 * layers) (GPT-2)", default=False)

    def scale_of(self, role: str, fan_in: int, depth: int) -> float:
        if role == "output" and self.output_by_depth:
            return self.std * (2 * depth) ** -0.5
        return self.std
