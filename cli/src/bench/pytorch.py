"""One model on PyTorch, as `consilium bench train` measures its own: prints images a second and peak memory as JSON.

usage: pytorch.py MODEL SIDE BATCH train|infer THREADS SECONDS DEVICE

A DEVICE other than cpu is CUDA's of the same number.
"""

import json
import os
import resource
import sys
import time

MODEL, SIDE, BATCH, MODE, THREADS, SECONDS, DEVICE = sys.argv[1:]
SIDE, BATCH, THREADS, SECONDS = int(SIDE), int(BATCH), int(THREADS), float(SECONDS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

torch.set_num_threads(THREADS)
CHANNELS, CLASSES = 3, 10
PLACE = torch.device(DEVICE.replace("gpu", "cuda"))


def conv(inputs: int, filters: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, kernel, stride, kernel // 2, bias=bias)


def head(values: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(values, 128), nn.ReLU(), nn.Linear(128, CLASSES)]


def small_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, filters in [(CHANNELS, 32), (32, 64)]:
        layers += [conv(inputs, filters, bias=True), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *head(64 * (SIDE // 4) ** 2))


def cnn_bn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, filters, halved in [(CHANNELS, 32, False), (32, 64, True), (64, 128, True)]:
        layers += [conv(inputs, filters, bias=True), nn.BatchNorm2d(filters), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if halved else []
    return nn.Sequential(*layers, *head(128 * (SIDE // 4) ** 2))


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(
            conv(inputs, filters, stride=stride), nn.BatchNorm2d(filters), nn.ReLU(),
            conv(filters, filters), nn.BatchNorm2d(filters),
        )  # fmt: skip
        changes = stride != 1 or inputs != filters
        shortcut = [conv(inputs, filters, 1, stride), nn.BatchNorm2d(filters)] if changes else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.main(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    layers: list[nn.Module] = [conv(CHANNELS, 64), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for filters, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        layers += [Block(inputs, filters, stride), Block(filters, filters, 1)]
        inputs = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


model = {"small-cnn": small_cnn, "cnn-bn": cnn_bn, "resnet18": resnet18}[MODEL]().to(PLACE)
model.train(MODE == "train")
torch.manual_seed(1)
images = torch.randn(BATCH, CHANNELS, SIDE, SIDE).to(PLACE)
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
