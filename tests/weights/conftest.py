from tests.perceptual.conftest import cache as cache
