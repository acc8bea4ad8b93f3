"""What a demo is asked for. Imports no torch: the command line is made of it."""

from dataclasses import dataclass

from ganc.options import option


@dataclass(frozen=True)
class DemoSettings:
    """What a demo does.

    Attributes:
        speedup: How many times fewer MACs the student has.
        score_samples: Latents for the scores.
        refit_steps: Steps of all layers together in the fit.
        steps: Distillation steps.
        eval_samples: Images for fd, pairs for diversity.
        seed: Of every draw.
    """

    speedup: float = option(10.0, "Fewer MACs by this factor.")
    score_samples: int = option(250, "Latents for the scores.", least=5)
    refit_steps: int = option(1000, "Steps of the fit, all layers together.", least=0)
    steps: int = option(150, "Distillation steps.", least=1)
    eval_samples: int = option(1000, "Images for fd, pairs for diversity.", least=2)
    seed: int = option(0, "Seed of every random draw.", least=0)
