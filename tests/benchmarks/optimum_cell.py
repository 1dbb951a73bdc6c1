"""One cell of optimum-benchmark, with its own defaults: `python optimum_cell.py PX THREADS`.

For a Python that has optimum-benchmark 0.6, which needs transformers 4: `pip install 'optimum-benchmark==0.6.0'
'transformers<5' 'accelerate<1.11' 'datasets<4.2'`. Knows nothing of effvit. Prints the wall seconds of the cell and of
its calls as JSON. The model is transformers' ViT in the size of ViT-Ti, because the timm library needs the hub there.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time


def main() -> None:
    from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, ProcessConfig, PyTorchConfig
    from transformers import ViTConfig, ViTForImageClassification

    px, threads = map(int, sys.argv[1:])
    size = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    with tempfile.TemporaryDirectory() as folder:
        ViTForImageClassification(ViTConfig(image_size=px, num_labels=10, **size)).save_pretrained(folder)
        shapes = {"batch_size": 1, "num_channels": 3, "height": px, "width": px}
        config = BenchmarkConfig(
            name="cell",
            launcher=ProcessConfig(),
            scenario=InferenceConfig(latency=True, memory=True, input_shapes=shapes),
            backend=PyTorchConfig(
                model=folder,
                library="transformers",
                task="image-classification",
                device="cpu",
                intra_op_num_threads=threads,
                inter_op_num_threads=1,
            ),
        )
        started = time.perf_counter()
        report = Benchmark.launch(config)
        wall_s = time.perf_counter() - started
    print(json.dumps({"wall_s": wall_s, "seconds": report.to_dict()["forward"]["latency"]["values"]}))


# It starts a process, which imports this file again.
if __name__ == "__main__":
    main()
