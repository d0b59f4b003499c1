"""What methods share that ask the image for concepts: their texts as queries, and questions beyond the vocabulary."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, cast, get_args

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.data.views import ViewKind, Views, read_alone_as
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.losses.prototype import ContrastScale, draw_negatives, draw_positive
from medlip.methods.base import (
    CLINICAL_BERT,
    Answers,
    AnswersAtOnce,
    EmbedsReports,
    EncoderConfig,
    HasAttention,
    HasEncoder,
    HasGraph,
    HasReleasedWeights,
    ReadsViews,
    TellsPlaces,
    WhichMaps,
    initialize,
    load_strict,
    on_one_scale,
    parse_config,
    split_prompts,
    upcast,
)
from medlip.methods.released import ReleasedNames, released_name, released_settings, rename_released
from medlip.nn.arranged import Arranged, of_kinds
from medlip.nn.device import autocast_dtype
from medlip.nn.draws import branch, image_seeds, uniform
from medlip.nn.query_decoder import Columns, LayerTrace, Opening, QueryDecoder, norm_gradient
from medlip.nn.text import LexicalEncoder, TextBank, text_encoder
from medlip.reports import extract_facts, resolve
from medlip.settings import Requirement

if TYPE_CHECKING:
    from medlip.data.batch import Batch

T = TypeVar("T")
MapRule = Literal["contribution", "attention", "gradient"]
LEAST = 1e-6
"""The probability that a fact counts with at least, so that no single one decides alone what a report is worth."""


CONTRAST = ("negatives", "contrast_normalize", "contrast_temperature", "contrast_stop_gradient")
"""Settings of the contrast of present queries."""


class QueryConfig(EncoderConfig):
    """Settings of every method that decodes queries; defaults are as published for MedKLIP and MeDSLIP, but for `map_rule`.

    Attributes:
        width: of queries and locations.
        layers: decoder layers.
        heads: attention heads.
        feedforward: hidden width of the decoder.
        dropout: everywhere in the decoder and before the heads.
        negatives: partners that a present query's own are told from.
        alpha: weight of that contrast; 0 leaves it out.
        contrast_normalize: compare by cosine; as published, states and texts are compared as long as they are.
        contrast_temperature: that similarities are divided by; 1 as published.
        contrast_stop_gradient: let the contrast train its own projection alone, and not the queries' states.
        unmentioned: weight at which an unmentioned query counts as absent in L_exist; 0 as published.
        anatomy_text: `short` as published, or `long`.
        text_encoder: "lexical", or a transformers model by name or folder.
        max_tokens: where texts are cut.
        standardize: centre and scale the text banks.
        map_rule: what a map is made of. `contribution`: what each location adds to the finding's margin, carried down in
            closed form, and to the margin told from the mean over locations where there is one; `gradient`: attention times
            its gradient (Chefer et al., arXiv 2103.15679), a backward pass a prompt; `attention`: cross-attention averaged
            over layers and heads, as published, which says where a query looks, whatever it makes of it.
        views: kinds of views of a study that are read together, each told by a learned embedding; none: every image is read
            by itself. Set by a recipe's `data.views`.
        init: of linear weights: `normal` N(0, 0.02) as published, which starts with hardly a trace of the image in the
            queries; `xavier` keeps the signal's scale and learns far sooner in a short run.
        seed: of initial weights and drawn partners.
    """

    needs: ClassVar[Mapping[str, Requirement]] = dict.fromkeys(
        CONTRAST, Requirement("alpha above 0", lambda config: config.alpha > 0)
    )

    width: int = Field(256, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)
    feedforward: int = Field(1024, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    negatives: int = Field(7, gt=0)
    alpha: float = Field(1.0, ge=0)
    contrast_normalize: bool = False
    contrast_temperature: float = Field(1.0, gt=0)
    contrast_stop_gradient: bool = False
    unmentioned: float = Field(0.0, ge=0)
    anatomy_text: Literal["short", "long"] = "short"
    text_encoder: str = "lexical"
    max_tokens: int = Field(128, gt=0)
    standardize: bool = True
    map_rule: MapRule = "contribution"
    views: tuple[ViewKind, ...] = ()
    init: Literal["normal", "xavier"] = "normal"

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is no multiple of heads={self.heads}. Change one")
        return self


EVERYTHING = cast("Sequence[int]", slice(None))
"""All queries, where a part of them could be named."""


class Contributions:
    """What each location adds to the margin (present less absent logit) of q queries.

    What was asked of all images last is kept: places that are tied to the evidence, and maps, ask for the same.

    Args:
        work_out: gives it for some images and C of the queries, (B, C, N).
        count: q.
    """

    def __init__(self, work_out: Callable[[slice, Columns], Tensor], count: int) -> None:
        self._work_out, self._count = work_out, count
        self._kept: tuple[Sequence[int], Tensor] | None = None

    def __call__(self, columns: Columns, images: slice = slice(None)) -> Tensor:
        """Return it for C queries in some of the images, (B, C, N)."""
        if isinstance(columns, Tensor):  # maybe on an accelerator, which is not to be asked: nothing is kept
            return self._work_out(images, columns)
        if columns != EVERYTHING and columns == list(range(self._count)):
            columns = EVERYTHING  # which is looked at, where parts of it are copied
        if self._kept is not None and self._kept[0] in (columns, EVERYTHING):
            known, adds = self._kept
            return adds[images] if known == columns else adds[images][:, columns]
        found = self._work_out(images, columns)
        if images == slice(None):
            self._kept = columns, found
        return found


@dataclass(frozen=True, slots=True)
class Queries:
    """What q queries read from B images at N locations; or from B studies at N locations of their M views.

    Attributes:
        logits: (B, q, 2) existence, index 1 = present.
        states: (B, q, width).
        grid: (h, w) of an image.
        traces: how each layer read the locations; none where attention was not asked for.
        contributions: of the locations, worked out when they are wanted; None where attention was not asked for.
        told: of the locations, to a margin that is told from their mean beside the queries; None where none is.
        arranged: where the images of the studies lie; None where each image was read by itself.
    """

    logits: Tensor
    states: Tensor
    grid: tuple[int, int]
    traces: tuple[LayerTrace, ...] = ()
    contributions: Contributions | None = None
    told: Contributions | None = None
    arranged: Arranged | None = None

    @classmethod
    def decode(
        cls,
        decoder: QueryDecoder,
        norm: nn.LayerNorm,
        exist: nn.Linear,
        opening: Opening,
        seen: Located,
        stream: str,
        *,
        dropout: nn.Dropout,
        need_attention: bool = False,
    ) -> Self:
        """Let queries read the locations of a stream.

        Args:
            decoder: of the queries.
            norm: of its states.
            exist: gives logits (B, q, 2) of normed states.
            opening: of the queries, as the decoder opens them.
            seen: the images.
            stream: whose locations are read.
            dropout: of the states, before `exist`.
            need_attention: also tell how they were read.
        """
        decoded, traces = decoder(opening, seen.locations[stream], need_attention=need_attention, real=seen.real())
        states = norm(decoded)
        logits = exist(dropout(states))
        if not need_attention:
            return cls(logits, states, seen.grid, arranged=seen.arranged)

        def contributions(images: slice, columns: Columns) -> Tensor:
            own, margin = decoded[images][:, columns], exist.weight[1] - exist.weight[0]
            read = [trace.of(images, columns) for trace in traces]
            return decoder.contributions(read, norm_gradient(norm, own, margin.expand_as(own)))

        adds = Contributions(contributions, decoded.shape[1])
        return cls(logits, states, seen.grid, traces, adds, arranged=seen.arranged)

    @property
    def attention(self) -> Tensor | None:
        """Cross-attention averaged over heads, (layers, B, q, N); None where it was not asked for."""
        return torch.stack([trace.attention.mean(1) for trace in self.traces]) if self.traces else None

    @property
    def present(self) -> Tensor:
        """The probability (B, q) that what is asked for is there."""
        return self.logits.softmax(-1)[..., 1]

    def frontal_contributions(self, columns: Columns) -> Tensor:
        """Return what each place in the frontal view adds to C queries' margins, (B, C, h w), of several views their sum."""
        assert self.contributions is not None, "the queries were read without attention"
        adds = self.contributions(columns)
        return adds if self.arranged is None else self.arranged.in_frontal(adds)

    def evidence(self, columns: Sequence[int], images: slice = slice(None)) -> Tensor:
        """Return what each location adds to C queries' margins and to those that are told from the mean, (B, C, N)."""
        assert self.contributions is not None, "the queries were read without attention"
        adds = self.contributions(columns, images)
        return adds if self.told is None else adds + self.told(columns, images)

    def maps(self, rule: MapRule, columns: Sequence[int], images: slice = slice(None)) -> Tensor:
        """Return where each of C queries finds what it asks for, (B, C, h, w), see `QueryConfig.map_rule`.

        `contribution` and `gradient` are `on_one_scale`. Of studies, the maps of all their V images, (V, C, h, w).
        """
        assert self.contributions is not None, "the queries were read without attention"
        columns, present = list(columns), self.present.detach()[images]
        if not columns:
            return present.new_zeros(len(present) if self.arranged is None else len(self.arranged.study), 0, *self.grid)
        if rule == "attention":
            maps = torch.stack([trace.attention[images][:, :, columns].mean(1) for trace in self.traces]).mean(0)
        else:
            adds = self.evidence(columns, images) if rule == "contribution" else self._gradients(columns)[images]
            maps = on_one_scale(adds.detach(), present[:, columns])
        maps = maps if self.arranged is None else self.arranged.apart(maps)
        return maps.view(*maps.shape[:2], *self.grid)

    def _gradients(self, columns: Sequence[int]) -> Tensor:
        """Return attention times the margin's gradient with respect to it, summed over layers and heads, (B, C, N)."""
        attention = [trace.attention for trace in self.traces]
        margins = self.logits[..., 1] - self.logits[..., 0]
        found = []
        for column in columns:
            gradients = torch.autograd.grad(margins[:, column].sum(), attention, retain_graph=True)
            pairs = zip(attention, gradients, strict=True)
            found.append(sum((weights * gradient)[:, :, column].sum(1) for weights, gradient in pairs))
        return torch.stack(cast("list[Tensor]", found), 1)


@torch.inference_mode()
def _draw(found: Queries, rule: MapRule, columns: Sequence[int], image: int, some: Sequence[int]) -> Tensor:
    return found.maps(rule, [columns[prompt] for prompt in some], slice(image, image + 1))[0]


@dataclass(frozen=True, slots=True)
class Located:
    """What a method reads of B images at N locations; or of B studies at N locations of their M views.

    Attributes:
        locations: (B, N, width), by stream.
        grid: (h, w) of an image.
        arranged: where the images of the studies lie; None where each image is read by itself.
    """

    locations: Mapping[str, Tensor]
    grid: tuple[int, int]
    arranged: Arranged | None = None

    def real(self, per_image: int = 0) -> Tensor | None:
        """Return which of so many parts of each image (0: its locations) are there, bool (B, n); None: all."""
        return None if self.arranged is None else self.arranged.mask(per_image or self.grid[0] * self.grid[1])

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean (B, d) over locations that are there, of (B, N, d)."""
        if (real := self.real()) is None:
            return values.mean(1)
        return (values * real[..., None]).sum(1) / real.sum(1, keepdim=True)


@dataclass(frozen=True, slots=True)
class PresentQueries:
    """The R queries of a stream that are present somewhere in their images.

    Attributes:
        images: (R,) index of the image.
        queries: (R,) index of the query.
        partners: bool (R, k), with which of the other stream's concepts it is present.
        seeds: int64 (R,) of what is drawn for it.
    """

    images: Tensor
    queries: Tensor
    partners: Tensor
    seeds: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Return their rows (R, ...) of (B, q, ...)."""
        return values[self.images, self.queries]

    def negatives(self, unfit: Tensor, count: int) -> Tensor:
        """Draw partners (R, count) that they are told from, see `draw_negatives`."""
        return draw_negatives(self.partners, unfit, count, uniform(branch(self.seeds, 0), self.partners.shape[1]))

    def positives(self) -> Tensor:
        """Draw one partner (R,) of each."""
        return draw_positive(self.partners, uniform(branch(self.seeds, 1), self.partners.shape[1]))


class Remembered(Generic[T]):
    """What was made of tensors, until one of them changes."""

    def __init__(self) -> None:
        self._kept: tuple[Sequence[Tensor], object, T] | None = None

    def __call__(self, tensors: Sequence[Tensor], make: Callable[[], T], other: object = None) -> T:
        """Return what `make` gave last, or gives now if the tensors, or the `other`, are not the ones of then.

        A tensor is another one when it was written to since, or moved to another device; and what was made in another
        precision is made again.
        """
        versions = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
        states = versions, autocast_dtype(tensors[0].device), other
        if self._kept is not None:
            before, known, made = self._kept
            if known == states and all(old is new for old, new in zip(before, tensors, strict=True)):
                return made
        made = make()
        self._kept = tensors, states, made
        return made


class QueryGraph(nn.Module):
    """What a query method computes in use, as a module of tensors alone; see `HasGraph`.

    Args:
        method: the model.
        rule: of its maps.
    """

    def __init__(self, method: QueryMethod, rule: MapRule) -> None:
        super().__init__()
        self.method, self.rule = method, rule

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer for the vocabulary and for embedded questions."""
        bank = cast("TextBank", self.method.banks["pathology"])
        output = self.method.read_seen(self.method.see(images), True, bank.place(texts))
        found = self.method.pathology_queries(output)
        if self.rule == "attention":
            maps = cast("Tensor", found.attention).mean(0)
        else:
            maps = on_one_scale(found.evidence(EVERYTHING), found.present)
        return found.present, maps.view(*maps.shape[:2], *found.grid), self.method.places(output, EVERYTHING)


class QueryMethod(
    ReadsViews, AnswersAtOnce, HasEncoder, HasAttention, HasGraph, HasReleasedWeights, TellsPlaces, EmbedsReports
):
    """A method whose questions are the embedded texts of P pathologies and A anatomies.

    It encodes an image once, reads it with all of the vocabulary's queries and those of the open prompts, and answers
    everything from that: a method only says how it encodes (`see_each`) and reads (`read_seen`), which of it are the
    pathologies' queries (`pathology_queries`), and how it shares a finding out over anatomies (`places`).

    Args:
        config: settings.
        vocabulary: P pathologies and A anatomies.
        preprocessing: of the images.
        pathology_embeddings: (P, text width); None: encode the vocabulary's descriptions.
        anatomy_embeddings: (A, text width); None: encode the vocabulary's texts.

    Attributes:
        released_names: how tensors of the authors' weights are called here: patterns of the beginnings of their names, with
            replacements.
    """

    learns_from = "facts"
    released_names: ClassVar[ReleasedNames] = ()
    map_rules = get_args(MapRule)

    def __init__(
        self,
        config: QueryConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        *,
        pathology_embeddings: Tensor | None = None,
        anatomy_embeddings: Tensor | None = None,
    ) -> None:
        super().__init__(config, vocabulary, preprocessing)
        self._openings: defaultdict[str, Remembered[Opening]] = defaultdict(Remembered)
        self._projected: defaultdict[str, Remembered[tuple[Tensor, Tensor]]] = defaultdict(Remembered)
        self._asked: Remembered[Tensor] = Remembered()
        self.choose_map_rule(config.map_rule)
        short = config.anatomy_text == "short"
        banks = {}
        for stream, given, texts in (
            ("pathology", pathology_embeddings, [pathology.description for pathology in vocabulary.pathologies]),
            ("anatomy", anatomy_embeddings, [place.text if short else place.long_text for place in vocabulary.anatomies]),
        ):
            if given is not None and len(given) != len(texts):
                raise MedLIPError(
                    f"{len(given)} {stream} embeddings for the {len(texts)} concepts of the vocabulary. "
                    "Give one for each, in its order."
                )
            encoded = text_encoder(config.text_encoder, config.max_tokens).encode(texts) if given is None else given
            banks[stream] = TextBank(encoded, config.standardize)
        self.banks = nn.ModuleDict(banks)
        self.text_width: int = banks["pathology"].embeddings.shape[1]
        unfit = {"pathology": vocabulary.unfit_anatomies, "anatomy": vocabulary.unfit_pathologies}
        for stream, matrix in unfit.items():  # the partners of one stream are the concepts of the other
            self.register_buffer(f"unfit_{stream}", torch.from_numpy(np.array(matrix)), persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = config.make_encoder(preprocessing.size)
            for part in self.make_parts(config, self.encoder.width):
                initialize(part, config.init)
        embedding = nn.Parameter(torch.zeros(len(config.views), config.width)) if config.views else None
        self.view_embedding: nn.Parameter | None
        self.register_parameter("view_embedding", embedding)

    @abstractmethod
    def make_parts(self, config: Any, features: int) -> tuple[nn.Module, ...]:
        """Make what stands on image features of that width; return the parts whose linear weights are drawn.

        A part that the settings leave unused is registered as None, since data parallelism waits for the gradient of every
        parameter.
        """

    @abstractmethod
    def see_each(self, images: Tensor) -> Located:
        """Encode images (B, 3, S, S), each by itself: what is to be read of them."""

    def see(self, images: Tensor, views: Views | None = None) -> Located:
        """Encode images (V, 3, S, S): those of each study for its queries to read together, told apart by their kind.

        Args:
            images: B of them; or V, of B studies.
            views: which are of one study; None: each image is one, and frontal.

        Raises:
            MedLIPError: the model was trained on no such views.
        """
        if views is not None:
            self._require_views(views)
        seen = self.see_each(images)
        if self.view_embedding is None:
            return seen
        known = self.config.views
        if views is None:
            own = self.view_embedding[known.index(read_alone_as(known))]
            return replace(seen, locations={stream: values + own for stream, values in seen.locations.items()})
        arranged = Arranged.of(views, images.device)
        own = self.view_embedding[of_kinds(views, known, images.device), None]
        together = {stream: arranged.together(values + own) for stream, values in seen.locations.items()}
        return replace(seen, locations=together, arranged=arranged)

    def _require_views(self, views: Views) -> None:
        if not self.config.views:
            raise MedLIPError(
                "this model reads image by image: it was not trained on several views of a study. Train with data.views=set."
            )
        if unknown := sorted({kind for kinds in views.studies for kind in kinds} - {*self.config.views}):
            raise MedLIPError(
                f"there is a view of the kind {unknown[0]!r}, and this model was trained on {', '.join(self.config.views)} "
                "views alone. Leave it out."
            )

    @abstractmethod
    def read_seen(self, seen: Located, need_attention: bool = True, asked: Tensor | None = None) -> Any:
        """Read images that were encoded.

        Args:
            seen: the images.
            need_attention: also give the attention maps (slower).
            asked: (n, text width) embeddings of open questions, placed in the pathology bank's space. They stand behind the
                vocabulary's pathologies; each sees those and itself, and none changes what the others get.
        """

    def forward(
        self, images: Tensor, need_attention: bool = True, asked: Tensor | None = None, views: Views | None = None
    ) -> Any:
        """Encode images (B, 3, S, S), or those of studies, and read them, as `see` and `read_seen` say."""
        return self.read_seen(self.see(images, views), need_attention, asked)

    @abstractmethod
    def pathology_queries(self, output: Any) -> Queries:
        """Return what the pathologies' queries, and the open ones behind them, read: part of what `forward` gave."""

    def streams_of(self, output: Any) -> Mapping[str, Queries]:
        """Return what the queries of every stream read: part of what `forward` gave."""
        return {"pathology": self.pathology_queries(output)}

    @torch.inference_mode()
    def attention(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return how queries attend to locations, by stream, layer and head."""
        return {
            f"{stream}, layer {layer}, head {head}": weights
            for stream, read in self.streams_of(self(images)).items()
            for layer, trace in enumerate(read.traces, 1)
            for head, weights in enumerate(trace.attention.unbind(1), 1)
        }

    @abstractmethod
    def places(self, output: Any, columns: Sequence[int]) -> Tensor:
        """Return the probability (B, C, A) that what C of the pathologies' queries ask for is in each anatomy."""

    def opening(self, stream: str, decoder: QueryDecoder, batch: int, asked: Tensor | None = None) -> Opening:
        """Return what the queries of a stream ask of images; kept from image to image while weights and questions stay.

        Args:
            stream: "pathology" or "anatomy".
            decoder: of the stream.
            batch: images, of which each gets other dropout in training.
            asked: embeddings of open questions, of the pathology stream alone.
        """

        def make() -> Opening:
            texts, mask = self.questions(asked) if stream == "pathology" else (self.texts(stream), None)
            queries = cast("nn.Linear", self.embed)(texts)
            return decoder.open(queries.expand(batch if self.training and self.config.dropout else 1, -1, -1), mask)

        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        parts = [self.texts(stream), *cast("nn.Linear", self.embed).parameters(), *decoder.layers[0].parameters()]
        return self._openings[stream]([*parts, *([] if asked is None else [asked])], make)

    def train(self, mode: bool = True) -> Self:
        """Switch between training and use; what is kept from image to image is forgotten, for weights may change."""
        self._openings.clear()
        self._projected.clear()
        return super().train(mode)

    @torch.inference_mode()
    def answer(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        maps: WhichMaps = False,
        anatomies: bool = False,
        embeddings: bool = False,
        views: Views | None = None,
    ) -> Answers:
        """Return all that is wanted of images (B, 3, S, S), or those of studies, which are encoded and read once."""
        rule: MapRule = self.map_rule  # type: ignore[assignment]  # checked when it is chosen
        backwards = maps and bool(prompts) and rule == "gradient"  # then what was read, though not seen, is taken back
        with torch.inference_mode(not backwards):
            asked, columns = self.queries_for(prompts)
            with torch.no_grad():
                seen = self.see(images.clone() if backwards else images, views)
            with torch.set_grad_enabled(backwards):
                output = self.read_seen(seen, bool(maps), asked)
                found = self.pathology_queries(output)
                later = maps == "later" and not backwards and views is None
                drawn = found.maps(rule, columns) if maps and not later else None
            with torch.no_grad():
                return Answers(
                    found.present[:, columns],
                    drawn,
                    self.places(output, columns) if anatomies else None,
                    self.image_vectors(seen, output) if embeddings else None,
                    partial(_draw, found, rule, columns) if later else None,
                )

    @property
    def absolute_maps(self) -> bool:
        """All but those of attention are."""
        return self.map_rule != "attention"

    def score_anatomies(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C, A) that each prompt is present in each anatomy."""
        return cast("Tensor", self.answer(images, prompts, anatomies=True).anatomies)

    def embed_images(self, images: Tensor) -> Tensor:
        """Return vectors (B, P A + P) of what the image says of every fact that a report may state.

        First log p(pathology in anatomy), all anatomies of a pathology in a row, then log (1 - p(pathology)); all finite.
        The product with a report of `embed_reports` is the log-probability of what the report states.
        """
        return cast("Tensor", self.answer(images, (), embeddings=True).embeddings)

    def image_vectors(self, seen: Located, output: Any) -> Tensor:
        """Return what `embed_images` does, of images that were encoded and read."""
        known = list(range(len(self.vocabulary.pathologies)))
        present, places = self.pathology_queries(output).present[:, known], self.places(output, known)
        return torch.cat([upcast(places).flatten(1), 1 - upcast(present)], 1).clamp(min=LEAST).log()

    @torch.inference_mode()
    def embed_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return vectors (R, P A + P) of the facts that are read from reports: which log-probabilities add up.

        A pathology that is present counts in its anatomies, shared among them. Any other counts as absent, whether the
        report says so or is silent: otherwise a report would fit the better, the less it states. One that is at most
        uncertain doesn't count. A report without facts is 0: every image fits it alike.
        """
        pathologies, anatomies = self.vocabulary.pathology_index, self.vocabulary.anatomy_index
        pairs = len(pathologies) * len(anatomies)
        vectors = torch.zeros(len(reports), pairs + len(pathologies))
        for row, sentences in enumerate(reports):
            # Apart from each other, so that sentences without a full stop stay as they were split.
            facts = resolve(extract_facts("\n\n".join(sentences), self.vocabulary))
            places = defaultdict(list)
            for fact in facts:
                if fact.presence == "present":
                    places[fact.pathology].append(anatomies[fact.anatomy])
            uncertain = {fact.pathology for fact in facts if fact.presence == "uncertain"}
            for name, column in pathologies.items() if facts else ():
                for place in places[name]:
                    vectors[row, column * len(anatomies) + place] = 1 / len(places[name])
                if not places[name] and name not in uncertain:
                    vectors[row, pairs + column] = 1
        return vectors.to(self.texts("pathology").device)

    @classmethod
    def blank(
        cls, config: QueryConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, state: Mapping[str, Tensor]
    ) -> Self:
        """Return a model with the shapes of `state`, to be filled."""
        return cls(
            config.model_copy(update={"weights": None}),
            vocabulary,
            preprocessing,
            pathology_embeddings=torch.zeros_like(state["banks.pathology.embeddings"]),
            anatomy_embeddings=torch.zeros_like(state["banks.anatomy.embeddings"]),
        )

    @classmethod
    def is_released(cls, names: Iterable[str]) -> bool:
        """Whether the layer that embeds the texts is among them: no two methods call it the same."""
        return "embed.weight" in (released_name(name, cls.released_names) for name in names)

    @classmethod
    def from_released(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        pathology_embeddings: Tensor,
        anatomy_embeddings: Tensor,
        vocabulary: Vocabulary | None = None,
        image_size: int = 224,
        text_encoder: str = CLINICAL_BERT,
    ) -> Self:
        """Make a model of the authors' released weights (`checkpoint["model"]`), see `HasReleasedWeights`."""
        released = {name: torch.as_tensor(value) for name, value in state_dict.items()}
        state = rename_released(released, cls.released_names, cls.name)
        settings = {**released_settings(state), "text_encoder": text_encoder, "standardize": False}
        model = cls(
            cast("QueryConfig", parse_config(cls, settings)),
            vocabulary or default_vocabulary(),
            Preprocessing(size=image_size),
            pathology_embeddings=torch.as_tensor(pathology_embeddings),
            anatomy_embeddings=torch.as_tensor(anatomy_embeddings),
        )
        state.update({f"banks.{name}": value for name, value in model.banks.state_dict().items()})
        load_strict(model, state, "released weights")
        return model.eval()

    def about_questions(self, questions: Sequence[str]) -> Sequence[str]:
        """Return which questions deny what they are answered for, and in which no word is read."""
        encoder = text_encoder(self.config.text_encoder, self.config.max_tokens)
        asked = split_prompts(questions, self.vocabulary)[0] if isinstance(encoder, LexicalEncoder) else []
        blank = [f"{text!r}" for text, read in zip(asked, encoder.encode(asked), strict=True) if not read.any()]
        told = "asked for by no word that the text encoder reads, so that the answer says nothing (ask in English)"
        return [*super().about_questions(questions), *([f"{told}: {', '.join(blank)}"] if blank else [])]

    def from_earlier(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a state dict of an earlier version as this model has it: without parts that its settings leave unused."""
        unused = {name for name, part in [*self._modules.items(), *self._parameters.items()] if part is None}
        state = self.encoder.from_earlier(state, "encoder.")
        return {name: tensor for name, tensor in state.items() if name.split(".")[0] not in unused}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of a batch; partners are drawn for each image by its seed."""
        return self.loss_terms(batch.images, batch.facts, seeds=batch.seeds, host_facts=batch.host_facts, views=batch.views)

    @abstractmethod
    def loss_terms(
        self,
        images: Tensor,
        adjacency: Tensor,
        *,
        seeds: Tensor | None = None,
        host_facts: Tensor | None = None,
        views: Views | None = None,
    ) -> dict[str, Tensor]:
        """Return the named loss terms, unweighted.

        Args:
            images: (B, 3, S, S), or those of B studies.
            adjacency: (B, A, P): 1 present, 0 absent, -1 not mentioned, -2 to be ignored; left unchanged.
            seeds: int64 (B,) of what is drawn for each image; None: those that follow from the settings' seed.
            host_facts: the adjacency on the host, where it is elsewhere and the host is not to wait for it.
            views: which images are of one study, as of `see`.
        """

    def present_queries(
        self, adjacency: Tensor, seeds: Tensor | None, host_facts: Tensor | None
    ) -> dict[str, PresentQueries]:
        """Return, by stream, what a contrast of partners compares; arguments as of `loss_terms`."""
        known = adjacency if host_facts is None else host_facts
        seeds = image_seeds(self.config.seed, len(adjacency)) if seeds is None else seeds
        found = {}
        for number, stream in enumerate(("pathology", "anatomy")):
            facts, looked_up = (matrix.transpose(1, 2) if stream == "pathology" else matrix for matrix in (adjacency, known))
            places = (looked_up == 1).any(2).nonzero()  # the host knows how many without asking an accelerator
            images, queries = places.to(adjacency.device, non_blocking=True).unbind(1)
            of_stream = branch(seeds, number).to(adjacency.device, non_blocking=True)
            own = branch(of_stream[images], queries)
            found[stream] = PresentQueries(images, queries, facts[images, queries] == 1, own)
        return found

    def contrasted(self, states: Tensor) -> Tensor:
        """Return states as the contrast of partners sees them: without their gradient where the settings say so."""
        return states.detach() if self.config.contrast_stop_gradient else states

    @property
    def contrast_scale(self) -> ContrastScale:
        """How the contrast of partners compares."""
        return ContrastScale(self.config.contrast_normalize, self.config.contrast_temperature)

    def graph(self) -> tuple[nn.Module, int]:
        """Return what this model computes in use, and the width of its texts."""
        if self.map_rule == "gradient":
            raise MedLIPError(
                "maps by the rule 'gradient' need a backward pass, which can't be exported. Use contribution or attention."
            )
        return QueryGraph(self, cast("MapRule", self.map_rule)), self.text_width

    def likeness(self, states: Tensor, projection: nn.Linear, stream: str) -> Tensor:
        """Return how states (B, C, width), once projected, compare with the texts of a stream, (B, C, q)."""
        scale, texts = self.contrast_scale, self.texts(stream)
        if scale.normalize or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return scale.similarity(projection(states), texts)
        # products with texts are linear in the states: what the projection makes of the texts is the same for all images
        weight, bias = self._projected[stream](
            [texts, projection.weight, projection.bias], lambda: (texts @ projection.weight, texts @ projection.bias)
        )
        return (states @ weight.T + bias) / scale.temperature

    def texts(self, stream: str) -> Tensor:
        """Return the embeddings (q, text width) of the concepts of a stream, "pathology" or "anatomy"."""
        return self.banks.get_buffer(f"{stream}.embeddings")

    def questions(self, asked: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the pathologies' texts with open questions behind them, and who may attend to whom.

        Args:
            asked: (n, text width) embeddings of open questions, in the pathology bank's space.

        Returns:
            (P + n, text width), and a mask for `QueryDecoder`, None where nothing more is asked: an open question sees the
            vocabulary's pathologies and itself, and changes nothing of what the others get.
        """
        texts = self.texts("pathology")
        if asked is None or asked.shape[0] == 0:
            return texts, None
        # shapes, not lengths: in an exported graph the number of questions stays free
        queries = torch.arange(texts.shape[0] + asked.shape[0], device=texts.device)
        mask = (queries[:, None] == queries) | (queries < texts.shape[0])
        return torch.cat([texts, asked.to(texts)]), mask

    def queries_for(self, prompts: Sequence[str]) -> tuple[Tensor | None, list[int]]:
        """Return embeddings of the prompts beyond the vocabulary, None without any, and which query answers each prompt.

        Raises:
            MedLIPError: the text encoder is not the one of the model's text bank.
        """
        open_texts, columns = split_prompts(prompts, self.vocabulary)
        asked = None
        if open_texts:
            bank = cast("TextBank", self.banks["pathology"])
            encoder = text_encoder(self.config.text_encoder, self.config.max_tokens)
            if encoder.width != bank.embeddings.shape[1]:
                raise MedLIPError(
                    f"{open_texts[0]!r} is not in the vocabulary, and the text encoder {self.config.text_encoder!r} "
                    f"({encoder.width} wide) is not the one of this model's text bank ({bank.embeddings.shape[1]} wide). "
                    "Ask for pathologies of the vocabulary, or name the right encoder."
                )
            asked = self._asked(
                [bank.embeddings, bank.shift, bank.scale],
                lambda: bank.place(encoder.encode(open_texts).to(bank.embeddings)),
                open_texts,
            )
        return asked, columns
