"""What each scoring method measures, in a phrase: for help and README, which load no torch."""

ABOUT = {
    "diversity": "what varies over latent directions, DCP-GAN",
    "content": "contents of interest, content-aware compression",
    "density": "gates learned for both networks, MGGC",
    "activation": "mean |feature|",
    "asv": "deviation of the feature over samples",
    "style": "mean |style|, StyleGAN",
    "l1-in": "L1 norm of the weights that make a channel",
    "l1-out": "L1 norm of the weights that read it",
    "random": "the baseline",
}
"""Method → phrase; ``ganc.scoring.score.METHODS`` has the same names."""
