#!/usr/bin/env python3
"""The networks of models/*.fqt in PyTorch: how fast is a training step, and what accuracy does fp32 reach?

Without --train, times training steps (forward, backward, update) on one batch that stays in memory and prints one JSON line; `fqtc bench
--against pytorch` runs it so. With --train, trains on images like `fqtc train`: same shapes, initial distributions, schedule, augmentation and
input scale as the model files. See README.md beside this file for the setup.
"""
import argparse
import gzip
import json
import math
import os
import pathlib
import resource
import statistics
import struct
import sys
import time

NETWORKS = ["lenet5", "resnet8", "resnet20", "resnet32", "vgg_small", "mobilenet_v2"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--network", choices=NETWORKS, default="resnet20")
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=0.1, help="peak learning rate")
parser.add_argument("--momentum", type=float, default=0.9)
parser.add_argument("--weight-decay", type=float, default=1e-4, help="on the weights of convolutions and of the linear layer only")
parser.add_argument("--dtype", choices=["fp32", "bf16", "fakequant"], default="fp32", help="bf16: autocast over fp32 weights; fakequant: fp32 that imitates integers")
parser.add_argument("--compile", action="store_true", help="torch.compile the training step; needs a C++ compiler")
fake = parser.add_argument_group("fake quantization")
fake.add_argument("--w-bits", type=int, default=8)
fake.add_argument("--a-bits", type=int, default=8)
fake.add_argument("--g-bits", type=int, default=4)
fake.add_argument("--noise", choices=["plain", "predrawn"], default="plain", help="stochastic rounding: torch.rand_like (one thread), or a random window of numbers drawn before")
timing = parser.add_argument_group("timing")
timing.add_argument("--steps", type=int, default=15, help="timed steps")
timing.add_argument("--warm-up", type=int, default=3, help="steps before them")
training = parser.add_argument_group("training")
training.add_argument("--train", action="store_true", help="train on --data instead of timing steps")
training.add_argument("--data", default="data/cifar-10-batches-bin", help="folder of CIFAR-10 batches (.bin) or of IDX files (raw or .gz)")
training.add_argument("--epochs", type=int, default=5)
training.add_argument("--schedule", choices=["cosine", "constant", "step"], default="cosine")
training.add_argument("--warmup-epochs", type=float, default=5.0, help="epochs of linear warm-up; at most a third of the run")
training.add_argument("--step-at", type=float, nargs="*", default=[0.5, 0.75], help="fractions of the run after which `step` divides by ten")
training.add_argument("--checkpoint", type=pathlib.Path, help="save here after each epoch, and continue from what is there")
training.add_argument("--padding", choices=["reflect", "mean"], default="reflect", help="what images are padded with before they are cropped")
training.add_argument("--no-augment", action="store_true", help="neither crops nor flips")
training.add_argument("--no-flip", action="store_true", help="crops only")
# What the model files train with, where it is not the default above.
RECIPES = {
    "lenet5": {"lr": 0.02, "warmup_epochs": 1.0, "no_augment": True},
    "resnet8": {"warmup_epochs": 2.0},
    "vgg_small": {"lr": 0.05, "weight_decay": 5e-4},
    "mobilenet_v2": {"weight_decay": 4e-5},
}
parser.set_defaults(**RECIPES.get(parser.parse_known_args()[0].network, {}))
args = parser.parse_args()

os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as error:
    raise SystemExit(f"PyTorch is not installed for this Python: {error}")


def resident():
    """Resident memory now, in MiB."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


RESIDENT_AFTER_IMPORT = resident()

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
    """Images u8 [n, 3, 32, 32] and labels i64 [n]; grey images are centred on a black 32x32 and repeated over the channels,
    but for lenet5, which takes [n, 1, 28, 28]."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    if (folder / names[0]).exists():
        raw = b"".join((folder / name).read_bytes() for name in names)
        records = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, 3073)
        return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()
    stem = "train" if train else "t10k"
    images, labels = read_idx(folder, f"{stem}-images-idx3-ubyte"), read_idx(folder, f"{stem}-labels-idx1-ubyte")
    if args.network == "lenet5":
        return images[:, None].contiguous(), labels.long()
    top, left = (32 - images.shape[1]) // 2, (32 - images.shape[2]) // 2
    square = torch.zeros(len(images), 32, 32, dtype=torch.uint8)
    square[:, top : top + images.shape[1], left : left + images.shape[2]] = images
    return square[:, None].repeat(1, 3, 1, 1), labels.long()


# ----------------------------------------------------------------------------------- fake quantization
class RoundToGrid(torch.autograd.Function):
    """Symmetric uniform quantization to so many bits and back; the gradient passes straight through."""

    @staticmethod
    def forward(ctx, x, bits):
        most = 2 ** (bits - 1) - 1
        scale = x.abs().amax().clamp_min(1e-12) / most
        return torch.clamp(torch.round(x / scale), -most, most) * scale

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def predrawn():
    """Random numbers for the network's largest gradient, and so many more that windows into them rarely repeat."""
    channels = {"vgg_small": 64, "mobilenet_v2": 144}.get(args.network, 16)
    return torch.rand(32 * 32 * channels * args.batch + 2**21)


NOISE = predrawn() if args.dtype == "fakequant" and args.noise == "predrawn" else None


def noise_like(gradient):
    if NOISE is None:
        return torch.rand_like(gradient)
    start = int(torch.randint(0, NOISE.numel() - gradient.numel(), ()))
    # Laid out in memory like the gradient, so that they add without copies.
    return NOISE[start : start + gradient.numel()].as_strided(gradient.shape, gradient.stride(), start)


class RoundGradient(torch.autograd.Function):
    """The identity; its gradient is rounded stochastically to so many bits."""

    @staticmethod
    def forward(ctx, x, bits):
        ctx.bits = bits
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        most = 2 ** (ctx.bits - 1) - 1
        scale = gradient.abs().amax().clamp_min(1e-30) / most
        return torch.clamp(torch.floor(gradient / scale + noise_like(gradient)), -most, most) * scale, None


class FakeConv2d(nn.Conv2d):
    def forward(self, x):
        y = self._conv_forward(RoundToGrid.apply(x, args.a_bits), RoundToGrid.apply(self.weight, args.w_bits), self.bias)
        return RoundGradient.apply(y, args.g_bits)


class FakeLinear(nn.Linear):
    def forward(self, x):
        y = F.linear(RoundToGrid.apply(x, args.a_bits), RoundToGrid.apply(self.weight, args.w_bits), self.bias)
        return RoundGradient.apply(y, 8)  # logits keep 8 bits, as in the models' recipes


Conv, Linear = (FakeConv2d, FakeLinear) if args.dtype == "fakequant" else (nn.Conv2d, nn.Linear)


# ----------------------------------------------------------------------------------------------- models
def conv(cin, cout, kernel, stride=1, groups=1, padding=None, bias=False):
    padding = kernel // 2 if padding is None else padding
    layer = Conv(cin, cout, kernel, stride, padding, groups=groups, bias=bias)
    nn.init.normal_(layer.weight, std=math.sqrt(2 * groups / (cout * kernel * kernel)))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def conv_bn(cin, cout, kernel, stride=1, groups=1, activation=nn.ReLU):
    layers = [conv(cin, cout, kernel, stride, groups), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, activation()) if activation else nn.Sequential(*layers)


def head(features, outputs=10):
    layer = Linear(features, outputs)
    nn.init.uniform_(layer.weight, -1 / math.sqrt(features), 1 / math.sqrt(features))
    nn.init.zeros_(layer.bias)
    return layer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015), which is a 1x1 convolution where the size changes."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.main = nn.Sequential(conv_bn(cin, cout, 3, stride), conv_bn(cout, cout, 3, activation=None))
        self.skip = conv_bn(cin, cout, 1, stride, activation=None) if stride != 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.main(x) + self.skip(x))


def resnet(blocks):
    layers, cin = [conv_bn(3, 16, 3)], 16
    for stage, cout in enumerate((16, 32, 64)):
        for i in range(blocks):
            layers.append(BasicBlock(cin, cout, 2 if stage and i == 0 else 1))
            cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(64))


def lenet5():
    """For 28x28 grey images (LeCun et al. 1998), with ReLU and max pooling."""
    convolutions = [conv(1, 6, 5, bias=True), nn.ReLU(), nn.MaxPool2d(2), conv(6, 16, 5, padding=0, bias=True), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), head(400, 120), nn.ReLU(), head(120, 84), nn.ReLU(), head(84))


def vgg_small():
    layers, cin = [], 3
    for cout in (64, 128, 256):
        layers += [conv_bn(cin, cout, 3), conv_bn(cout, cout, 3), nn.MaxPool2d(2)]
        cin = cout
    return nn.Sequential(*layers, nn.Flatten(), head(256 * 4 * 4))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and a linear bottleneck (Sandler et al. 2018)."""

    def __init__(self, cin, cout, stride, expand):
        super().__init__()
        wide = cin * expand
        layers = [conv_bn(cin, wide, 1, activation=nn.ReLU)] if expand != 1 else []
        layers += [conv_bn(wide, wide, 3, stride, groups=wide, activation=nn.ReLU), conv_bn(wide, cout, 1, activation=None)]
        self.main, self.add = nn.Sequential(*layers), stride == 1 and cin == cout

    def forward(self, x):
        return x + self.main(x) if self.add else self.main(x)


def mobilenet_v2():
    """For 32x32: the first two strides of the network for 224x224 are 1."""
    settings = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers, cin = [conv_bn(3, 32, 3, activation=nn.ReLU)], 32
    for expand, cout, blocks, stride in settings:
        for i in range(blocks):
            layers.append(InvertedResidual(cin, cout, stride if i == 0 else 1, expand))
            cin = cout
    return nn.Sequential(*layers, conv_bn(cin, 1280, 1, activation=nn.ReLU), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(1280))


def network(name):
    if name == "lenet5":
        return lenet5()
    if name == "vgg_small":
        return vgg_small()
    if name == "mobilenet_v2":
        return mobilenet_v2()
    return resnet({"resnet8": 1, "resnet20": 3, "resnet32": 5}[name])


# ------------------------------------------------------------------------------------------------ steps
def forward(model, x):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        return model(x)


def loss_of(logits, labels):
    return F.cross_entropy(logits.float(), labels)


def make_optimizer(model):
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum)


def step(model, optimizer, x, y):
    """One training step; returns logits and loss."""
    logits = forward(model, x)
    loss = loss_of(logits, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return logits, loss


def bench(model):
    x = torch.randn(args.batch, *((1, 28, 28) if args.network == "lenet5" else (3, 32, 32))).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (args.batch,))
    optimizer, times = make_optimizer(model), []
    run = torch.compile(model) if args.compile else model
    for i in range(args.warm_up + args.steps):
        begin = time.perf_counter()
        step(run, optimizer, x, y)
        if i >= args.warm_up:
            times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    row = {"peer": "pytorch", "version": torch.__version__, "network": args.network, "dtype": args.dtype}
    if args.dtype == "fakequant":
        row |= {"noise": args.noise, "bits": [args.w_bits, args.a_bits, args.g_bits]}
    row |= {"batch": args.batch, "threads": torch.get_num_threads(), "steps": len(times), "parameters": sum(p.numel() for p in model.parameters())}
    row |= {"images_per_s": round(args.batch / median, 1), "ms_per_step": round(1e3 * median, 2)}
    row |= {"ms_min": round(1e3 * min(times), 2), "ms_max": round(1e3 * max(times), 2)}
    row |= {"peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1), "rss_after_import_mib": round(RESIDENT_AFTER_IMPORT, 1)}
    print(json.dumps(row))


# ---------------------------------------------------------------------------------------------- training
def factor(number, steps_per_epoch):
    """Learning rate of a step, as a share of the peak."""
    total = args.epochs * steps_per_epoch
    warm = min(args.warmup_epochs, args.epochs / 3) * steps_per_epoch
    if number < warm:
        return (number + 1) / warm
    done = (number - warm) / max(1, total - warm)
    if args.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if args.schedule == "step":
        return 0.1 ** sum(number >= at * total for at in args.step_at)
    return 1.0


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


def restore(model, optimizer):
    """Continues from the checkpoint, random numbers included; returns how many epochs are done."""
    if args.checkpoint is None or not args.checkpoint.exists():
        return 0
    state = torch.load(args.checkpoint)
    if state["settings"] != settings("threads"):
        sys.exit(f"{args.checkpoint} is of a run with other settings: {state['settings']}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return state["epochs"]


def save(model, optimizer, epochs):
    if args.checkpoint is None:
        return
    state = {"settings": settings("threads"), "epochs": epochs, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    new = args.checkpoint.with_suffix(".new")
    torch.save({**state, "random": torch.get_rng_state()}, new)
    new.replace(args.checkpoint)


def settings(*but):
    """What the command line says of a run, without where things lie and what `but` names."""
    return " ".join(f"{key}={value}" for key, value in vars(args).items() if key not in ("data", "train", "checkpoint", *but))


def train(model, folder):
    images, labels = read_split(folder, True)
    test_images, test_labels = read_split(folder, False)
    mean = images.float().mean((0, 2, 3)).round().view(1, -1, 1, 1)
    size = images.shape[2]
    if args.padding == "reflect":
        line = (size - 1) - (size - 1 - torch.arange(-4, size + 4).abs()).abs()
        padded = images[:, :, line][:, :, :, line]
    else:
        padded = mean.to(torch.uint8).repeat(len(images), 1, size + 8, size + 8)
        padded[:, :, 4 : 4 + size, 4 : 4 + size] = images
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)
    optimizer, steps_per_epoch = make_optimizer(model), len(images) // args.batch
    run = torch.compile(model) if args.compile else model
    for epoch in range(restore(model, optimizer), args.epochs):
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
            logits, loss = step(run, optimizer, x, labels[pick])
            losses.append(float(loss.detach()))
            correct += int((logits.argmax(1) == labels[pick]).sum())
        seconds, seen = time.perf_counter() - begin, steps_per_epoch * args.batch
        accuracy, test_loss = evaluate(model, test_images, test_labels, mean)
        print(
            f"epoch {epoch + 1}/{args.epochs}  train loss {statistics.fmean(losses):.3f}  accuracy {100 * correct / seen:.2f} %"
            f"  test accuracy {accuracy:.2f} %  loss {test_loss:.3f}  {seen / seconds:.0f} images/s",
            flush=True,
        )
        save(model, optimizer, epoch + 1)
    accuracy, test_loss = evaluate(model, test_images, test_labels, mean)
    print(f"test accuracy {accuracy:.2f} %  loss {test_loss:.3f}")


def main():
    model = network(args.network).to(memory_format=torch.channels_last)
    if args.train:
        print(settings(), f"torch={torch.__version__}")
        train(model, pathlib.Path(args.data))
    else:
        bench(model)


if __name__ == "__main__":
    main()
