"""The whole pipeline on an embedded teacher."""
