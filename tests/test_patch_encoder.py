"""Patches: visible ones alone are computed, and the hidden ones predicted."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from medlip.errors import MedLIPError
from medlip.nn.image_decoder import ImageDecoder, join_patches, patch_pixels, prediction_errors
from medlip.nn.patch_encoder import PatchEncoder, draw_visible, sine_cosine_positions, visible_map

ENCODERS = {
    "transformer": {"backbone": "vit_tiny_patch16_224", "patch": 8, "depth": 2},
    "convolutions": {"backbone": "resnet18"},
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(image_size=32, **ENCODERS[request.param]).eval()


def test_no_mask_equals_all_patches_visible(encoder: PatchEncoder) -> None:
    images = torch.randn(2, 3, 32, 32)
    everything = torch.arange(encoder.patches).expand(2, -1)
    torch.testing.assert_close(encoder(images, everything), encoder(images))


def test_hidden_patches_do_not_leak(encoder: PatchEncoder) -> None:
    images = torch.randn(2, 3, 32, 32)
    visible = draw_visible(2, encoder.patches, 0.5, torch.Generator().manual_seed(1))
    hidden = ~visible_map(visible, encoder.patches).view(2, 1, *encoder.grid)
    other = images + 5 * hidden.repeat_interleave(encoder.patch, 2).repeat_interleave(encoder.patch, 3)
    torch.testing.assert_close(encoder(other, visible), encoder(images, visible))
    assert not torch.allclose(encoder(other), encoder(images))


def test_a_transformer_computes_visible_patches_alone() -> None:
    encoder = PatchEncoder(image_size=32, **ENCODERS["transformer"])
    assert encoder.transformer is not None
    lengths = []
    encoder.transformer.blocks[0].register_forward_hook(lambda *args: lengths.append(args[2].shape[1]))
    encoder(torch.randn(1, 3, 32, 32), torch.tensor([[0, 5, 7]]))
    assert lengths == [3 + 1]  # and the class token


def test_tokens_come_in_the_order_asked_for(encoder: PatchEncoder) -> None:
    images = torch.randn(1, 3, 32, 32)
    forth, back = torch.tensor([[0, 2, 3]]), torch.tensor([[3, 2, 0]])
    torch.testing.assert_close(encoder(images, forth), encoder(images, back).flip(1), atol=1e-5, rtol=1e-4)


def test_masks_are_seeded_distinct_and_of_the_right_size() -> None:
    first, again = (draw_visible(4, 49, 0.75, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (4, 12)
    assert all(len(set(row.tolist())) == 12 for row in first)
    assert not torch.equal(first[0], first[1])
    assert draw_visible(1, 4, 0.99, torch.Generator()).shape == (1, 1)
    assert draw_visible(1, 10, 0.9, torch.Generator()).shape == (1, 1)


def test_positions_tell_all_patches_apart() -> None:
    positions = sine_cosine_positions(7, 64)
    distances = torch.cdist(positions, positions) + torch.eye(49)
    assert distances.min() > 0.1


def test_a_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(MedLIPError, match="multiple of the patch"):
        PatchEncoder("resnet18", 40)


def test_weights_of_another_architecture_are_refused(tmp_path: object) -> None:
    file = f"{tmp_path}/other.pt"
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, file)
    with pytest.raises(MedLIPError, match=r"patch_embed|cls_token|blocks"):
        PatchEncoder(image_size=32, weights=file, **ENCODERS["transformer"])


def test_weights_load_whatever_the_positions(tmp_path: object) -> None:
    import timm

    trained = timm.create_model("vit_tiny_patch16_224", depth=2)
    file = f"{tmp_path}/trained.pt"
    torch.save(trained.state_dict(), file)
    encoder = PatchEncoder("vit_tiny_patch16_224", 64, depth=2, weights=file)
    assert encoder.transformer is not None
    torch.testing.assert_close(encoder.transformer.blocks[1].mlp.fc1.weight, trained.blocks[1].mlp.fc1.weight)


def test_patch_pixels_are_the_patches_row_by_row() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    expected = torch.tensor([[0.0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    assert torch.equal(patch_pixels(images, 2)[0], expected)


def test_patches_join_to_the_image() -> None:
    images = torch.randn(2, 1, 8, 8).expand(2, 3, 8, 8)
    torch.testing.assert_close(join_patches(patch_pixels(images, 4), 4), images[:, 0])


def test_only_hidden_patches_count_in_the_prediction() -> None:
    images = torch.randn(2, 3, 8, 8)
    target = patch_pixels(images, 4)
    predicted = target.clone()
    predicted[0, 0] += 100  # visible: free
    predicted[1, 3] += 2
    visible = torch.tensor([[0, 1], [0, 1]])
    torch.testing.assert_close(prediction_errors(predicted, images, visible, 4), torch.tensor([0.0, 2.0]))
    everything = torch.arange(4).expand(2, -1)
    assert torch.equal(prediction_errors(predicted, images, everything, 4), torch.zeros(2))


def test_normalised_targets_ignore_a_patch_s_brightness() -> None:
    images = torch.randn(1, 3, 8, 8)
    predicted, visible = torch.randn(1, 4, 16), torch.tensor([[0]])
    errors = [prediction_errors(predicted, scaled, visible, 4, normalise=True) for scaled in (images, 3 * images + 2)]
    torch.testing.assert_close(*errors, atol=1e-4, rtol=1e-4)


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

    def statistics(encoder: PatchEncoder) -> dict[str, torch.Tensor]:
        return {name: values.clone() for name, values in encoder.named_buffers() if "running" in name}

    given = PatchEncoder("resnet18", 32, weights=file).train()
    before = statistics(given)
    given(images, visible)
    assert all(torch.equal(values, before[name]) for name, values in statistics(given).items())
    torch.manual_seed(0)
    masked = PatchEncoder("resnet18", 32).train()
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
    encoder = PatchEncoder("vit_tiny_patch16_224", 64, depth=2, weights=f"{tmp_path}/mae.pth")
    torch.testing.assert_close(encoder.transformer.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)
