"""Pre-train the tiny VLM of the shapes world on true captions: `make backbone` (see README.md beside this file).

A `LlavaForConditionalGeneration` of SigLIP and Qwen3 parts learns from scratch, on scenes that no corpus holds,
  - to predict the next word of true captions (causal rows);
  - to fill in masked words of true captions, seeing the rest both ways (masked rows; salient span masking, Guu et al.
    2020, arXiv 2002.08909; one model for both, Dong et al. 2019, arXiv 1905.03197);
  - to tell blurred words of true captions, whose embeddings drown in noise, by image and sentence (denoising, as in
    Li et al. 2022, arXiv 2205.14217), so that words in sight are checked against the image as masked ones are;
  - to name where each cell is and what stands there from the projected image tokens (dense captioning; its weight
    falls to zero);
  - to look where words point: one head in two layers is told which cells the words of a true caption speak of
    (phrase grounding by supervised attention, Liu et al. 2017, arXiv 1605.09553). Without it, places stay at chance.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
)
from true_captions import (
    IMAGE_TOKENS,
    KIND_WEIGHTS,
    SPECIAL_TOKENS,
    Row,
    TrueCaptions,
    build_tokenizer,
    collate,
    pixels_of,
    worded,
)

from halspan.data.shapes.render import CELL_PIXELS, IMAGE_PIXELS
from halspan.data.shapes.scenes import sample_scene

STEPS, ROWS_PER_STEP = 6000, 12
POINTING_LAYERS, POINTING_WEIGHT = (1, 2), 0.5
PLACE_SCALE = 3.0  # standard deviation of initial position embeddings
CELLS_SHARE = 0.7  # of all steps, until the weight of dense captioning is zero


def build_model(tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int) -> LlavaForConditionalGeneration:
    """Build the model with random weights: one image token per cell of the grid."""
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_PIXELS,
        patch_size=CELL_PIXELS,
        vision_use_head=False,
    )
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS["image_token"]),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = LlavaForConditionalGeneration(config)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.08)  # Qwen3's 0.02 leaves tiny models at chance
    positions = model.get_submodule("model.vision_tower.embeddings.position_embedding")
    nn.init.normal_(positions.weight, std=PLACE_SCALE)  # patch embeddings grow long and would drown where a cell is
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Build the processor: images as they are (96 x 96), scaled to [-1, 1]."""
    image_processor = SiglipImageProcessor(size={"height": IMAGE_PIXELS, "width": IMAGE_PIXELS})
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=CELL_PIXELS,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=SPECIAL_TOKENS["image_token"],
    )


def attention_mask(caption: Tensor, causal: Tensor) -> Tensor:
    """Return the additive mask: captions see the image and themselves, causally or both ways; the image is causal."""
    n = caption.shape[1]
    before = torch.ones(n, n, dtype=torch.bool).tril()
    image, query, key = caption == 0, caption[:, :, None], caption[:, None, :]
    own = (query == key) & (query > 0) & (before | ~causal[:, None, None])
    seen = (image[:, None, :] & before) | own | torch.eye(n, dtype=torch.bool)
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


def read(model: LlavaForConditionalGeneration, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return states (row, position, hidden), pointing weights (row, position, head, cell), image tokens."""
    features = torch.stack(list(model.get_image_features(pixel_values=batch["pixels"]).pooler_output))
    words = blurred(model.get_input_embeddings()(batch["ids"][:, IMAGE_TOKENS:]), batch["blur"][:, IMAGE_TOKENS:])
    output = model.model.language_model(
        inputs_embeds=torch.cat([features, words], dim=1),
        attention_mask=attention_mask(batch["caption"], batch["causal"]),
        position_ids=batch["positions"],
        use_cache=False,
        output_attentions=True,
    )
    pointing = torch.stack([output.attentions[layer][:, 0, :, :IMAGE_TOKENS] for layer in POINTING_LAYERS], dim=2)
    return output.last_hidden_state, pointing, features


def blurred(words: Tensor, blur: Tensor) -> Tensor:
    """Return embeddings (row, position, hidden) with noise of `blur` (row, position) times their spread, rescaled."""
    blur = blur[..., None]
    spread = words.detach().pow(2).mean().sqrt()
    return (words + blur * spread * torch.randn_like(words)) / (1 + blur**2).sqrt()


def losses(model: LlavaForConditionalGeneration, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean loss of each objective, in nats per token."""
    hidden, pointing, features = read(model, batch)
    words = model.get_input_embeddings().weight
    causal = batch["causal"][:, None]
    next_token, next_salient = batch["labels"].roll(-1, dims=1), batch["salient"].roll(-1, dims=1)
    next_token[batch["caption"].roll(-1, dims=1) != batch["caption"]] = -100  # nothing predicts a caption's first token
    targets, salient = torch.where(causal, next_token, batch["labels"]), torch.where(causal, next_salient, True)
    asked = targets != -100
    loss = F.cross_entropy((hidden[asked] @ words.T).float(), targets[asked], reduction="none")
    causal, salient, blur = causal.expand_as(asked)[asked], salient.expand_as(asked)[asked], batch["blur"][asked]
    cells = batch["cells"]
    cell_logits = (features @ words.T).float()[:, :, None].expand(-1, -1, cells.shape[2], -1)
    return {
        "causal": _mean(loss, causal & salient),
        "other": _mean(loss, causal & ~salient),
        "masked": _mean(loss, ~causal & (blur == 0)),
        "blurred": _mean(loss, blur > 0),
        "pointing": pointing_loss(pointing, batch["meant"]),
        "cells": F.cross_entropy(cell_logits.flatten(0, 2), cells.flatten(), ignore_index=-100),
    }


def pointing_loss(pointing: Tensor, meant: Tensor) -> Tensor:
    """Return -log of the attention that words pay to the cells they speak of (Liu et al. 2017, arXiv 1605.09553)."""
    bits = (meant[:, :, None] >> torch.arange(IMAGE_TOKENS)) & 1
    paid = (pointing.float() * bits[:, :, None]).sum(-1)[meant > 0]
    return -paid.clamp(min=1e-6).log().mean()


def _mean(loss: Tensor, chosen: Tensor) -> Tensor:
    return loss[chosen].sum() / chosen.sum().clamp(min=1)


@torch.no_grad()
def fill_in_accuracy(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, n_scenes: int
) -> dict[str, float]:
    """Return, by kind of statement and slot, how often a masked slot's first token is filled in right."""
    rng, hits = random.Random("evaluation/pretraining"), defaultdict[str, list[bool]](list)
    maker = TrueCaptions(tokenizer, start=0)
    for _ in range(n_scenes):
        scene = sample_scene(rng)
        pixels, rows, names = pixels_of(scene, rng), [], []
        for statement, sentence, spans in worded(scene, dict.fromkeys(KIND_WEIGHTS, 1.0), 16, rng):
            slot = rng.choice(list(spans))
            row = Row(pixels, causal=False)
            maker.append(row, sentence, spans, asked=[slot], blurs={}, meant={}, caption=1)
            rows.append(row)
            names.append(f"{statement.kind}.{slot}")
        batch = collate(rows)
        guesses = (read(model, batch)[0] @ model.get_input_embeddings().weight.T).argmax(-1)
        for name, labels, guess in zip(names, batch["labels"], guesses, strict=True):
            first = int((labels != -100).nonzero()[0])
            hits[name].append(bool(guess[first] == labels[first]))
    return {name: round(sum(values) / len(values), 4) for name, values in sorted(hits.items())}


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Return the learning rate at `step`: linear warm-up, then a cosine to a twentieth of the peak."""
    progress = min(1.0, step / steps)
    return peak * min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(args: argparse.Namespace) -> None:
    """Pre-train and save the backbone; a stopped run continues from its last state."""
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, width=args.width, layers=args.layers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    state_path = args.to.with_name(f"{args.to.name}_training.pt")
    first = restore(model, optimizer, state_path)
    rows = TrueCaptions(tokenizer, first * args.rows)
    loader = DataLoader(rows, batch_size=args.rows, collate_fn=collate, num_workers=1, prefetch_factor=8)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("pre-training", total=args.steps, completed=first)
        for step, batch in zip(range(first, args.steps), loader, strict=False):
            parts = optimize(model, optimizer, batch, step, args)
            progress.update(task, advance=1)
            if (step + 1) % args.report_every == 0:
                report = {name: round(value.item(), 4) for name, value in parts.items()}
                progress.console.print({"step": step + 1, **report})
            if (step + 1) % args.save_every == 0:
                save(model, tokenizer, args.to)
                keep(model, optimizer, step + 1, state_path)
                progress.console.print({"step": step + 1, **fill_in_accuracy(model, tokenizer, 60)})
    save(model, tokenizer, args.to)
    print(json.dumps(fill_in_accuracy(model, tokenizer, 500), indent=1))


def optimize(
    model: LlavaForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    step: int,
    args: argparse.Namespace,
) -> dict[str, Tensor]:
    """Take one optimizer step and return the losses, in nats per token."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, args.steps, args.lr)
    with torch.autocast("cpu", torch.bfloat16):
        parts = losses(model, batch)
    cells_weight = max(0.0, 1 - step / (CELLS_SHARE * args.steps))
    loss = (
        parts["causal"]
        + parts["masked"]
        + parts["blurred"]
        + 0.2 * parts["other"]
        + POINTING_WEIGHT * parts["pointing"]
        + cells_weight * parts["cells"]
    )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return parts


def restore(model: LlavaForConditionalGeneration, optimizer: torch.optim.Optimizer, path: Path) -> int:
    """Continue from a kept state; return how many steps it holds, 0 where there is none."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def keep(model: LlavaForConditionalGeneration, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    """Keep the state of training, replacing the last one in one step."""
    partial = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.replace(path)


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the backbone with its tokenizer and processor."""
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)


def main() -> None:
    """Parse the command line and pre-train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("checkpoints/shapes_backbone"), help="where to save")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps")
    parser.add_argument("--rows", type=int, default=ROWS_PER_STEP, help="rows (images) per step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--width", type=int, default=128, help="hidden size of the text tower")
    parser.add_argument("--layers", type=int, default=4, help="layers of the text tower")
    parser.add_argument("--threads", type=int, default=1, help="compute threads")
    parser.add_argument("--report-every", type=int, default=50, help="steps between loss lines")
    parser.add_argument("--save-every", type=int, default=600, help="steps between saves")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
