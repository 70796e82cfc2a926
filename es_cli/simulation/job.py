"""Images → measurements, ground truth and operator in a folder, with a spec that trains on them. Usable from Python without the command line."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from es_cli import catalog
from es_cli.building.data_sets import ImageStack, measured, open_samples
from es_cli.building.forward_operator import Operator, as_samples
from es_cli.building.parameters import build_sampled_operator, open_parameters
from es_cli.data.measurements import Samples, held_out, not_finite
from es_cli.data.parameters import StoredParameter
from es_cli.data.sample_files import MEASURED, SampleFile, SubjectFile
from es_cli.data.stacks import Chosen
from es_cli.data.writers import whole_folder, write_bytes
from es_cli.errors import DataError, Fault, SpecError, UsageError
from es_cli.simulation.folder import SPEC, check_output, may_replace, write_mark
from es_cli.simulation.operator_files import check_read_back, write_operator
from es_cli.spec.document import to_yaml
from es_cli.spec.schema import ArrayFile, Component, Pair, Source, Spec
from es_cli.splitting.library_loss import takes_ground_truth
from es_cli.streams import stream_seed

SCRATCH = "decoded"  # a folder of pictures, which goes when all is measured


def simulate(
    spec: Spec,
    folder: Path,
    *,
    test: float | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Measure the images that a spec names, as `es train` would, and return the path of a spec for what was measured: `folder`/spec.yaml.

    `folder` gets PART_y.npy (n, …), float32, PART_x.npy (n, C, …), float32, and the operator's parameters PART_NAME.npy where each sample has its
    own, for PART train, validation and test; NAME.npy of what else the operator holds, such as mask, coil_maps, angles, matrix; and the spec,
    which names them relative to itself, and images only for the test and for losses that compare with them. Complex numbers are two channels.
    Where samples differ in shape, a folder stands in place of the file; where several training samples come from one file, train_y.h5 says which.
    Operator, noise and held-out samples are those of training on the images.

    `test` sets a fraction (below 1) or a number of the files of data.train.images aside for the test, None: none. `on_progress` is told (done,
    total). The folder appears whole or not at all, and no more than a few samples are in memory, as far as their format allows.
    Raises UsageError where `folder` exists, or, with `overwrite`, holds what no simulation wrote; SpecError where there are no images to measure
    or measurements could not be read with this operator; DataError; OutputError.
    """
    check_output(folder, overwrite)
    pairs = _to_measure(spec, test)
    with whole_folder(folder, may_replace if overwrite else lambda path: False, "folder of a simulation") as made:
        opened = _opened(spec, pairs, test, made / SCRATCH)
        pairs = {purpose: pairs.get(purpose, Pair(images=pairs["train"].images)) for purpose in opened}
        operator = build_sampled_operator(spec.physics, pairs["train"], opened["train"], True, spec.seed)
        images = {purpose: ImageStack(stack, operator.image) for purpose, stack in opened.items()}
        physics = write_operator(operator, spec.physics, pairs["train"], made)
        planned = {purpose: {name: Path(f"{purpose}_{name}.npy") for name in ("y", "x", *pair.params)} for purpose, pair in pairs.items()}
        check_read_back(_described(spec, physics, planned), operator, images["train"], pairs["train"], made)
        total, done = sum(len(of_part) for of_part in images.values()), itertools.count(1)
        files = {purpose: _write_part(spec, pairs[purpose], operator, of_part, made / purpose, lambda: on_progress(next(done), total)) for purpose, of_part in images.items()}
        opened.clear()  # a file that is still mapped cannot be deleted everywhere
        images.clear()
        shutil.rmtree(made / SCRATCH)
        write_bytes(made / SPEC, to_yaml(_described(spec, physics, files)).encode())
        write_mark(made)
    return folder / SPEC


def _to_measure(spec: Spec, test: float | None) -> dict[str, Pair]:
    """The parts of the data that have images and no measurements, train among them."""
    pairs = {purpose: pair for purpose, pair in catalog.pairs(spec) if pair.measurements is None}
    if spec.data is None or "train" not in pairs:
        what = "there are no images to measure" if spec.data is None else "these are measured already"
        where = "data" if spec.data is None else "data.train.measurements"
        raise SpecError([Fault(what, where, "give --images DIR, or data.train: {images: DIR}")])
    if test is None:
        return pairs
    if spec.data.test is not None:
        raise UsageError("data.test of the spec names the test data, and --test sets others aside", hint="leave one of them out")
    if pairs["train"].params:
        what = f"data.train.params gives each image its {next(iter(pairs['train'].params))}, and --test sets some of the images aside"
        raise UsageError(what, hint="leave --test out, and name data.test: {images: DIR, params: {…}}")
    return pairs


def _opened(spec: Spec, pairs: Mapping[str, Pair], test: float | None, scratch: Path) -> dict[str, Samples]:
    """The images of each part as they lie on disk, pictures decoded into `scratch`, after some of the training images were set aside."""
    scratch.mkdir()
    opened: dict[str, Samples] = {}
    for purpose, pair in pairs.items():
        stack = open_samples(pair.images, True, spec.seed, purpose, scratch / purpose)
        opened[purpose] = as_samples(stack, spec.physics, pictures=True)
    if test is not None:
        whole = opened["train"]
        count = len(whole) if whole.groups is None else len(np.unique(whole.groups))
        if not 0 < test < count or count < 2:
            raise UsageError(f"--test {test:g} of {count} files, and some must be left to train on", where=whole.names[0], hint="give a fraction such as 0.1, or a smaller number")
        held = held_out(whole.groups, len(whole), test, stream_seed(spec.seed, "test-files"))
        opened |= {"train": Chosen(whole, np.flatnonzero(~held).tolist()), "test": Chosen(whole, np.flatnonzero(held).tolist())}
    return opened


def _write_part(
    spec: Spec, pair: Pair, operator: Operator, images: Samples, path: Path, on_progress: Callable[[], None]
) -> dict[str, Path]:
    """Measure the images of one part and write all of it: name → file or folder, such as y → train_y.npy for the path …/train.

    Raises DataError, OutputError.
    """
    purpose = path.name
    params = open_parameters(pair.params, operator, images)
    writers: dict[str, SampleFile | SubjectFile] = {name: SampleFile(path.with_name(f"{purpose}_{name}")) for name in ("y", "x", *params)}
    subjects = _subjects(spec, images) if purpose == "train" else None
    if subjects is not None:
        writers["y"] = SubjectFile(path.with_name(f"{purpose}_y"), subjects)
    for number, y in enumerate(measured(images, operator, params, spec.seed, purpose)):
        x = images.read([number])
        if not np.isfinite(x).all():
            raise not_finite(number, images.names[number])
        own = {name: one.read(np.array([number]), x)[0] for name, one in params.items() if number == 0 or _each(one)}
        for name, array in {"y": y, "x": x[0], **own}.items():
            writers[name].append(array)
        on_progress()
    return {name: writer.close() for name, writer in writers.items()}


def _each(parameter: object) -> bool:
    """Whether samples have values of their own; else one value for all is written once."""
    return not isinstance(parameter, StoredParameter) or parameter.each


def _subjects(spec: Spec, images: Samples) -> np.ndarray | None:
    """To which file each training sample belongs, (n,), where `es train` will hold out whole files of several samples; None where it need not know."""
    assert spec.data is not None
    if images.groups is None or isinstance(spec.data.validation, Pair) or not 1 < len(np.unique(images.groups)) < len(images):
        return None
    if images.shapes is not None:
        what = "files hold several images, and images differ in size: what is written could not say which belong together"
        raise DataError(what, where=images.names[0], hint="add crop: 64 or resize: 64, or name data.validation: {images: DIR}")
    return images.groups


def _described(spec: Spec, physics: Component, files: Mapping[str, Mapping[str, Path]]) -> Spec:
    """The spec with an operator and measurements in files; parts of the data that are not in `files` stay as they are."""
    assert spec.data is not None
    judged = any(takes_ground_truth(catalog.load_class(entry)) for term in spec.losses if (entry := catalog.find(term.loss.name, ("loss",))) is not None)
    parts = {purpose: _pair(of_part, truth=judged or purpose == "test") for purpose, of_part in files.items()}
    return spec.model_copy(update={"physics": physics, "data": spec.data.model_copy(update=parts)})


def _pair(files: Mapping[str, Path], truth: bool) -> Pair:
    measurements = Source(file=files["y"].name, key=MEASURED if files["y"].suffix == ".h5" else None)
    params: dict[str, Any] = {name: ArrayFile(file=path.name) for name, path in files.items() if name not in {"y", "x"}}
    return Pair(measurements=measurements, images=Source(file=files["x"].name) if truth else None, params=params)
