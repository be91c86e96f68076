"""A family of models with one dial: the number of layers decides all else.

What is compared over sizes must be trained equally well at each, so shape and learning rate follow
the size by a rule and not by hand: width in proportion to depth, as sizes of one aspect keep to one
law (Kaplan et al. 2020, section 3.1), heads of one width, and a rate that falls as 1 / width (Yang
et al. 2022, muP, for hidden matrices under Adam). `conf/experiment/dial.yaml` is the family as a
config, by the resolver `${dial:SETTING,OF}`.
"""

from typing import Any

WIDTH = 32  # per layer
HEAD = 32  # width of a head
RATE = 0.192  # learning rate x width
WARMUP = 0.1  # of the steps


def dial(setting: str, of: Any) -> int | float:
    """The value of `${dial:setting,of}` in a YAML file.

    Args:
        setting: width, heads or learning_rate, of the layers; or warmup_steps, of the steps.
        of: how many there are.

    Raises:
        ValueError: there is no such setting.
    """
    # What is no number of layers or steps is refused by its own section.
    count = of if isinstance(of, int) and of > 0 else 1
    width = WIDTH * count
    found = {
        "width": width,
        "heads": width // HEAD,
        "learning_rate": float(f"{RATE / width:.3g}"),
        "warmup_steps": round(WARMUP * count),
    }
    if setting not in found:
        raise ValueError(f"${{dial:{setting}}} is not known")
    return found[setting]
