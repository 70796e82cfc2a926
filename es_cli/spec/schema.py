"""Spec and its sections. Every value is what the YAML says, checked; no torch, deepinv or numpy here.

A message of a validator reads "what; hint": `document.py` splits it there.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from es_cli.spec.component import ArrayFile, Component, PartField, TensorRef, Value, absolute, as_component, folder_of, shown

__all__ = ["FROM_DATA", "PRECISIONS", "ArrayFile", "Component", "Data", "LossTerm", "Pair", "Source", "Spec", "TensorRef", "Test", "Training", "Transforms", "Value"]

Precision = Literal["tf32", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
LONGEST_NAME = 200  # characters of a run's name; a file system takes 255 bytes
FROM_DATA = "from-data"  # the mask is read off the zeros of the measurements


def _whole(raw: Any) -> Any:
    """1e4 is a whole number."""
    return int(raw) if isinstance(raw, float) and math.isfinite(raw) and raw.is_integer() else raw


def _size(raw: Any) -> Any:
    if isinstance(raw, (list, tuple)) and len(raw) == 2 and all(_positive(n) for n in raw):
        return tuple(raw)
    if raw is None or _positive(raw):
        return raw
    raise ValueError(
        f"wanted a number of pixels, or [height, width], got {shown(raw) if not isinstance(raw, (list, tuple)) else list(raw)}; such as 64"
    )


def _positive(raw: Any) -> bool:
    return isinstance(raw, int) and not isinstance(raw, bool) and raw > 0


def _parts(raw: Any) -> Any:
    """One part stands for a list of one."""
    return [raw] if isinstance(raw, (str, dict, Component)) else raw


def _is_list(raw: Any) -> Any:
    if raw is not None and not isinstance(raw, (list, tuple)):
        raise ValueError(f"wanted a list, got {shown(raw)}; start each item with '- '")
    if raw is not None and not raw:
        raise ValueError("the list is empty; leave the key out, or name at least one part")
    return raw


Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Folds = Annotated[Whole, Field(ge=2)] | None
Size = Annotated[int | tuple[int, int] | None, BeforeValidator(_size)]
Patterns = Annotated[tuple[Text, ...], BeforeValidator(lambda raw: [raw] if isinstance(raw, str) else () if raw is None else raw)]
Parts = Annotated[tuple[PartField, ...], BeforeValidator(_is_list), BeforeValidator(_parts)]


class Section(BaseModel):  # frozen, and unknown keys are refused
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Source(Section):
    """Where arrays or pictures come from: a file, folder or glob, or a sample that ships with es."""

    file: Text | None = Field(default=None, description="a file, a folder or a glob such as photos/*.png")
    key: Text | None = Field(default=None, description="the array's name inside an npz or h5 file")
    sample: Literal["photo", "terrain", "brain"] | None = Field(default=None, description="pictures that ship with es")
    part: Literal["train", "test"] | None = Field(default=None, description="which part of the sample")
    crop: Size = Field(default=None, description="pixels of a crop, or [height, width]")
    crops_per_image: Annotated[Whole, Field(gt=0)] = Field(default=1, description="how many crops are drawn from each image")
    resize: Size = Field(default=None, description="pixels after resizing, or [height, width]")
    grey: Flag = Field(default=False, description="whether pictures are made grey")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, raw: Any) -> Any:
        return {"file": raw} if isinstance(raw, str) else raw

    @field_validator("file", mode="after")
    @classmethod
    def _absolute(cls, file: str | None, info: ValidationInfo) -> str | None:
        return None if file is None else absolute(file, folder_of(info))

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.file is None) == (self.sample is None):
            both = "file and sample exclude each other" if self.file else "neither a file nor a sample is named"
            raise ValueError(f"{both}; give file: PATH, or sample: photo")
        if self.part is not None and self.sample is None:
            raise ValueError("part only goes with sample; leave part out")
        if self.key is not None and self.file is None:
            raise ValueError("key only goes with file; leave key out")
        if self.crops_per_image > 1 and self.crop is None:
            raise ValueError("crops_per_image needs crop; add crop: 64")
        return self


def _parameter(raw: Any, info: ValidationInfo) -> Any:
    """FILE is {file: FILE}."""
    if raw == FROM_DATA or isinstance(raw, ArrayFile):
        return raw
    given = {"file": raw} if isinstance(raw, str) and raw else raw
    texts = isinstance(given, dict) and all(isinstance(value, str) and value for key, value in given.items() if value is not None or key == "file")
    if not texts or "file" not in given or not set(given) <= {"file", "key"}:
        raise ValueError(f"wanted a file of arrays, or {{file: FILE, key: NAME}}, got {shown(raw)}; such as masks.npy, with one array for each sample")
    return ArrayFile(file=absolute(given["file"], folder_of(info)), key=given.get("key"))


def _mapping(raw: Any) -> Any:
    if raw is not None and not isinstance(raw, dict):
        raise ValueError(f"wanted parameters by name, got {shown(raw)}; such as {{mask: masks.npy}}")
    return raw or {}


SampleParameter = Annotated[ArrayFile | Literal["from-data"], BeforeValidator(_parameter)]
SampleParameters = Annotated[dict[str, SampleParameter], BeforeValidator(_mapping)]


class Pair(Section):
    """Measurements, images, or both of the same samples; and the operator's parameters where each sample has its own."""

    measurements: Source | None = Field(default=None, description="what was measured: a file, or {file: …, key: …}")
    images: Source | None = Field(default=None, description="images: ground truth beside measurements, else what is simulated from")
    params: SampleParameters = Field(default={}, description="operator parameters of each sample, leading axis as y: {mask: FILE}")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            # pydantic reports ValueError and nothing else
            raise ValueError(  # noqa: TRY004
                f"'{raw}' could be measurements or images; write {{measurements: {raw}}} or {{images: {raw}}}"
            )
        return raw

    @model_validator(mode="after")
    def _something(self) -> Pair:
        if self.measurements is None and self.images is None:
            raise ValueError("neither measurements nor images are given; add measurements: FILE or images: FOLDER")
        return self


def _fraction(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 < raw < 1:
        raise ValueError(f"wanted a fraction between 0 and 1, or {{measurements: FILE}}, got {shown(raw)}; 0.1 holds a tenth of train out")
    return float(raw)


def _scale(raw: Any) -> str | float:
    if raw is None or raw in ("none", "per-sample"):
        return str(raw or "none")
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 < raw < math.inf:
        raise ValueError(
            f"wanted none, per-sample or a number above 0, got {shown(raw)}; per-sample is the 99th percentile of each sample's adjoint"
        )
    return float(raw)


class Data(Section):
    """What is trained on, validated on, and evaluated on by `es evaluate`."""

    train: Pair = Field(description="{measurements: FILE} or {images: FOLDER}")
    validation: float | Pair = Field(default=0.1, description="the fraction held out of train, or {measurements: FILE}")
    test: Pair | None = Field(default=None, description="{measurements: FILE, images: FILE}")
    scale: str | float = Field(default="none", description="none, per-sample, or the number that measurements are divided by")

    on_bad_sample: Literal["stop", "skip"] = Field(
        default="stop", description="what a sample that cannot be read, or is not finite, does to training: stop, or skip: another takes its place"
    )

    @field_validator("validation", mode="plain")
    @classmethod
    def _validation(cls, raw: Any, info: ValidationInfo) -> float | Pair:
        """Told apart here, so that errors speak of one of the two only."""
        return Pair.model_validate(raw, context=info.context) if isinstance(raw, (dict, Pair)) else _fraction(raw)

    @field_validator("scale", mode="plain")
    @classmethod
    def _scale(cls, raw: Any) -> str | float:
        return _scale(raw)


class Transforms(Section):
    """The group of the method: by name, or as a product of transforms. Exactly one of the two is not None."""

    group: Literal["trivial", "C4", "D4", "reflections", "shifts", "rotations"] | None = Field(
        default=None, description="D4 is all turns by 90° and reflections, rotations all angles, trivial or none is no transform"
    )
    train: Parts | None = Field(default=None, description="transforms of deepinv; a list is their product")
    per: Literal["sample", "batch"] = Field(default="sample", description="whether each sample of a step has its own element, or all share one")

    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, raw: Any) -> Any:
        """`transforms: D4` is {group: D4}, and none is the trivial group."""
        if isinstance(raw, str):
            raw = {"group": raw}
        if isinstance(raw, dict) and raw.get("group") == "none":
            raw = {**raw, "group": "trivial"}
        if isinstance(raw, dict) and raw.get("group") is not None and raw.get("train") is not None:
            raise ValueError("group and train exclude each other; leave one of them out")
        if isinstance(raw, dict) and raw.get("group") is None and raw.get("train") is None:
            return {**raw, "group": "trivial"}
        return raw


class LossTerm(Section):
    """One loss and the number that it is multiplied by."""

    loss: PartField
    weight: Number = Field(default=1.0, description="what the loss is multiplied by")
    equivariant: Flag = Field(default=False, description="whether it judges the image under a random element of transforms (Reynolds averaging)")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, raw: Any, info: ValidationInfo) -> Any:
        """YAML writes what is reserved among the loss's parameters."""
        if isinstance(raw, dict) and not isinstance(raw.get("loss"), Component):
            given = {key: raw[key] for key in ("weight", "equivariant") if key in raw}
            return {"loss": as_component({key: value for key, value in raw.items() if key not in given}, info), **given}
        return raw if isinstance(raw, dict) else {"loss": as_component(raw, info)}


class Test(Section):
    """How images are made: over how many splits, and over which elements of the group."""

    __test__ = False  # not a test class of pytest
    splits: int | Literal["complementary"] | None = Field(
        default=None, description="how many random splits are averaged, none: the whole measurement, complementary: each entry is left out of one"
    )
    folds: Folds = Field(default=None, description="how many complementary splits; left out: as the split ratio has it")
    group: Literal["full", "random", "trivial"] | tuple[Component, ...] | None = Field(
        default=None, description="full, random, trivial, or a list of transforms; left out: full where a loss trains under the group, else trivial"
    )
    samples: Annotated[Whole, Field(gt=0)] = Field(
        default=8, description="group elements, with random (new ones for each split) or an infinite group; rotations are equally spaced"
    )

    @field_validator("splits", mode="plain")
    @classmethod
    def _splits(cls, raw: Any) -> int | str | None:
        count = _whole(raw)
        if raw in (None, "none", "complementary"):
            return None if raw == "none" else raw
        if isinstance(count, bool) or not isinstance(count, int):
            raise ValueError(f"wanted none, a whole number or complementary, got {shown(raw)}; {cls.model_fields['splits'].description}")  # noqa: TRY004
        if count < 1:
            raise ValueError(f"must be more than 0, got {shown(raw)}; {cls.model_fields['splits'].description}")
        return count

    @field_validator("group", mode="plain")
    @classmethod
    def _group(cls, raw: Any, info: ValidationInfo) -> str | tuple[Component, ...] | None:
        if raw is None:
            return None
        if isinstance(raw, str) and raw in ("full", "random", "trivial"):
            return raw
        parts = raw if isinstance(raw, (list, tuple)) else [raw]
        if isinstance(raw, str) or not parts or not all(isinstance(part, (str, dict, Component)) for part in parts):
            raise ValueError(f"must be full, random, trivial or a list of transforms, got {shown(raw)}; full averages over the whole group")
        return tuple(as_component(part, info) for part in parts)

    @model_validator(mode="after")
    def _folds_of_what(self) -> Test:
        _check_folds(self)
        return self


def _check_folds(section: Test | Training) -> None:
    if section.folds is not None and section.splits != "complementary":
        raise ValueError("folds only goes with splits: complementary; leave folds out")


def _default_losses() -> tuple[LossTerm, ...]:
    return (LossTerm(loss=Component(name="EquivariantSplittingLoss")),)


def _default_optimizer() -> Component:
    return Component(name="AdamW", parameters={"lr": 5e-4, "weight_decay": 1e-8})


class Training(Section):
    """How long, how fast, and when to stop."""

    epochs: Annotated[Whole, Field(gt=0)] | None = Field(default=None, description="passes over the training data; 100 where no steps are given")
    steps: Annotated[Whole, Field(gt=0)] | None = Field(default=None, description="optimizer steps, in place of epochs")
    batch_size: Annotated[Whole, Field(gt=0)] = Field(default=8, description="samples in one step")
    optimizer: PartField = Field(default_factory=_default_optimizer, description="an optimizer of torch, such as {name: AdamW, lr: 5e-4}")
    scheduler: PartField | None = Field(default=None, description="a scheduler of torch; it steps with the optimizer")
    gradient_clip: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="the largest norm of the gradient")
    splits: Literal["random", "complementary"] = Field(
        default="random", description="complementary: as often as there are folds, a sample is seen with another fold of its measurement left out"
    )
    folds: Folds = Field(default=None, description="how many complementary splits; left out: as the split ratio has it")
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = Field(default=None, description="decay of the running mean of the weights")
    patience: Annotated[Whole, Field(gt=0)] | None = Field(
        default=None, description="validations without a better one before training stops"
    )
    validate_every: Annotated[Whole, Field(gt=0)] | None = Field(default=None, description="steps between two validations")
    backoffs: Annotated[Whole, Field(ge=0)] = Field(
        default=3, description="how often training that diverges goes back to its last validation with half the learning rate, before it gives up"
    )
    save_every: Annotated[Number, Field(gt=0)] | None = Field(
        default=600.0, description="seconds between two saves of the state, beside those at validations; null: only at validations"
    )
    freeze: Patterns = Field(default=(), description="parameters that are not trained, as patterns: [denoiser.*]")
    precision: Precision = Field(
        default="tf32",
        description="of the network alone: tf32 (float32, its products in TF32 on a GPU), float32, bfloat16 (slow on most CPUs), float16 (on a GPU)",
    )
    compile: Flag = Field(default=False, description="whether the network is compiled; where that cannot be, it runs as it is")
    deterministic: Flag = Field(
        default=False, description="whether the same run gives the same bytes on a GPU too, which is slower; on a CPU it does without"
    )
    preview: Flag = Field(default=True, description="whether preview pictures are written")

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("epochs") is None and raw.get("steps") is None:
            return {**raw, "epochs": 100}
        return raw

    @model_validator(mode="after")
    def _not_both(self) -> Training:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps exclude each other; leave one of them out")
        _check_folds(self)
        return self


class Spec(Section):
    """Everything that one training run is made from. `data` is None only inside a checkpoint."""

    name: Text = Field(default="es", description="names the run directory")
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(default=0, description="every random draw follows from it")
    physics: PartField = Field(description="the forward operator, such as {name: Inpainting, mask: {file: mask.npy}}")
    data: Data | None = Field(default=None, description="{train: {measurements: FILE}}")
    mask_generator: PartField | None = Field(default=None, description="how measurements are split; left out: Bernoulli, 0.9")
    transforms: Transforms = Field(default_factory=lambda: Transforms(group="trivial"), description="none, a group such as D4, or {train: [a transform, …]}")
    losses: Annotated[tuple[LossTerm, ...], BeforeValidator(_is_list)] = Field(
        default_factory=_default_losses, description="a list of losses"
    )
    test: Test = Field(default_factory=lambda: Test(), description="how images are made")
    model: PartField = Field(description="the network, such as {name: ArtifactRemoval, backbone_net: {name: UNet}}")
    training: Training = Field(default_factory=lambda: Training(epochs=100), description="how long, how fast, and when to stop")

    @field_validator("name", mode="after")
    @classmethod
    def _a_folder_name(cls, name: str) -> str:
        if re.search(r'[/\\:*?"<>|]', name) or not name.isprintable() or name.strip(". ") != name or name[0] == "-" or len(name) > LONGEST_NAME:
            raise ValueError(f"'{name}' cannot name a folder; use letters, digits, - and _")
        return name
