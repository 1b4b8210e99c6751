"""Llama-4's tiling against upstream's own functions, whose module cannot be imported without torchvision."""

import ast
import importlib.util
import math
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halspan.models.backbones.llama4_images import Llama4ImageProcessorPil, best_canvas, canvases, cut, fit, pad
from halspan.testing.tiny_models import make_image

sides = st.integers(1, 3000)


@pytest.fixture(scope="module")
def upstream() -> SimpleNamespace:
    """Compile the pure functions out of the installed transformers."""
    spec = importlib.util.find_spec("transformers.models.llama4")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("image_processing_llama4.py").read_text()
    names = ("get_factors", "get_max_res_without_distortion", "find_supported_resolutions", "get_best_fit")
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope = {"torch": torch, "math": math, "defaultdict": defaultdict, "lru_cache": lru_cache, "SizeDict": None}
    exec(compile(tree, "upstream", "exec"), scope)
    find_resolutions = scope["find_supported_resolutions"].__wrapped__
    return SimpleNamespace(
        resolutions=lambda max_tiles: find_resolutions(max_tiles, SimpleNamespace(height=336, width=336)),
        get_best_fit=scope["get_best_fit"],
        get_max_res_without_distortion=scope["get_max_res_without_distortion"],
    )


@pytest.mark.parametrize("max_tiles", [1, 4, 5, 16])
def test_canvases_are_upstreams(upstream, max_tiles):
    expected = upstream.resolutions(max_tiles)
    assert sorted(map(tuple, canvases(max_tiles, 336).tolist())) == sorted(expected)


@given(st.tuples(sides, sides), st.booleans())
def test_the_best_canvas_is_upstreams(upstream, image, enlarge):
    options = upstream.resolutions(16)
    expected = upstream.get_best_fit(image, torch.tensor(options), resize_to_max_canvas=enlarge)
    assert best_canvas(image, canvases(16, 336), enlarge=enlarge) == tuple(expected.tolist())


@given(st.tuples(sides, sides), st.booleans())
def test_the_fitted_size_is_upstreams(upstream, image, enlarge):
    canvas = best_canvas(image, canvases(16, 336), enlarge=enlarge)
    limits = canvas if enlarge else tuple(min(max(i, 336), c) for i, c in zip(image, canvas, strict=True))
    expected = tuple(max(side, 1) for side in upstream.get_max_res_without_distortion(image, limits))
    assert fit(image, canvas, tile=336, enlarge=enlarge) == expected


def test_upstreams_documented_example_holds():
    # get_best_fit's docstring: of the canvases for 200 x 300 only 224 x 448 enlarges the least (1.12) with least area
    options = np.array([(224, 672), (672, 224), (224, 448), (448, 224), (224, 224)])
    assert best_canvas((200, 300), options, enlarge=False) == (224, 448)


def test_padding_is_black_and_to_the_right_and_below():
    padded = pad(np.full((3, 2, 1), 9, dtype=np.uint8), (3, 2))
    assert padded[0].tolist() == [[9, 0], [9, 0], [0, 0]]


def test_tiles_go_row_by_row():
    canvas = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    tiles = [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]
    assert cut(canvas, 2)[:, 0].tolist() == tiles


def test_an_image_of_exactly_its_canvas_is_cut_without_scaling():
    image = make_image(width=224, height=112)
    tiles = Llama4ImageProcessorPil(size={"height": 112, "width": 112}, max_patches=4)([image], return_tensors="pt")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 * 2 - 1
    assert tiles["aspect_ratios"].tolist() == [[1, 2]]
    torch.testing.assert_close(tiles["pixel_values"][0], pixels[:, :, :112])
    torch.testing.assert_close(tiles["pixel_values"][1], pixels[:, :, 112:])
    whole = torch.from_numpy(np.array(image.resize((112, 112), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    torch.testing.assert_close(tiles["pixel_values"][2], whole / 255 * 2 - 1)


def test_an_image_of_one_tile_has_no_copy_of_the_whole():
    processor = Llama4ImageProcessorPil(size={"height": 112, "width": 112}, max_patches=4)
    tiles = processor([make_image(width=50, height=50)], return_tensors="pt")
    assert tiles["pixel_values"].shape == (1, 3, 112, 112)


def test_tiles_of_several_images_follow_each_other():
    processor = Llama4ImageProcessorPil(size={"height": 112, "width": 112}, max_patches=4)
    images = [make_image(0, width=224, height=224), make_image(1, width=90, height=90)]
    together = processor(images, return_tensors="pt")
    alone = [processor([image], return_tensors="pt")["pixel_values"] for image in images]
    assert together["pixel_values"].equal(torch.cat(alone))
    assert together["aspect_ratios"].tolist() == [[2, 2], [1, 1]]


def test_pixels_of_the_table_are_those_of_each_value_alone():
    processor, channels = Llama4ImageProcessorPil(), ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    tiles = np.concatenate([every_value, 255 - every_value, every_value[..., ::-1]], axis=1).repeat(2, axis=0)
    one_by_one = processor.normalize(processor.rescale(tiles, 1 / 255), *channels)
    scaled = processor.scale(tiles, 1 / 255, *channels)
    assert scaled.dtype == one_by_one.dtype == np.float32
    assert np.array_equal(scaled, one_by_one)
