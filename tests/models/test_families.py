"""The whole matrix, for every family of backbones: a tiny random model of the real classes each."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import PROMPTS, save_tiny
from tiny_models import TAXONOMY, TEXTS, make_caption, make_image, spec_maker
from transformers import AutoModelForImageTextToText

from halspan.core.captions import Caption, Span
from halspan.core.loss_weights import LossWeights
from halspan.core.losses import combine, loss_terms
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.encoding import Batch, RowEncoder
from halspan.models.families import FAMILIES
from halspan.models.spec import ModelSpec

NAMES = tuple(PROMPTS)
CAPTIONS = tuple(map(make_caption, TEXTS))
WITHIN = 1e-4
SIZES = ((120, 90), (64, 128), (96, 32))  # pixels; images of one batch have different numbers of tokens and tiles

Build = Callable[..., tuple[SpanDetector, RowEncoder]]

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
