"""One HTML page that shows what an evaluation found: numbers, plots, images, protocols."""
