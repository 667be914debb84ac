"""What torchvision makes of an exported network: `torchvision_outputs.py MODEL.safetensors PIXELS SIDE` prints its
logits as JSON.

PIXELS holds float32, little endian, case after case, of pictures of SIDE x SIDE. Needs torch, torchvision and safetensors.
"""

import json
import re
import sys

import numpy
import torch
import torchvision
from safetensors import safe_open

with safe_open(sys.argv[1], "pt") as file:
    about = file.metadata()
    weights = {name: file.get_tensor(name) for name in file.keys()}
network = getattr(torchvision.models, about["architecture"])(num_classes=len(json.loads(about["labels"])))
# The stem is the one thing in which a graph may differ from torchvision's own network.
kernel, stride, padding, pool = re.fullmatch(
    r"convolution (\d+)x\1, stride (\d+), padding (\d+); (.*)", about["stem"]
).groups()
if about["architecture"].startswith("densenet"):
    stem, first, last, path = network.features, "conv0", "pool0", "features."
else:
    stem, first, last, path = network, "conv1", "maxpool", ""
channels = weights[f"{path}{first}.weight"].shape[1]
setattr(stem, first, torch.nn.Conv2d(channels, 64, int(kernel), int(stride), int(padding), bias=False))
if pool == "no max pool":
    setattr(stem, last, torch.nn.Identity())
else:
    assert pool == "max pool 3x3, stride 2, padding 1", "torchvision's own"
network.load_state_dict(weights, strict=True)
network.eval()
pixels = torch.from_numpy(numpy.fromfile(sys.argv[2], dtype="<f4"))
side = int(sys.argv[3])
cases = (pixels.reshape(-1, channels, side, side) - float(about["mean"])) / float(about["std"])
with torch.no_grad():
    by = f"torchvision {torchvision.__version__}"
    print(json.dumps({"by": by, "logits": network(cases).tolist()}))
