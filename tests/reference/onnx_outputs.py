"""What onnxruntime makes of an exported model: `onnx_outputs.py MODEL.onnx PIXELS` prints one JSON object.

PIXELS holds float32, little endian, case after case. Needs the packages of onnx-requirements.txt.
"""

import json
import sys

import numpy
import onnx
import onnxruntime

model, pixels = sys.argv[1:]
onnx.checker.check_model(model, full_check=True)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(wanted,) = session.get_inputs()
cases = numpy.fromfile(pixels, dtype="<f4").reshape(-1, *wanted.shape[1:])
names = [output.name for output in session.get_outputs()]
together = dict(zip(names, session.run(names, {wanted.name: cases})))
alone = [session.run(["logits"], {wanted.name: case[None]})[0][0] for case in cases]
print(
    json.dumps(
        {
            "input": [wanted.name, *wanted.shape],
            "outputs": {output.name: output.shape for output in session.get_outputs()},
            "metadata": session.get_modelmeta().custom_metadata_map,
            **{name: together[name].tolist() for name in names},
            "alone": numpy.array(alone).tolist(),
        }
    )
)
