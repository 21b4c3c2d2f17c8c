#!/usr/bin/env python3
"""The fp32 counterpart of `fqtc train models/resnet20.fqt` (or resnet8), in PyTorch.

Same network, initial distributions, schedule, augmentation and input scale as the model files; the arithmetic is PyTorch's. It answers
"what does fp32 reach in as many epochs?" and, with --bench, "how fast is a step?". See README.md beside this file for the setup.
"""
import argparse
import gzip
import json
import math
import os
import pathlib
import statistics
import struct
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--data", default="data/cifar-10-batches-bin", help="folder of CIFAR-10 batches (.bin) or of IDX files (raw or .gz)")
parser.add_argument("--network", choices=["resnet20", "resnet8"], default="resnet20")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--lr", type=float, default=0.1, help="peak learning rate")
parser.add_argument("--schedule", choices=["cosine", "constant", "step"], default="cosine")
parser.add_argument("--warmup", type=float, default=5.0, help="epochs of linear warm-up; at most a third of the run")
parser.add_argument("--step-at", type=float, nargs="*", default=[0.5, 0.75], help="fractions of the run after which `step` divides by ten")
parser.add_argument("--momentum", type=float, default=0.9)
parser.add_argument("--weight-decay", type=float, default=1e-4, help="on the weights of convolutions and of the linear layer only")
parser.add_argument("--no-augment", action="store_true", help="neither crops nor flips")
parser.add_argument("--no-flip", action="store_true", help="crops only")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast over fp32 weights")
parser.add_argument("--bench", type=int, metavar="STEPS", nargs="?", const=15, help="time that many training steps on a resident batch, print JSON, and stop")
args = parser.parse_args()

os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))

import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(args.seed)


# ------------------------------------------------------------------------------------------------ data
def read_idx(folder, stem):
    for name in (stem, stem + ".gz"):
        path = folder / name
        if path.exists():
            data = path.read_bytes()
            data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            dims = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
            return torch.frombuffer(bytearray(data[4 + 4 * data[3] :]), dtype=torch.uint8).reshape(dims)
    raise SystemExit(f"{folder}: no {stem}[.gz] and no data_batch_1.bin")


def read_split(folder, train):
    """Images u8 [n, 3, 32, 32] and labels i64 [n]; grey images are centred on a black 32x32 and repeated over the channels."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    if (folder / names[0]).exists():
        raw = b"".join((folder / name).read_bytes() for name in names)
        records = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, 3073)
        return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()
    stem = "train" if train else "t10k"
    images, labels = read_idx(folder, f"{stem}-images-idx3-ubyte"), read_idx(folder, f"{stem}-labels-idx1-ubyte")
    top, left = (32 - images.shape[1]) // 2, (32 - images.shape[2]) // 2
    square = torch.zeros(len(images), 32, 32, dtype=torch.uint8)
    square[:, top : top + images.shape[1], left : left + images.shape[2]] = images
    return square[:, None].repeat(1, 3, 1, 1), labels.long()


# ----------------------------------------------------------------------------------------------- model
def conv(cin, cout, kernel, stride=1):
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (cout * kernel * kernel)))
    return layer


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.main = nn.Sequential(conv(cin, cout, 3, stride), nn.BatchNorm2d(cout), nn.ReLU(), conv(cout, cout, 3), nn.BatchNorm2d(cout))
        self.skip = nn.Sequential(conv(cin, cout, 1, stride), nn.BatchNorm2d(cout)) if stride != 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.main(x) + self.skip(x))


def network(blocks):
    layers, cin = [conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()], 16
    for stage, cout in enumerate((16, 32, 64)):
        for i in range(blocks):
            layers.append(Block(cin, cout, 2 if stage and i == 0 else 1))
            cin = cout
    head = nn.Linear(64, 10)
    nn.init.uniform_(head.weight, -1 / 8, 1 / 8)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def loss_of(logits, labels):
    return F.cross_entropy(logits.float(), labels)


def forward(model, x):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        return model(x)


def make_optimizer(model):
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum)


def factor(step, steps_per_epoch):
    """Learning rate of a step, as a share of the peak."""
    total = args.epochs * steps_per_epoch
    warm = min(args.warmup, args.epochs / 3) * steps_per_epoch
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    if args.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if args.schedule == "step":
        return 0.1 ** sum(step >= at * total for at in args.step_at)
    return 1.0


# ------------------------------------------------------------------------------------------- train, test
def evaluate(model, images, labels, mean):
    model.eval()
    loss = correct = 0
    with torch.inference_mode():
        for at in range(0, len(images), 500):
            x = ((images[at : at + 500].float() - mean) / 64).contiguous(memory_format=torch.channels_last)
            logits, y = forward(model, x), labels[at : at + 500]
            loss += float(loss_of(logits, y)) * len(y)
            correct += int((logits.argmax(1) == y).sum())
    model.train()
    return 100 * correct / len(images), loss / len(images)


def train(model, folder):
    images, labels = read_split(folder, True)
    test_images, test_labels = read_split(folder, False)
    mean = images.float().mean((0, 2, 3)).round().view(1, 3, 1, 1)
    padded = mean.to(torch.uint8).repeat(len(images), 1, 40, 40)
    padded[:, :, 4:36, 4:36] = images
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)
    optimizer, steps_per_epoch = make_optimizer(model), len(images) // args.batch
    for epoch in range(args.epochs):
        order, begin, losses, correct = torch.randperm(len(images)), time.perf_counter(), [], 0
        for i in range(steps_per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = args.lr * factor(epoch * steps_per_epoch + i, steps_per_epoch)
            pick = order[i * args.batch : (i + 1) * args.batch]
            shift = torch.randint(0, 9, (2, args.batch)) if not args.no_augment else torch.full((2, args.batch), 4)
            x = windows[pick, :, shift[0], shift[1]]
            if not (args.no_augment or args.no_flip):
                x = torch.where(torch.randint(0, 2, (args.batch, 1, 1, 1), dtype=torch.bool), x.flip(3), x)
            x = ((x.float() - mean) / 64).contiguous(memory_format=torch.channels_last)
            logits, y = forward(model, x), labels[pick]
            loss = loss_of(logits, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            correct += int((logits.argmax(1) == y).sum())
        seconds, seen = time.perf_counter() - begin, steps_per_epoch * args.batch
        accuracy, test_loss = evaluate(model, test_images, test_labels, mean)
        print(
            f"epoch {epoch + 1}/{args.epochs}  train loss {statistics.fmean(losses):.3f}  accuracy {100 * correct / seen:.2f} %"
            f"  test accuracy {accuracy:.2f} %  loss {test_loss:.3f}  {seen / seconds:.0f} images/s",
            flush=True,
        )
    print(f"test accuracy {accuracy:.2f} %  loss {test_loss:.3f}")


def bench(model, steps):
    """Median time of a whole training step (forward, backward, update) on one synthetic batch that stays in memory."""
    x = torch.randn(args.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (args.batch,))
    optimizer, times = make_optimizer(model), []
    for i in range(steps + 3):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss_of(forward(model, x), y).backward()
        optimizer.step()
        if i >= 3:
            times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    row = {"peer": "torch", "version": torch.__version__, "network": args.network, "dtype": args.dtype, "batch": args.batch, "threads": args.threads}
    print(json.dumps(row | {"images_per_s": round(args.batch / median, 1), "ms_per_step": round(1e3 * median, 2), "steps": steps}))


def main():
    model = network(3 if args.network == "resnet20" else 1).to(memory_format=torch.channels_last)
    if args.bench:
        bench(model, args.bench)
    else:
        print(" ".join(f"{key}={value}" for key, value in vars(args).items() if key not in ("data", "bench")), f"torch={torch.__version__}")
        train(model, pathlib.Path(args.data))


if __name__ == "__main__":
    main()
