"""One model on PyTorch, as `consilium bench train` measures its own: prints images a second and peak memory as JSON.

usage: pytorch.py MODEL SIDE BATCH train|infer THREADS SECONDS DEVICE [DEPTH]

A DEVICE other than cpu is CUDA's of the same number. With DEPTH cases are grey volumes.
"""

import json
import os
import resource
import sys
import time

MODEL, SIDE, BATCH, MODE, THREADS, SECONDS, DEVICE = sys.argv[1:8]
DEPTH = int(sys.argv[8]) if len(sys.argv) > 8 else None
SIDE, BATCH, THREADS, SECONDS = int(SIDE), int(BATCH), int(THREADS), float(SECONDS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

torch.set_num_threads(THREADS)
CHANNELS, CLASSES = 1 if DEPTH else 3, 10
Conv, Norm, MaxPool, MeanPool = (
    (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d)
    if DEPTH
    else (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
)
# What two halvings leave.
PLACES = (SIDE // 4) ** 2 * (DEPTH // 4 if DEPTH else 1)
PLACE = torch.device(DEVICE.replace("gpu", "cuda"))


def conv(inputs: int, filters: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Module:
    return Conv(inputs, filters, kernel, stride, kernel // 2, bias=bias)


def head(values: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(values, 128), nn.ReLU(), nn.Linear(128, CLASSES)]


def small_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, filters in [(CHANNELS, 32), (32, 64)]:
        layers += [conv(inputs, filters, bias=True), nn.ReLU(), MaxPool(2)]
    return nn.Sequential(*layers, *head(64 * PLACES))


def cnn_bn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, filters, halved in [(CHANNELS, 32, False), (32, 64, True), (64, 128, True)]:
        layers += [conv(inputs, filters, bias=True), Norm(filters), nn.ReLU()]
        layers += [MaxPool(2)] if halved else []
    return nn.Sequential(*layers, *head(128 * PLACES))


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(
            conv(inputs, filters, stride=stride), Norm(filters), nn.ReLU(),
            conv(filters, filters), Norm(filters),
        )  # fmt: skip
        changes = stride != 1 or inputs != filters
        shortcut = [conv(inputs, filters, 1, stride), Norm(filters)] if changes else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.main(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    layers: list[nn.Module] = [conv(CHANNELS, 64), Norm(64), nn.ReLU()]
    inputs = 64
    for filters, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        layers += [Block(inputs, filters, stride), Block(filters, filters, 1)]
        inputs = filters
    return nn.Sequential(*layers, MeanPool(1), nn.Flatten(), nn.Linear(512, CLASSES))


model = {"small-cnn": small_cnn, "cnn-bn": cnn_bn, "resnet18": resnet18}[MODEL]().to(PLACE)
model.train(MODE == "train")
torch.manual_seed(1)
sides = [DEPTH, SIDE, SIDE] if DEPTH else [SIDE, SIDE]
images = torch.randn(BATCH, CHANNELS, *sides).to(PLACE)
labels = (torch.arange(BATCH) % CLASSES).to(PLACE)
optimiser = torch.optim.Adam(model.parameters(), 1e-3)


def step() -> None:
    if MODE == "train":
        optimiser.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        loss.item()
    else:
        with torch.inference_mode():
            model(images).sum().item()


for _ in range(2):
    step()
times, began = [], time.perf_counter()
while len(times) < 3 or time.perf_counter() - began < SECONDS:
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
median = sorted(times)[len(times) // 2]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"images_per_second": BATCH / median, "peak_bytes": peak, "version": torch.__version__}))
