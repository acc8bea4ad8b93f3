"""Render the table of recipes in ``docs/distillation.md`` from the recipes themselves.

``python docs/recipe_table.py`` writes it into the page; the tests compare it.
"""

from collections.abc import Callable
from pathlib import Path

from ganc.distillation.recipes import OPPONENTS, RECIPES, Recipe
from ganc.families import SNGAN, STYLE, TRANSLATION

PAGE = Path(__file__).parent / "distillation.md"
HEADING = "\n| | `ganc` |"
FAMILIES = {STYLE: "StyleGAN2, 3", SNGAN: "SN-GAN", TRANSLATION: "pix2pix, CycleGAN"}
NONE = "–"
SOURCES = {
    "ganc": "[our study](quality.md)",
    "gan": "Karras et al. 2020",
    "cagan": "Liu et al. 2021 (CAGAN)",
    "stylekd": "Xu et al. 2022 (StyleKD)",
    "stylegan3": "Karras et al. 2021; Chung et al. 2024 (DCP-GAN)",
    "sngan": "Miyato et al. 2018; CAGAN's terms",
    "i2i": "Isola et al. 2017; Zhu et al. 2017",
}


def weight(name: str) -> Callable[[Recipe], str]:
    """Return what shows one weight."""
    return lambda recipe: f"{getattr(recipe, name):g}" if getattr(recipe, name) else NONE


def style(name: str, interval: str | None = None) -> Callable[[Recipe], str]:
    """Return what shows a number of StyleGANs, in force every step or every few."""

    def show(recipe: Recipe) -> str:
        if recipe.kind != STYLE or not getattr(recipe, name):
            return NONE
        every = f" every {getattr(recipe, interval)}" if interval else ""
        return f"{getattr(recipe, name):g}{every}"

    return show


def adversarial(recipe: Recipe) -> str:
    forms = {"task": "BCE for pairs, LSGAN for CycleGAN"}
    form = forms.get(recipe.adversarial, recipe.adversarial)
    return f"{form}, {recipe.d_steps} D steps" if recipe.kind == SNGAN else form


def perceptual(recipe: Recipe) -> str:
    weight = recipe.perceptual_weight
    return f"{weight:g}, `{recipe.perceptual}`" if weight else NONE


def content(recipe: Recipe) -> str:
    return f"`{recipe.content}`" if recipe.content != "none" else NONE


def cycle(recipe: Recipe) -> str:
    weights = recipe.cycle_weight, recipe.identity_weight
    return f"{weights[0]:g}, {weights[1]:g} of it" if any(weights) else NONE


def adam(recipe: Recipe) -> str:
    rates = dict.fromkeys((recipe.lr, recipe.d_lr or recipe.lr))
    lr = " (D: ".join(f"{rate:g}" for rate in rates) + ")" * (len(rates) - 1)
    return f"{recipe.batch}, {lr}, {recipe.beta1:g} / {recipe.beta2:g}"


ROWS: dict[str, Callable[[Recipe], str]] = {
    "families": lambda recipe: FAMILIES[recipe.kind],
    "adversarial (`adversarial`)": adversarial,
    "pixel L1 to the teacher (`l1_weight`)": weight("l1_weight"),
    "perceptual distance to it (`perceptual_weight`, `perceptual`)": perceptual,
    "mask for both (`content`)": content,
    "latent direction (`latent_direction_weight`)": weight("latent_direction_weight"),
    "R1 (`r1_gamma`, `r1_interval`)": style("r1_gamma", "r1_interval"),
    "path length (`pl_weight`, `pl_interval`)": style("pl_weight", "pl_interval"),
    "style mixing (`mixing_prob`)": style("mixing_prob"),
    "augmentation (`augment`)": lambda recipe: recipe.augment.replace("none", NONE),
    "L1 to the paired image (`paired_l1_weight`)": weight("paired_l1_weight"),
    "cycle, identity (`cycle_weight`, `identity_weight`)": cycle,
    "past images (`pool_size`)": weight("pool_size"),
    "batch, learning rate, betas": adam,
    "source": lambda recipe: SOURCES[recipe.name],
}


def render() -> str:
    """Return the table, without the recipes of official commands."""
    shown = [recipe for name, recipe in RECIPES.items() if name not in OPPONENTS]
    lines = ["| | " + " | ".join(f"`{recipe.name}`" for recipe in shown) + " |"]
    lines.append("|---" * (len(shown) + 1) + "|")
    lines += [f"| {about} | {' | '.join(map(show, shown))} |" for about, show in ROWS.items()]
    return "\n".join(lines)


def replaced(page: str) -> str:
    """Return the page with the table made anew."""
    before, _, rest = page.partition(HEADING)
    _, _, after = rest.partition("\n\n")
    return f"{before}\n{render()}\n\n{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
