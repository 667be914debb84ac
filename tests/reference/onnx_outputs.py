"""What onnxruntime makes of an exported model: `onnx_outputs.py MODEL.onnx CASES` prints one JSON object.

CASES holds float32, little endian, case after case: what goes into the model's first input, then into the next. Needs the
packages of onnx-requirements.txt.
"""

import json
import math
import sys

import numpy
import onnx
import onnxruntime

model, values = sys.argv[1:]
onnx.checker.check_model(model, full_check=True)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
wanted = session.get_inputs()
sizes = [math.prod(one.shape[1:]) for one in wanted]
values = numpy.fromfile(values, dtype="<f4").reshape(-1, sum(sizes))
parts = numpy.split(values, numpy.cumsum(sizes)[:-1], axis=1)
cases = {one.name: part.reshape(-1, *one.shape[1:]) for one, part in zip(wanted, parts)}
names = [output.name for output in session.get_outputs()]
together = dict(zip(names, session.run(names, cases)))
alone = [
    session.run(["logits"], {name: part[[case]] for name, part in cases.items()})[0][0]
    for case in range(len(values))
]
first, *beside = [[one.name, *one.shape] for one in wanted]
print(
    json.dumps(
        {
            "input": first,
            "beside": beside,
            "outputs": {output.name: output.shape for output in session.get_outputs()},
            "metadata": session.get_modelmeta().custom_metadata_map,
            **{name: together[name].tolist() for name in names},
            "alone": numpy.array(alone).tolist(),
        }
    )
)
