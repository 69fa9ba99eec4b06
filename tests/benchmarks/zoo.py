"""Networks of three libraries with random weights: 30% of the MACs cut, run, exported, compared with ONNX Runtime, quantised to
int8, compared again. Each in a process of its own, with limits; goes on where it stopped.

    python tests/benchmarks/zoo.py --libraries torchvision,timm,huggingface [--results zoo.json] [--only resnet18,bert]

`--again` tries those that failed once more, `--table FILE` writes the table in Markdown from results that are there. All 80
classification networks of torchvision, one network each of timm's families, and encoders and decoders of Hugging Face.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import zoo_networks

KEEP, NEAR, FLOAT, INT8 = 0.7, 0.02, 1e-4, 15.0  # share of MACs, of that; error of a float file; decibels of an int8 file
FIGURES = {  # of a record in the table: scale and format
    "parameters": (1e-6, ".3g"), "side": (1, ""), "groups": (1, ""), "macs": (1, ".3f"), "float": (1, ".0e"),
    "int8_db": (1, ".1f"),
}  # fmt: skip


def attempt(library, name, tell):
    """Take one network through all steps; its record goes to `tell`, with the last step that was begun."""
    import torch

    from compress_cli.deployment.exporters.onnx import Onnx
    from compress_cli.networks import narrowing, restore
    from compress_cli.networks.narrowing import Proof
    from compress_cli.networks.proof import example
    from compress_cli.pruning import widths
    from compress_cli.pruning.cost import Cost
    from compress_cli.pruning.criteria.l2 import L2
    from compress_cli.quantization.quantizers.static_int8 import StaticInt8
    from compress_cli.stages import _cut

    record, begun = {"library": library, "name": name, "step": "build"}, time.process_time()

    def at(step):
        record["step"] = step
        record.setdefault("seconds", {})[step] = round(time.process_time() - begun, 1)
        record.setdefault("peak_gb", {})[step] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)
        tell(record)

    at("build")
    model, signature, samples = zoo_networks.described(library, name)
    record["side"] = samples[0].shape[-1]
    network = restore.build(model, signature, 0).network.eval()
    enliven(network)
    calibrate(network, samples)
    body = network.body
    record["parameters"] = sum(parameter.numel() for parameter in body.parameters())
    narrowing.open_attention(body)
    at("follow")
    noise = torch.Generator().manual_seed(1)
    inputs = tuple(
        torch.randn(2, *sample.shape[1:], generator=noise) if sample.is_floating_point() else sample[:2] for sample in samples
    )
    proof = Proof(body, inputs)
    groups, whole = _cut.cuttable(body, inputs, (), proof)
    record["groups"], record["whole"] = len(groups), len(whole)
    at("cut")
    cost = Cost(body, inputs, groups)
    choices = widths.choices([(group.channels, group.multiple, group.fixed) for group in groups], "auto")
    kept = widths.affordable(KEEP * cost.macs(), cost.macs, choices)
    record["macs"] = round(cost.macs(kept) / cost.macs(), 4)
    if abs(record["macs"] - KEEP) > NEAR * KEEP:
        raise ValueError(f"{record['macs']} of the MACs remain, not {KEEP}")
    removed = [
        L2()(group, {}).argsort(stable=True)[: group.channels - count] for group, count in zip(groups, kept, strict=True)
    ]
    at("prove")
    _cut.check_cut(proof, groups, removed)
    expected = cost.macs(kept)
    del proof
    narrowing.narrow(body, groups, removed)
    if Cost(body, inputs).macs() != expected:
        raise ValueError(f"{Cost(body, inputs).macs()} MACs are left, not {expected}")
    at("export")
    with tempfile.TemporaryDirectory() as folder:
        path, quantised = Path(folder, "m.onnx"), Path(folder, "q.onnx")
        Onnx().export(network, signature, example(signature), path, {})
        at("parity")
        batches = [dict(zip(signature.inputs, rows, strict=True)) for rows in zip(*(s.split(4) for s in samples), strict=True)]
        record["float"] = parity(network, path, batches)[0]
        if not record["float"] <= FLOAT:
            raise ValueError(f"the file is {record['float']:.2g} of its range off")
        at("int8")
        arrays = ({key: rows.numpy() for key, rows in batch.items()} for batch in batches)
        StaticInt8().quantize_onnx(path, name, arrays, quantised)
        at("int8_parity")
        record["int8_db"] = parity(network, quantised, batches)[1]
        if not record["int8_db"] >= INT8:
            raise ValueError(f"the int8 file has {record['int8_db']:.1f} dB")
    at("done")


def enliven(network):
    """Weights that start at zero or one would hide wrong channels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() == 1 or not parameter.any():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1


def calibrate(network, samples):
    """Statistics of batch normalisation from the samples: fresh ones let values grow without bounds."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.train()
            module.momentum = None
    with torch.no_grad():
        network(*samples)
    network.eval()


def parity(network, path, batches):
    """Error of a file as a share of the outputs' range, and signal over noise in decibels."""
    import torch

    from compress_cli.measurement import sessions
    from compress_cli.statistics.agreement import compare

    session, found = sessions.open_session(path, 1), {}
    for batch in batches:
        with torch.no_grad():
            heads = {head: values.numpy() for head, values in network(*batch.values()).items()}
        compare(found, heads, session.run({key: rows.numpy() for key, rows in batch.items()}))
    return found["logits"].relative_error, found["logits"].sqnr_db


def supervised(library, name, minutes, gigabytes):
    """The record of one network, from a process with limits, a fork of this one: libraries are imported once."""

    def limited(answers):
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30), int(gigabytes * 2**30)))
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + int(60 * minutes), used + int(60 * minutes) + 5))
        try:
            attempt(library, name, lambda record: answers.send({**copy.deepcopy(record), "cause": "?"}))
            answers.send("")
        except Exception as error:  # the table names every cause
            answers.send(f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0][:300])

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=limited, args=(sender,))
    process.start()
    sender.close()
    record, cause, ends = {"library": library, "name": name, "step": "start"}, None, time.monotonic() + 600 * minutes
    while cause is None:
        if not receiver.poll(max(0, ends - time.monotonic())):
            process.kill()  # a busy machine takes longer, but not without end
            cause = f"took longer than {10 * minutes:g} minutes"
            break
        try:
            answer = receiver.recv()
        except EOFError:
            process.join()
            timed = process.exitcode == -signal.SIGXCPU
            cause = f"took more than {minutes:g} minutes of processor time" if timed else f"exit {process.exitcode}"
            break
        record, cause = (answer, None) if isinstance(answer, dict) else (record, answer)
    process.join()
    return {**record, "cause": cause}


def preloaded(libraries):
    """Import what every network needs, and take a tiny one through all of it, before the first fork."""
    import torch

    from compress_cli.deployment.exporters.onnx import Onnx
    from compress_cli.networks import restore
    from compress_cli.networks.models.convnet import Convnet
    from compress_cli.networks.proof import example
    from compress_cli.quantization.quantizers.static_int8 import StaticInt8

    if "timm" in libraries:
        import timm  # noqa: F401
    if "huggingface" in libraries:
        import transformers  # noqa: F401
    if "torchvision" in libraries:
        import torchvision  # noqa: F401
    torch.set_num_threads(1)  # a fork has no threads but its own
    signature = zoo_networks.pictures(8)
    network = restore.build(Convnet(widths=(8,)), signature, 0).network.eval()
    inputs = example(signature)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        Onnx().export(network, signature, inputs, path, {})
        StaticInt8().quantize_onnx(path, "tiny", [{"image": inputs[0].numpy()}], Path(folder, "q.onnx"))


def table(records):
    """The table in Markdown, and how many of each library passed."""
    columns = ("library", "network", "million weights", "side", "groups", "MACs left", "float error", "int8 dB", "CPU s", "")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for record in records:
        figures = (format(record[key] * scale, digits) if key in record else "-" for key, (scale, digits) in FIGURES.items())
        seconds = f"{max(record['seconds'].values()):.0f}" if record.get("seconds") else "-"
        cause = f"{record['step']}: {record['cause']}".replace("|", "/") if record["cause"] else "passed"
        lines.append(f"| {' | '.join((record['library'], record['name'], *figures, seconds, cause))} |")
    for library in dict.fromkeys(record["library"] for record in records):
        own = [record for record in records if record["library"] == library]
        lines.append(f"\n{library}: {sum(not record['cause'] for record in own)} of {len(own)} passed")
    return "\n".join(lines) + "\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    arguments.add_argument("--libraries", default="torchvision")
    arguments.add_argument("--results", type=Path, default=Path("zoo.json"))
    arguments.add_argument("--only", default="")
    arguments.add_argument("--again", action="store_true", help="try those that failed again")
    arguments.add_argument("--table", type=Path, help="write the table of the results that are there, and run nothing")
    arguments.add_argument("--minutes", type=float, default=5, help="of processor time for each")
    arguments.add_argument("--gigabytes", type=float, default=24)
    given = arguments.parse_args()
    known = json.loads(given.results.read_text()) if given.results.exists() else []
    known = {(record["library"], record["name"]): record for record in known}
    libraries, only = given.libraries.split(","), set(filter(None, given.only.split(",")))
    if given.table:
        given.table.write_text(table(known.values()))
        return
    preloaded(libraries)
    for key in [(library, name) for library in libraries for name in zoo_networks.listed(library) if not only or name in only]:
        if key not in known or (given.again and known[key]["cause"]):
            known[key] = supervised(*key, given.minutes, given.gigabytes)
            given.results.write_text(json.dumps(list(known.values()), indent=1))
            print(f"{key[1]}: {known[key]['cause'] or 'passed'}", file=sys.stderr, flush=True)
    print(table(known.values()))


if __name__ == "__main__":
    main()
