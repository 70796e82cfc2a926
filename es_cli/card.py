"""What a checkpoint says about itself, in words: a table of facts, and a model card in markdown."""

from __future__ import annotations

from typing import Any

from es_cli import catalog
from es_cli.checkpoint import Metadata

UNRECORDED = "_Not recorded in the checkpoint: fill in by hand._"


def facts(metadata: Metadata) -> dict[str, Any]:
    """What a checkpoint holds, by name, as `es info` prints it."""
    spec, measurement, validation = metadata.spec, metadata.measurement, metadata.validation
    is_complex = ", complex as two channels" if measurement.get("complex") else ""
    return {
        "name": spec.get("name"),
        "physics": brief(spec.get("physics")),
        "measurement": _shape(measurement.get("shape")) + is_complex,
        "image": " or ".join(_shape(size) for size in measurement.get("sizes") or [measurement.get("image_shape")]) + is_complex,
        "scale": metadata.scale,
        "model": brief(spec.get("model")),
        "losses": brief(spec.get("losses")),
        "transforms": brief(spec.get("transforms")),
        "mask generator": brief(spec.get("mask_generator")),
        "test": brief(spec.get("test")),
        "network calls": f"{measurement.get('network_calls', 'unknown')} for each image",
        "held-out loss": f"{validation.get('loss', 'unknown')} at step {validation.get('step', 'unknown')}",
        "error bars": _error_bars(validation.get("error_bar")),
        "versions": ", ".join(f"{name} {number}" for name, number in metadata.versions.items()),
        "format": metadata.format,
        "fingerprint": metadata.fingerprint,
    }


def card(metadata: Metadata) -> str:
    """A model card in markdown, filled as far as the checkpoint goes; what it cannot know is said to be missing.

    Headings as in Mitchell et al., Model cards for model reporting, FAT* 2019.
    """
    known = facts(metadata)
    training = metadata.spec.get("training") or {}
    supervised = _compares_with_images(metadata.spec.get("losses"))
    learned = f"with ground truth, which {supervised} compares with" if supervised else "from measurements alone: no loss was shown an image"
    recipe = {key: training.get(key) for key in ("batch_size", "optimizer", "scheduler", "ema", "splits") if training.get(key) is not None}
    own = metadata.measurement.get("per_sample") or []
    sections = {
        "Model": _table({name: known[name] for name in ("model", "image", "versions", "fingerprint")}),
        "Intended use": f"Images from measurements of this operator, by `es reconstruct --ckpt FILE y.npy`.\n\n{_table({name: known[name] for name in ('physics', 'measurement', 'scale')})}"
        + (f"\n\nEach sample had its own {', '.join(own)} in training, to be given with new measurements." if own else ""),
        "Out of scope": "Measurements by another operator, mask or noise level, and images unlike those that were trained on: what was not measured is "
        "invented after them. `es reconstruct --parts DIR` shows which part that is. No clinical or other decision has been validated.",
        "Training": f"Learned {learned}.\n\n{_table({name: known[name] for name in ('losses', 'transforms', 'mask generator')} | {key.replace('_', ' '): brief(value) for key, value in recipe.items()})}",
        "Training data": UNRECORDED,
        "How images are made": _table({name: known[name] for name in ("test", "network calls")}),
        "Evaluation": f"{_table({name: known[name] for name in ('held-out loss', 'error bars')})}\n\n"
        "The held-out loss is the error on a part of validation measurements that the network was not given; it selected the weights. "
        "`es evaluate` measures PSNR where there is ground truth, and what can be said without.",
        "Licence and contact": UNRECORDED,
    }
    return "\n\n".join([f"# {_plain(known['name'] or 'unnamed')}", *[f"## {title}\n\n{text}" for title, text in sections.items()]]) + "\n"


def brief(part: Any) -> str:
    """A part of a spec as a call, `Name(parameter=value)`; what is left out (null) is left out."""
    if isinstance(part, dict):
        rest = ", ".join(f"{key}={brief(value)}" for key, value in part.items() if key != "name" and value is not None)
        name = str(part.get("name", ""))
        return f"{name}({rest})" if name and rest else name or rest
    if isinstance(part, (list, tuple)):
        return "[" + ", ".join(brief(inner) for inner in part) + "]"
    return "none" if part is None else str(part)


def _compares_with_images(losses: Any) -> str:
    """The names of the losses that see ground truth; nothing where none does."""
    from es_cli.splitting.library_loss import takes_ground_truth

    entries = [catalog.find(str(part.get("name")), ("loss",)) for part in losses or () if isinstance(part, dict)]
    return ", ".join(entry.name for entry in entries if entry is not None and takes_ground_truth(catalog.load_class(entry)))


def _error_bars(kept: Any) -> str:
    if not isinstance(kept, dict):
        return "not calibrated"
    try:
        covered = " and ".join(f"{float(part):.0%}" for part in kept["coverage"])
        return f"{float(kept['factor']):.3g} × the spread of the passes, which covers {covered} of {int(kept['entries'])} held-out entries within one and two"
    except (KeyError, TypeError, ValueError, OverflowError):
        return "cannot be read"


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *[f"| {name} | {_plain(value)} |" for name, value in rows.items()]])


def _plain(value: Any) -> str:
    """Text that is no markup: a checkpoint may come from a stranger."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return "".join(f"\\{c}" if c in r"\`*_[]<>|#!" else c for c in line)


def _shape(shape: Any) -> str:
    return " × ".join(str(n) for n in shape) if isinstance(shape, (list, tuple)) else "unknown"
