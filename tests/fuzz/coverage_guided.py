"""Fuzz one target by coverage: `python tests/fuzz/coverage_guided.py an_onnx_file CORPUS -max_total_time=120`."""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["compress_cli", "yaml", "zipfile", "numpy.lib"]):
    import targets

if __name__ == "__main__":
    name, corpus, *options = sys.argv[1:]
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(targets.seeds()[name]):
        Path(corpus, f"seed{number}").write_bytes(content)
    findings = Path(tempfile.mkdtemp(prefix=f"findings-{name}-"))
    print(f"findings go to {findings}")
    atheris.Setup(
        [sys.argv[0], corpus, f"-artifact_prefix={findings}/", "-timeout=10", "-rss_limit_mb=4096", *options],
        targets.TARGETS[name],
    )
    atheris.Fuzz()
