import json

import numpy as np
import pytest
import torch

from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing, usual_preprocessings

ALL = [
    *usual_preprocessings(3),
    *usual_preprocessings(1),
    *usual_preprocessings(4, "NHWC"),
    *usual_preprocessings(3, "NHWC"),
    given_preprocessing(3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
]


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.name}{len(one.mean)}{one.layout}")
def test_encode_and_decode_are_inverse_and_alike_for_arrays_and_tensors(one: Preprocessing) -> None:
    pixels = torch.rand(2, len(one.mean), 4, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    torch.testing.assert_close(one.decode(one.encode(pixels)), pixels)
    assert torch.autograd.gradcheck(one.encode, (pixels,))
    array = pixels.detach().float().numpy()
    encoded = one.encode(array)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, one.encode(torch.from_numpy(array)).numpy())
    np.testing.assert_allclose(one.decode(encoded), array, atol=1e-6)


def test_channels_come_last_where_the_layout_says_so() -> None:
    pixels = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    for first, last in zip(usual_preprocessings(3), usual_preprocessings(3, "NHWC"), strict=True):
        np.testing.assert_array_equal(last.encode(pixels), first.encode(pixels).transpose(0, 2, 3, 1))


def test_bytes_are_decoded_as_numbers() -> None:
    (byte,) = (one for one in usual_preprocessings(3, "NHWC") if one.name == "byte")
    codes = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    for decoded in (byte.decode(codes), byte.decode(torch.from_numpy(codes)).numpy()):
        np.testing.assert_allclose(decoded, codes.transpose(0, 3, 1, 2) / 255.0, atol=1e-6)


def test_bgr_subtracts_the_mean_and_then_reverses_the_channels() -> None:
    bgr = next(one for one in usual_preprocessings(3) if one.name == "byte_bgr")
    encoded = bgr.encode(np.array([1.0, 0.5, 0.0], np.float32).reshape(1, 3, 1, 1)).flatten()
    np.testing.assert_allclose(encoded, (0.0 - 104.0, 127.5 - 117.0, 255.0 - 123.0), atol=1e-4)


def test_given_preprocessing() -> None:
    scaled = given_preprocessing(3, input_range=(-1.0, 3.0))
    pixels = np.array([0.0, 0.5, 1.0], np.float32).reshape(3, 1, 1, 1).repeat(3, 1)
    np.testing.assert_allclose(scaled.encode(pixels)[:, 0].flatten(), (-1.0, 1.0, 3.0), atol=1e-6)
    assert (scaled.source, scaled.is_certain) == ("given", True)
    assert given_preprocessing(3, (0.5,), (0.25,)).mean == (0.5, 0.5, 0.5)
    assert given_preprocessing(1, (0.5,), (0.25,)).channel_order == "gray"
    with pytest.raises(ValueError, match="1 or 3 numbers for mean and std, got 2 and 2"):
        given_preprocessing(3, (0.5, 0.5), (0.2, 0.2))
    with pytest.raises(ValueError, match="mean and std, or input_range"):
        given_preprocessing(3, mean=(0.5,))


def test_json_is_read_back() -> None:
    for one in ALL:
        plain = json.loads(json.dumps(one.to_json()))
        assert plain["inferred"] is False
        assert Preprocessing.from_json(plain) == one


def test_a_description_has_name_source_reason_and_margin() -> None:
    unit = usual_preprocessings(1)[0]
    inferred = Preprocessing(
        name="unit", mean=unit.mean, std=unit.std, channel_order="gray", source="inferred", reason="S", margin=4.494
    )
    for one, words in (
        (inferred, ("unit", "[0, 1]", "inferred from S", "4.49 times")),
        (unit, ("unit", "assumed")),
        (given_preprocessing(3, (0.5,), (0.25,)), ("given", "0.5 0.5 0.5", "0.25")),
    ):
        assert all(word in one.describe() for word in words)
    assert inferred.is_certain and not unit.is_certain
