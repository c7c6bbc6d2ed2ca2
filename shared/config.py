"""One YAML tells the whole pipeline. Every key is required and every value lives there: the code holds no second default.

`load_config` reads a file and dotted overrides (`match.keep_quantile=0.3`, `embedders.0.epochs=2`), refuses unknown and
missing keys by name, and gives frozen pydantic objects.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shared.config_words import in_words
from shared.errors import UserError
from shared.files import write_text
from shared.overrides import apply_override, changed
from shared.parse import parse_yaml

MOST_FRAMES = 1_000_000  # that a list of frames may have: each is a number in memory, and in every manifest

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
DescriptorWeight = Annotated[float, Field(ge=0, le=1000)]
Count = Annotated[int, Field(ge=1)]
Means = Annotated[list[NotNegative], Field(min_length=3, max_length=3)]
Spreads = Annotated[list[Positive], Field(min_length=3, max_length=3)]
Index = Annotated[int, Field(ge=0)]
SEEDS = 2**32  # numpy takes those below
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Number = Annotated[float, Field(allow_inf_nan=False)]
# Of a training; YAML's bare no is false.
Precision = Annotated[
    Literal["auto", "no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FrameList(Section):
    """Frame indices start, start + step, ... up to and including stop, counted in display order from 0: one to MOST_FRAMES of them."""

    start: Index
    stop: Index
    step: Count

    @model_validator(mode="after")
    def _some_but_not_too_many(self):
        if self.stop < self.start:
            raise ValueError(f"expected a stop of {self.start} (start) or more, found {self.stop}")
        if (count := (self.stop - self.start) // self.step + 1) > MOST_FRAMES:
            raise ValueError(f"expected {MOST_FRAMES} frames at most, found {count}; lower stop or raise step")
        return self

    @property
    def indices(self) -> list[int]:
        return list(range(self.start, self.stop + 1, self.step))


class Data(Section):
    """Which parts of a data set train and which validate, by the first letters of their folders' names."""

    validation_parts: list[str]
    holdout: Share  # of the items, kept for validation where no folder has a name from validation_parts
    label_aliases: dict[str, str]  # another name of a label -> its name
    max_pixels: Count  # a picture or frame with more is refused
    max_annotation_bytes: Count  # a file of one photo's or video's annotations, or items.json, with more is refused
    max_coco_bytes: Count
    on_error: Literal["refuse", "skip"]  # what training and evaluation do with a data set of which something does not fit
    max_frames: Count  # a video with more is refused
    seconds_per_file: Positive  # a file that is waited for longer than this while it is decoded is given up
    decoder_memory_mb: Annotated[int, Field(ge=256)]  # MiB that the process which decodes may take


class Detector(Section):
    """The network of stage 1; all that is needed to build it (it is saved in model.json)."""

    engine: Literal["torchvision", "detectron2"]  # whose heads train and infer; the weights are the same files
    backbone: str  # a timm VoVNet
    ese_in_every_block: bool  # as in the detectron2 VoVNets; timm has it in the last block of a stage
    pretrained: bool | str  # true: timm's weights by name; a path: a file; false: none
    norm: Literal["batch", "frozen", "group"]  # of the backbone; frozen: batch norms with the pretrained statistics
    categories: Annotated[list[str], Field(min_length=1)]  # one: class-agnostic
    pyramid_channels: Count
    box_head_features: Count
    anchor_sizes: Annotated[list[Positive], Field(min_length=1)]  # px, one per pyramid level, finest first
    anchor_ratios: Annotated[list[Positive], Field(min_length=1)]  # height / width
    proposals: Count  # that stay after the proposals' NMS, per picture
    detections: Count  # at most, per picture
    nms_iou: Share

    @model_validator(mode="after")
    def _sizes_fit_levels(self):
        if len(self.anchor_sizes) != 5:
            raise ValueError(
                f"anchor_sizes: expected 5 numbers (pyramid levels p2 to p6), found {len(self.anchor_sizes)}"
            )
        return self


class DetectorPhase(Section):
    iterations: Count
    short_sides: Annotated[list[Count], Field(min_length=1)]  # px, one drawn per batch
    learning_rate: Positive  # at the top of the warm-up
    batch_size: Count  # pictures of one iteration, over all processes
    start: Annotated[str, Field(min_length=1)]  # last: the present weights; best: of best mAP; a model's folder


class DetectorTrain(Section):
    parts: Annotated[list[str], Field(min_length=1)]
    phases: Annotated[list[DetectorPhase], Field(min_length=1)]  # each with warm-up, optimiser and average of its own
    max_side: Count  # px
    optimizer: Literal["sgd", "adamw"]
    momentum: Share
    weight_decay: NotNegative
    warmup_iterations: Index  # of each phase
    clip_gradient: NotNegative  # the largest norm; 0: no clipping
    zoom: Annotated[float, Field(ge=1)]  # pictures are zoomed by 1 / zoom to zoom at random, in their frame; 1: not
    flip: Share
    colour_jitter: Share
    paste: Share  # of the frames, at most: a photo's product, cut out of its white paper, is pasted over
    ema: Share  # weight of the past in the average of weights; 0: none
    proposals_sampled: Count  # per picture, for the box head's loss
    precision: Precision
    workers: Index  # that read pictures, per process
    checkpoint_every: Count  # iterations
    keep_checkpoints: Count  # the newest so many
    evaluate_every: Count  # epochs; and at the end of each phase
    evaluate_pictures: Count  # at most; spread evenly over the validation set

    @model_validator(mode="after")
    def _first_has_no_best(self):
        if self.phases[0].start == "best":
            raise ValueError("phases.0.start: 'best' has no phase before it; expected last or a model's folder")
        return self


class Detect(Section):
    photo_score: Share  # keep a photo's detections with this score or more
    video_score: Share
    photo_short_side: Count  # px
    video_short_side: Count
    max_side: Count
    keep_best_photo_box: bool  # a photo with no box over photo_score keeps its best one
    vote_iou: Share  # a detection becomes the mean of the proposals' boxes that overlap it by this IoU or more; 0: it stays
    batch_size: Count
    # grey levels: a frame that differs less from the last detected one takes its boxes; 0: every frame is detected
    reuse_below: NotNegative


class Embedder(Section):
    """One model of stage 2."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    backbone: str  # any timm backbone
    pretrained: bool | str
    # px: the side of a square crop; other aspect ratios keep its area; null: the backbone's own
    input_size: Count | None
    aspect_groups: Count  # crops are resized to one of so many heights : widths; 1: all are square
    seed: Seed
    epochs: Count
    batch_size: Count  # crops of one step, over all processes
    memory: Index  # remembered embeddings of earlier steps that the loss sees too; 0: none
    # what this model has otherwise than embed_train: keys of it, in sections of it the keys that differ
    train: dict[str, Any]


class Embed(Section):
    """What all the embedders share."""

    dimension: Count
    gem_p: Positive  # 1: the mean
    gem_learned: bool
    mean: Means | None  # of R, G, B in 0..1; null: the backbone's own
    std: Spreads | None
    interpolation: Literal["bilinear", "bicubic"] | None  # of crops that grow; null: the backbone's own
    crop_margin: NotNegative  # share of the box's sides added on each side
    aspect_limit: Annotated[float, Field(ge=1)]  # aspect groups span 1 : limit to limit : 1
    flip: bool  # at inference: also the mirrored crop, and the mean of both
    batch_size: Count


class Whitening(Section):
    """What training learns for the colour descriptors: how colours of one product differ from picture to picture."""

    shrinkage: Annotated[float, Field(gt=0, le=1000)]  # of that covariance towards equal variances; small: trust the training boxes
    values: Count  # that a whitened descriptor keeps, the most telling ones


class DescriptorSettings(Section):
    """What each descriptor counts beside an embedder, which counts as 1; 0: it is left out. They need no training but the whitening."""

    gradient_histogram: DescriptorWeight
    colour_histogram: DescriptorWeight
    fine_colour_histogram: DescriptorWeight
    whitening: Whitening | None


class Augment(Section):
    """One augmentation of training crops: probabilities, and the strengths that go with them."""

    box_jitter: Share  # largest shift of each side, in shares of the box
    backdrop: Share  # white paper up to the border gives way to a video's scene
    flip: Share
    affine: Share
    perspective: Share
    brightness_contrast: Share
    colour: Share  # saturation and hue
    channel_shift: Share  # a gain per colour channel, as another lamp or white balance
    clahe_or_sharpen: Share
    blur: Share
    noise: Share
    jpeg: Share
    grey: Share
    cutout: Share
    mixup: Share  # of a batch: two crops in one, each with its share of the loss
    cutmix: Share

    @model_validator(mode="after")
    def _one_mixture(self):
        if self.mixup + self.cutmix > 1:
            raise ValueError(f"expected mixup + cutmix of 1 or less, found {self.mixup} + {self.cutmix}")
        return self


class EmbedPhase(Section):
    share: Annotated[float, Field(gt=0, le=1)]  # of each model's epochs
    task: Literal["products", "views"]  # views: tell crops apart, any crop, by two augmented views of each
    augment: str  # a name in embed_train.augment
    learning_rate: Positive  # at the top of the warm-up
    freeze_backbone: bool
    cycles: Count  # cosines from the rate to 0, one after the other; each ends in a snapshot


class EmbedLoss(Section):
    classifier: Literal["arcface", "subcenter", "none"]
    scale: Positive
    margin: NotNegative  # radians
    margin_warmup: Share  # of a model's steps, over which the margin rises from 0
    centers: Count  # of each product, for subcenter
    label_smoothing: Share
    pair: Literal["multi_similarity", "contrastive", "circle", "none"]
    pair_weight: NotNegative
    memory_for: Literal["classifier", "pair", "both"]  # whose further samples the remembered embeddings are
    temperature: Positive  # of the loss of phases with task views

    @model_validator(mode="after")
    def _one_at_least(self):
        if self.classifier == "none" and (self.pair == "none" or not self.pair_weight):
            raise ValueError("expected a classifier, or a pair loss with a pair_weight above 0, found neither")
        return self


class EmbedTrain(Section):
    parts: Annotated[list[str], Field(min_length=1)]
    frames: FrameList  # labelled frames with other indices are left out
    per_product: Count  # crops of one product in a batch, where it has them
    distractor_tracks: bool  # a distractor that is followed through a video is a product too
    recolour: Share  # of a batch's colourful products: come with swapped colour channels, as products of their own
    scales: Annotated[list[Positive], Field(min_length=1)]  # of input_size, in turn from batch to batch
    phases: Annotated[list[EmbedPhase], Field(min_length=1)]  # each with warm-up, optimiser and average of its own
    snapshots: Literal["last", "average", "concatenate"]  # what becomes of the last phase's snapshots, one per cycle
    loss: EmbedLoss
    optimizer: Literal["adam", "adamw", "sgd"]
    weight_decay: NotNegative
    warmup: Share  # of each phase's steps
    accumulate: Count  # steps whose gradients are added up before the weights move
    replay_every: Index  # steps after which the hardest of them comes once more; 0: never
    ema: Share
    precision: Precision
    workers: Index
    checkpoint_every: Count  # steps
    keep_checkpoints: Count  # the newest so many
    augment: dict[str, Augment]  # by name

    @model_validator(mode="after")
    def _phases_fit(self):
        if abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise ValueError(
                f"phases: expected shares that add up to 1, found {[phase.share for phase in self.phases]}"
            )
        if self.snapshots != "last" and self.phases[-1].cycles < 2:
            raise ValueError(f"snapshots: {self.snapshots} wants 2 or more cycles in the last phase, found 1")
        if self.snapshots == "average" and self.phases[-1].freeze_backbone:
            raise ValueError("snapshots: average takes the statistics of all batch norms anew; expected a last phase without freeze_backbone")
        for number, phase in enumerate(self.phases):
            if phase.augment not in self.augment:
                raise ValueError(
                    f"phases.{number}.augment: expected one of {', '.join(self.augment)}, found {phase.augment!r}"
                )
            if phase.task == "views" and (self.augment[phase.augment].mixup or self.augment[phase.augment].cutmix):
                raise ValueError(
                    f"phases.{number}.augment: views of a crop cannot be mixed: expected mixup and cutmix of 0 in {phase.augment!r}"
                )
        return self

    @model_validator(mode="after")
    def _mixed_crops_have_a_loss(self):
        for phase in self.phases:
            augment = self.augment[phase.augment]
            if phase.task == "products" and self.loss.classifier == "none" and (augment.mixup or augment.cutmix):
                raise ValueError(
                    f"augment.{phase.augment}: expected mixup and cutmix 0 where loss.classifier is none (a pair loss leaves "
                    f"mixed crops out), found {augment.mixup} and {augment.cutmix}"
                )
        return self


# Keys of embed_train that all models share: the crops are cut once, and the augmentations have names.
COMMON_TO_MODELS = ("parts", "frames", "augment")


class Reciprocal(Section):
    """k-reciprocal re-ranking of the distances between boxes."""

    k1: Count  # neighbours of a box that can be reciprocal
    k2: Count  # nearest boxes whose codes are averaged
    own_share: Share  # of the new distance that the Euclidean one has
    candidates: Count  # video boxes of a photo box that are re-ranked, the nearest


class Calibration(Section):
    """log(p / (1 - p)) = intercept + slope x distance, p being the probability that a match of that distance is right."""

    intercept: Number
    slope: Number  # of distance; below 0: the nearer, the surer


class Search(Section):
    # exact, or a string of FAISS's index factory, such as IVF1024,Flat or HNSW32 or PQ64
    index: Annotated[str, Field(min_length=1)]
    parameters: dict[str, float]  # of the index when it searches, by FAISS's names: nprobe, efSearch; {}: FAISS's own
    candidates: Count  # that the index proposes for each query; the true distances decide among them
    train_rows: Count  # vectors to train the index on, at most
    recall_queries: Count  # that are searched exactly too, to tell the recall


class Match(Section):
    keep_quantile: Share  # of an item's votes, the nearest
    min_share: Share  # of the weight of the kept votes that a video must have
    max_distance: Positive  # between unit vectors: 0 to 2
    neighbours: Count  # video boxes that a photo box votes for
    vote_weight: Literal["count", "distance"]
    weight_scale: Positive  # a vote farther by this weighs 1/e, by vote_weight distance
    successive_frames: Index  # frames at most so many apart agree, and their votes count more; 0: each counts once
    assignment: Literal["nearest", "optimal"]  # of items to videos that several claim
    rerank: Literal["none", "expansion", "reciprocal"]
    expansion: Count  # nearest video boxes that a photo box is averaged with
    reciprocal: Reciprocal
    pairs: Literal["one", "products"]  # of boxes that a match lists: its own, or those of the other products of a set too
    calibration: Calibration | None  # as `calibrate` fits it; null: the matches have no probability

    @model_validator(mode="after")
    def _pairs_are_told_by_true_distances(self):
        if self.pairs == "products" and self.rerank != "none":
            raise ValueError(f"pairs: products needs rerank: none, whose max_distance is of true distances, found rerank: {self.rerank}")
        return self

    @model_validator(mode="after")
    def _candidates_are_enough(self):
        if self.rerank == "reciprocal" and self.neighbours > self.reciprocal.candidates:
            raise ValueError(
                f"reciprocal.candidates: expected {self.neighbours} (match.neighbours) or more, found {self.reciprocal.candidates}"
            )
        return self


class Score(Section):
    weights: Annotated[list[NotNegative], Field(min_length=3, max_length=3)]
    rules: Literal["product", "every-instance"]
    frame_policy: Literal["nearest", "strict"]
    min_iou: Share
    resamples: Index  # of the videos, for the intervals; 0: no intervals
    confidence: Annotated[float, Field(gt=0, lt=1)]  # the share of the resamples that an interval holds
    seed: Seed  # of the resampling


class RuntimeChoice(Section):
    """What inference runs on; `shared.runtime.choose_runtime` resolves what is auto."""

    engine: Literal["auto", "torch", "openvino"]
    precision: Literal["auto", "f32", "bf16", "int8", "f16"]
    device: Literal["auto", "cpu", "cuda"]


class Quantize(Section):
    """INT8 weights by NNCF's post-training quantization, and what they may cost."""

    calibration_pictures: Count  # that tell the ranges of the activations; of an embedder: crops
    validation_pictures: Count  # labelled ones that the cost is measured on, at most
    preset: Literal["mixed", "performance"]  # ranges of activations: as they are, or symmetric around 0
    max_map_loss: Share | None  # of the detector; null: not measured, taken as it is
    max_recall_loss: Share | None  # of recall@1, of each embedder and of all together; null: as above
    # numbers of layers that stay in float, those whose inputs suffer most, tried in turn until the loss is within its limit
    float_layers: Annotated[list[Index], Field(min_length=1)]


class Config(Section):
    seed: Seed
    threads: Index  # CPU threads; 0: as many as there are cores
    runtime: RuntimeChoice
    quantize: Quantize
    data: Data
    frames: FrameList  # of a video, at inference
    detector: Detector
    detector_train: DetectorTrain
    detect: Detect
    embedders: Annotated[list[Embedder], Field(min_length=1)]
    embed: Embed
    descriptors: DescriptorSettings
    embed_train: EmbedTrain
    search: Search
    match: Match
    score: Score

    @property
    def training_parts(self) -> list[str]:
        """All parts that either stage trains or validates on: both ask for the same labelled frames, cut out once."""
        return [*self.detector_train.parts, *self.embed_train.parts, *self.data.validation_parts]

    def train_of(self, model: Embedder) -> EmbedTrain:
        """embed_train with the model's own changes."""
        return EmbedTrain.model_validate(changed(self.embed_train.model_dump(), model.train))

    @model_validator(mode="after")
    def _rerank_has_its_search(self):
        if self.match.rerank == "reciprocal" and self.search.index != "exact":
            raise ValueError(
                f"search.index: expected exact with match.rerank: reciprocal, which searches all boxes, found {self.search.index!r}"
            )
        return self

    @model_validator(mode="after")
    def _models_train(self):
        for model in self.embedders:
            if common := [key for key in COMMON_TO_MODELS if key in model.train]:
                raise ValueError(
                    f"embedders.{model.name}.train: {common[0]} is common to all models; set embed_train.{common[0]}"
                )
            try:
                self.train_of(model)
            except ValidationError as error:
                words = "; ".join(in_words(problem, EmbedTrain) for problem in error.errors())
                raise ValueError(f"embedders.{model.name}.train: {words}") from None
        return self

    @model_validator(mode="after")
    def _names_differ(self):
        names = [embedder.name for embedder in self.embedders]
        taken = {"detector", "earlier", *DescriptorSettings.model_fields}  # folders of the weights (work.EARLIER), columns of the figures
        if len(set(names)) < len(names) or taken & set(names):
            raise ValueError(f"embedders: names must differ from each other and from {', '.join(sorted(taken))}, found {names}")
        return self

    @model_validator(mode="after")
    def _memory_has_a_loss(self):
        for model in self.embedders:
            loss = self.train_of(model).loss
            there = {"classifier": loss.classifier != "none", "pair": loss.pair != "none" and loss.pair_weight > 0}
            wanted = list(there) if loss.memory_for == "both" else [loss.memory_for]
            if model.memory and not all(there[name] for name in wanted):
                raise ValueError(
                    f"embed_train.loss.memory_for: expected {' or '.join(name for name in there if there[name])}, the loss "
                    f"that is there to see the memory of {model.name}, found {loss.memory_for!r}"
                )
        return self


def load_config(path: str | Path, overrides: list[str] = ()) -> Config:
    """The config of a YAML file with `section.key=value` overrides applied.

    Raises UserError where the file is missing or not YAML, where a key is unknown (it names the nearest one) or missing,
    and where a value does not fit.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: the config cannot be read ({error}). Give --config a YAML file, such as configs/cpu.yaml."
        ) from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(tree).__name__}. See configs/cpu.yaml.")
    tree.pop("anchors", None)  # a place for YAML anchors that sections merge
    for override in overrides:
        apply_override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {in_words(problem, Config)}" for problem in error.errors())) from None


def dump_config(config: BaseModel) -> str:
    """The config as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True, width=120)


def save_config(folder: Path, config: Config) -> None:
    """Writes the effective config beside an output, as <folder>/config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", dump_config(config))
