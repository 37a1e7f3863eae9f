"""Image features on disk: exact, within their budget, refused where they are of something else."""

from dataclasses import replace

import pytest

from hadpo import adapter, trainer
from hadpo.records import BadInput
from hadpo.trainer import reference


@pytest.fixture
def config(fast):
    return replace(fast, vision_cache_gb=1.0, steps=3)


@pytest.fixture
def passes(monkeypatch, tiny_llava):
    """Images that the vision encoder has read."""
    kind = type(tiny_llava())
    real, seen = kind.features, []

    def counted(self, pixels):
        seen.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(kind, "features", counted)
    return seen


def test_each_image_is_encoded_once_and_never_again(
    config, learn, equal, passes, tiny_llava, tiny_pairs, tmp_path
):
    first, expected = learn(tiny_llava(), tiny_pairs, config, cache=tmp_path)
    assert passes == [1, 1, 1]  # three pictures
    second, found = learn(tiny_llava(), tiny_pairs, config, cache=tmp_path)
    assert passes == [1, 1, 1]
    assert second == first and equal(found, expected)  # what is read is what was computed
    plain, other = learn(tiny_llava(), tiny_pairs, replace(config, vision_cache_gb=0.0))
    assert len(passes) > 3
    for a, b in zip(plain, first, strict=True):
        assert b.metrics["loss"] == pytest.approx(a.metrics["loss"], abs=1e-6)
    for key, value in other.items():
        assert (found[key] - value).abs().max() <= 1e-4 * value.abs().max() + 1e-9
    assert reference.describe_features(tmp_path, config).startswith("3 images, ")


def test_it_keeps_to_its_budget(config, passes, tiny_llava, tiny_pairs, tmp_path):
    backbone = tiny_llava()
    one = replace(config, vision_cache_gb=0.6e-6)  # features of a picture are 4 x 16 numbers
    with reference.cache_features(backbone, tmp_path, one) as cache:
        list(trainer.steps(backbone, tiny_pairs, replace(config, vision_cache_gb=0.0, steps=5)))
        assert cache.computed - cache.not_kept == 1
        assert cache.found > 0 and cache.not_kept > 0
    assert "features" not in vars(backbone)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert size <= 600
    adapter.detach(backbone)


def test_refused_where_they_are_of_something_else(config, learn, tiny_llava, tiny_pairs, tmp_path):
    learn(tiny_llava(), tiny_pairs, config, cache=tmp_path)
    with pytest.raises(BadInput, match=r"the image features were made from .*: dtype: float32 the"):
        learn(tiny_llava("bfloat16"), tiny_pairs, config, cache=tmp_path)
    other = tiny_llava()
    next(iter(other.vision.parameters())).data[..., 0] += 1
    with pytest.raises(BadInput, match=r"else: base weights: .*delete the folder"):
        learn(other, tiny_pairs, config, cache=tmp_path)
    with pytest.raises(BadInput, match="vision_cache_gb needs a folder"):
        learn(tiny_llava(), tiny_pairs, config)
