"""What anybody would write to time an ONNX graph: `python plain_loop.py GRAPH BATCH PX THREADS SECONDS`.

Knows nothing of effvit, so that `agreement.py` can hold its clock against this one. Prints the seconds of every call.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime as ort

WARMUP = 5


def main() -> None:
    graph, *numbers, seconds = sys.argv[1:]
    batch, px, threads = map(int, numbers)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    shape = (batch, 3, px, px)
    feed = {session.get_inputs()[0].name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    for _ in range(WARMUP):
        session.run(None, feed)
    times: list[float] = []
    while sum(times) < float(seconds):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
