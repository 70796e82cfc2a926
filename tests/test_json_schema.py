"""`es schema`: the JSON Schema says of a spec what es itself says, as far as its text and the catalogue go."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, ValidationError, validators

from es_cli.catalog import check_spec, checking, load_spec, resolve
from es_cli.catalog.json_schema import json_schema
from es_cli.catalog.listing import givable, nameable
from es_cli.catalog.loading import _check_equivariant_splitting
from es_cli.catalog.sides import EQUIVARIANT_SPLITTING
from es_cli.errors import SpecError
from es_cli.spec.component import GrammarError, as_component
from es_cli.spec.document import Document, _validate, to_yaml
from es_cli.spec.keys import keys_of
from es_cli.spec.starters import FOLDER
from es_cli.spec.yaml_reader import read_yaml

CONFIGS = Path(__file__).parents[1] / "examples" / "configs"
SCHEMA = json_schema()
VALIDATOR = Draft7Validator(SCHEMA)


def _any_of(validator: Any, forms: list[Any], value: Any, schema: Any) -> Iterator[ValidationError]:
    """jsonschema's own collects all errors of all forms before it goes on, which takes most of the time here."""
    if not any(validator.evolve(schema=form).is_valid(value) for form in forms):
        yield ValidationError("none of the forms")


Quick = validators.extend(Draft7Validator, {"anyOf": _any_of})

BASE = """
physics: {name: Inpainting, mask: {file: mask.npy}}
data: {train: {measurements: y.npy, images: x.npy}, validation: {images: v.npy}}
mask_generator: {name: BernoulliSplittingMaskGenerator, split_ratio: 0.8}
transforms: {group: D4}
losses: [{name: SupLoss}]
test: {splits: 2}
model: {name: ArtifactRemoval, backbone_net: UNet}
training: {steps: 2}
"""

# what may stand somewhere in a spec, or nowhere
ANYTHING: list[Any] = [
    None, True, 0, 1, -3, 0.5, 2.5, 4.0, "word", "", "none", "from-data", "full", "trivial", "complementary", "per-sample", "D4", "a/b", "-x",
    [], [1, 2], [1, 2, 3], [0, 1], ["a"], {}, {"file": "a"}, {"file": "a", "key": "x"}, {"file": "a", "key": None}, {"file": ""}, {"file": "a", "crop": [3, 4]},
    {"file": "a", "crops_per_image": 2}, {"sample": "photo", "part": "train"}, {"sample": "photo", "key": "k"}, {"sample": "photo", "file": "a"},
    {"images": "x"}, {"images": {"file": "x", "x": 1}}, {"name": "x"}, "Rotate", {"name": "Rotate"}, ["Rotate"], [{"name": "Rotate", "multiples": 90}, "Reflect"],
    "MCLoss", ["MCLoss"], [{"name": "MCLoss", "weight": 2}], [{"name": "MCLoss", "weight": "2"}], [{"name": "MCLoss", "metric": "MSE", "equivariant": True}],
    "UNet", "AdamW", {"name": "AdamW", "lr": 0.1}, {"name": "StepLR", "step_size": 3}, "StepLR", {"mask": "m.npy"}, {"mask": {"file": "m", "key": "k"}},
    {"mask": "from-data"}, {"mask": 3}, {"group": "none"}, {"train": "Rotate"}, {"group": "D4", "train": "Rotate"}, {"eval": "Rotate"}, {"eval": ["Rotate"]},
    {"train": {"images": "x"}}, {"train": {"images": "x"}, "params": {"mask": "m"}}, {"train": {"images": "x"}, "params": None}, {"splits": "none"},
    {"splits": "complementary", "folds": 3}, {"folds": 3}, {"steps": 3, "epochs": None}, {"steps": 3, "epochs": 2}, "tf32", "from_data",
]  # fmt: skip

# what a parameter of a component may be given, or not
VALUES: list[Any] = [
    None, True, 0, 2.5, 4.0, "word", "", "net.pth", "net.PT", "a.npy", "from-data", [], [1, 2], [[1, 2], [3, 4]], [None], {"file": "a.npy"}, {"file": "a.npz", "key": "x"},
    {"file": "a.npy", "x": 1}, {"file": 3}, {}, {"a": 1}, {"a": {"name": "UNet"}}, "UNet", {"name": "UNet"}, {"name": "UNet", "weights": "a.pth"}, "GaussianNoise",
    {"name": "GaussianNoise", "sigma": 0.2}, {"name": "GaussianNoise", "sgma": 0.2}, "Nothing", {"name": "Nothing"}, {"name": 3}, "BernoulliSplittingMaskGenerator",
    {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.2}, "Rotate", [{"name": "Rotate"}], "MCLoss", {"name": "MCLoss", "metric": "MSE"}, "MSE", {"name": "MSE"},
    "Inpainting", {"name": "Inpainting", "mask": 0.5}, [{"name": "Inpainting", "mask": 0.3}, "Denoising"], {"name": "FarFieldPtychographyGeometry"}, "AdamW",
    {"name": "StepLR", "step_size": 2}, [{"file": "a.npy"}], [{"file": "a.npy", "x": 1}],
]  # fmt: skip


def spec(text: str = BASE, **sections: Any) -> dict[str, Any]:
    return {**read_yaml(text, "spec.yaml").value, **sections}


def loads(document: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the text of a spec stands, and whether all of it does, as `load_spec` has it."""
    read = _validate(copy.deepcopy(document), Document(None, (), "spec.yaml"), None, [])
    text = not read.faults
    return text, text and read.spec is not None and not check_spec(resolve(read.spec))


def test_it_is_a_schema_in_the_draft_that_every_editor_knows() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize("path", [*sorted(CONFIGS.glob("*.yaml")), *sorted(FOLDER.glob("*.yaml"))], ids=lambda path: path.stem)
def test_every_example_and_every_template_is_valid_as_it_stands_and_as_a_run_keeps_it(path: Path) -> None:
    for text in (path.read_text(), to_yaml(load_spec(path))):
        assert not list(VALIDATOR.iter_errors(read_yaml(text, path.name).value))


MUTANTS = {
    "an unknown section": {"trainning": {"steps": 2}},
    "an unknown key": {"training": {"step": 2}},
    "a wrong type": {"training": {"steps": "many"}},
    "a number out of bounds": {"training": {"steps": 0}},
    "a word that is none": {"transforms": {"group": "D5"}},
    "an unknown operator": {"physics": {"name": "Inpaintin"}},
    "an unknown bare name": {"physics": "Inpaintin"},
    "a component of another kind": {"model": {"name": "Inpainting"}},
    "an unknown parameter": {"physics": {"name": "Inpainting", "maks": {"file": "mask.npy"}}},
    "a parameter of a wrong type": {"physics": {"name": "Inpainting", "pixelwise": "mask.npy"}},
    "an unknown parameter of a nested part": {"model": {"name": "ArtifactRemoval", "backbone_net": {"name": "UNet", "chanels": 3}}},
    "a nested part of another kind": {"physics": {"name": "Inpainting", "noise_model": {"name": "UNet"}}},
    "a required parameter that is missing": {"mask_generator": {"name": "BernoulliSplittingMaskGenerator"}},
    "a component that cannot be built": {"training": {"optimizer": {"name": "LBFGS"}}},
    "a weight that is no number": {"losses": [{"name": "MCLoss", "weight": "2"}]},
    "an empty list": {"losses": []},
    "a loss that cannot stand on a side": {"losses": [{"name": EQUIVARIANT_SPLITTING, "prediction_loss": "SupLoss"}]},
    "weights from the network": {"model": {"name": "DRUNet", "pretrained": "download"}},
    "two lengths": {"training": {"steps": 2, "epochs": 2}},
    "data without anything": {"data": {"train": {}}},
    "a file in place of data": {"data": "measurements.npy"},
    "a name for no folder": {"name": "a/b"},
}


@pytest.mark.parametrize("what", MUTANTS)
def test_a_mutated_spec_is_refused_by_the_schema_and_by_es(what: str) -> None:
    assert VALIDATOR.is_valid(spec()) and loads(spec()) == (True, True)
    mutant = spec(**MUTANTS[what])
    assert not VALIDATOR.is_valid(mutant) and loads(mutant) != (True, True)


@pytest.mark.parametrize("gone", ["physics", "data", "model"])
def test_a_spec_without_a_section_that_it_needs_is_refused(gone: str) -> None:
    document = spec()
    del document[gone]
    assert not VALIDATOR.is_valid(document) and not loads(document)[0]


def test_every_key_takes_the_same_in_the_schema_and_in_es() -> None:
    """What es accepts, the schema accepts; what es refuses in the text of a spec, the schema refuses."""
    base, short = spec(), {"data.validation", "data.test"}  # the other parts of the data are as data.train is
    paths = [key.path for key in keys_of() if not any(key.path.startswith(f"{part}.") for part in (*short, "data.train.images"))]
    accepted = 0
    for path in [*paths, "data.params", "transforms.eval"]:
        section = path.split(".")[0]
        quick = Quick({**SCHEMA["properties"][section], "$defs": SCHEMA["$defs"]})
        for value in ANYTHING:
            document = put(copy.deepcopy(base), path, value)
            text, whole = loads(document)
            accepted += whole
            valid = quick.is_valid(document[section])
            assert valid or not whole, f"es accepts {path}: {value!r}"
            # JSON Schema takes 4.0 for a whole number, as es does but for pixels
            assert text or not valid or (value == 4.0 and path.endswith(("crop", "resize"))), f"es refuses {path}: {value!r}"
    assert accepted > 2 * len(paths)


def put(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with the value at the path; on the way, a bare file or name is a mapping with it."""
    *above, last = path.split(".")
    node: Any = document
    for key in above:
        if isinstance(node, list):
            node = node[int(key)]
            continue
        inner = node.setdefault(key, {})
        node[key] = {"file": inner} if isinstance(inner, str) else inner
        node = node[key]
    node[last] = value
    return document


def parameters() -> Iterator[tuple[str, Any, str]]:
    """One of all parameters that the catalogue describes in the same words: (its id, its component, its name)."""
    seen = set()
    for entry in nameable():
        for one in givable(entry):
            special = one.name if entry.name == EQUIVARIANT_SPLITTING or one.name == "mask" else ""
            words = (entry.kind == "physics", special, one.required, repr(one.default) if one.downloads else one.default is None, one.types, one.parts, one.choices, one.downloads)
            if words not in seen:
                seen.add(words)
                yield f"{entry.name}.{one.name}", entry, one.name


@pytest.mark.parametrize(("entry", "name"), [pytest.param(entry, name, id=at) for at, entry, name in parameters()])
def test_every_parameter_takes_the_same_in_the_schema_and_in_es(entry: Any, name: str) -> None:
    form = SCHEMA["$defs"][f"{entry.kind}.{entry.name}"]["properties"][name]
    anything = not {"anyOf", "$ref", "type", "enum", "const"} & set(form)
    validator = Quick({**form, "$defs": SCHEMA["$defs"]})
    for value in VALUES:
        try:
            part = as_component({"name": entry.name, name: value})
        except GrammarError:
            fits = False
        else:
            found = _check_equivariant_splitting(part, "p") if entry.name == EQUIVARIANT_SPLITTING else checking.check(part, "p", (entry.kind,), nested=True)
            fits = not [fault for fault in found if fault[0].startswith(f"p.{name}")]
        assert validator.is_valid(value) or not fits, f"es accepts {value!r}"
        assert fits or anything or not validator.is_valid(value), f"es refuses {value!r}"


SHORT = {
    "bare names": {"physics": "Denoising", "losses": ["MCLoss", {"name": "SupLoss", "weight": 0.5}], "training": {"optimizer": "AdamW"}},
    "a mask from the data": {"physics": {"name": "Inpainting", "mask": "from-data"}},
    "a mask that is drawn": {"physics": {"name": "Inpainting", "mask": {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.5}}, "data": {"train": {"images": "x"}}},
    "a ratio": {"physics": {"name": "Inpainting", "mask": 0.4}, "data": {"train": {"images": {"sample": "photo", "crop": [16, 16]}}}},
    "a file with a key": {"data": {"train": {"measurements": {"file": "a.npz", "key": "y"}}, "validation": 0.2, "scale": "per-sample"}},
    "a mask for each sample": {"physics": "Inpainting", "data": {"train": {"measurements": "y.npy"}, "params": {"mask": "from-data"}}},
    "no transforms": {"transforms": "none"},
    "a group in one word": {"transforms": "D4"},
    "a product of transforms": {"transforms": {"train": ["Shift", {"name": "Rotate", "multiples": 90}]}},
    "one transform": {"transforms": {"train": "Shift", "eval": "Shift"}},
    "a section without anything": {"training": None, "test": None, "transforms": None, "losses": None},
    "a side that is switched off": {"losses": [{"name": EQUIVARIANT_SPLITTING, "consistency_loss": None}]},
    "sides in short": {"losses": [{"name": EQUIVARIANT_SPLITTING, "consistency_loss": "MCLoss", "prediction_loss": {"name": "MCLoss", "weight": 2}}]},
    "deepinv's word for splits at test": {"losses": [{"name": EQUIVARIANT_SPLITTING, "eval_n_samples": 4}], "test": None},
    "noise that the operator knows": {"physics": {"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}, "losses": ["SureGaussianLoss"]},
    "a generator that the operator knows": {
        "physics": {"name": "MRI", "mask": {"name": "GaussianMaskGenerator", "acceleration": 4}, "noise_model": {"name": "GaussianNoise", "sigma": 0.1}},
        "losses": [{"name": "WeightedSplittingLoss"}],
        "data": {"train": {"images": "x"}},
    },
    "weights from a file": {"model": {"name": "ArtifactRemoval", "backbone_net": {"name": "DRUNet", "pretrained": "drunet.pth"}}},
    "1e3 as a whole number": {"training": {"steps": 1e3}},
    "rules at test": {"test": {"splits": "none", "group": ["Rotate"], "samples": 3}},
    "frozen parts": {"training": {"freeze": "denoiser.*"}},
}


@pytest.mark.parametrize("what", SHORT)
def test_every_short_form_is_valid(what: str, tmp_path: Path) -> None:
    document = spec(**SHORT[what])
    (tmp_path / "spec.yaml").write_text(json.dumps(document))  # JSON is YAML
    try:
        load_spec(tmp_path / "spec.yaml")
    except SpecError as error:
        pytest.fail(f"es refuses it: {error}")
    assert not [error.message for error in VALIDATOR.iter_errors(document)]


def test_names_parameters_defaults_and_descriptions_are_there_for_completion() -> None:
    unet, mask = (SCHEMA["$defs"][name]["properties"] for name in ("model.UNet", "physics.Inpainting"))
    assert unet["batch_norm"]["default"] is True and unet["channels_per_scale"]["description"]
    assert unet["name"]["const"] == "UNet" and "https://deepinv.github.io" in unet["name"]["description"]
    assert "ratio" in mask["mask"]["description"] or "bernoulli" in mask["mask"]["description"].lower()
    training = SCHEMA["$defs"]["Training"]["properties"]
    assert training["batch_size"] == {"type": "integer", "exclusiveMinimum": 0, "default": 8, "description": "samples in one step"}
    assert "Inpainting" in json.dumps(SCHEMA["$defs"]["physics"])


def test_it_is_printed_without_torch_or_numpy(python) -> None:
    code = """
import sys
from es_cli.cli.app import main
sys.argv[:] = ["es", "schema"]
try:
    main()
finally:
    sys.stderr.write(" ".join(sorted(sys.modules)))
"""
    done = python(code)
    loaded = set(done.stderr.decode().split())
    assert "es_cli.catalog.json_schema" in loaded
    assert not {"torch", "numpy", "deepinv", "matplotlib", "scipy", "PIL"} & {name.split(".")[0] for name in loaded}
    assert json.loads(done.stdout) == json.loads(json.dumps(SCHEMA))
