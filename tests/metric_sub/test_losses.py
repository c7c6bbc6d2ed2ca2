"""Each loss against its written formula; the memory; and that a loss comes back from its state as it was."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import CrossBatchMemory
from torch.nn import functional as F

from metric_sub.losses import EmbeddingMemory, build_loss, views_loss
from shared.config import EmbedLoss

DIMENSION = 16
CLASSIFIERS = ["arcface", "subcenter"]
PAIRS = ["multi_similarity", "contrastive", "circle"]
SETTINGS = {
    "classifier": "arcface",
    "scale": 30.0,
    "margin": 0.3,
    "margin_warmup": 0.0,
    "centers": 3,
    "label_smoothing": 0.0,
    "pair": "none",
    "pair_weight": 1.0,
    "memory_for": "classifier",
    "temperature": 0.1,
}


def make(n_classes=7, dimension=DIMENSION, memory=0, seed=0, **settings):
    torch.manual_seed(seed)
    return build_loss(EmbedLoss.model_validate({**SETTINGS, **settings}), n_classes, dimension, memory)


def draw(seed, classes, dimension=DIMENSION):
    """Unit vectors that need a gradient, so near to each other that every loss has something to say, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(classes), dimension, generator=generator) + 0.7
    return F.normalize(vectors, dim=1).requires_grad_(), torch.tensor(classes)


def apply(loss, embeddings, classes):
    return loss(embeddings, classes, classes, 1.0)


def assert_equal(found, expected, *leaves):
    """The same value and the same gradients."""
    assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    for leaf in leaves:
        mine, theirs = (torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (found, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def arcface(cosine, classes, scale=30.0, margin=0.3, smoothing=0.0):
    """Deng et al. 2019, equation 3, of cosines (B, C): the true class's angle grows by the margin.

    Where the angle would pass half a turn, the authors' code goes on by a line that keeps falling: cos(angle) - m sin(m).
    """
    angle = torch.arccos(cosine.clamp(-1, 1))
    moved = torch.where(angle + margin <= math.pi, torch.cos(angle + margin), cosine - margin * math.sin(margin))
    target = F.one_hot(classes, cosine.shape[1])
    logits = scale * torch.where(target.bool(), moved, cosine)
    wanted = (1 - smoothing) * target + smoothing / cosine.shape[1]
    return -(wanted * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()


def cosines(embeddings, class_matrix, centers=1):
    """(B, C): of each class's columns, which stand side by side, the nearest (Deng et al. 2020)."""
    columns = F.normalize(class_matrix.double(), dim=0).unflatten(1, (-1, centers))  # (D, C, K)
    return torch.einsum("bd,dck->bck", F.normalize(embeddings.double(), dim=1), columns).amax(dim=2)


def similarities(embeddings, classes, partners, partner_classes):
    """Per embedding, the similarities of its positives and of its negatives; it is the partner of the same number itself."""
    for i, row in enumerate(F.normalize(embeddings.double(), dim=1) @ F.normalize(partners.double(), dim=1).T):
        same = partner_classes == classes[i]
        itself = torch.arange(len(partners)) == i
        yield row[same & ~itself], row[~same]


def multi_similarity(embeddings, classes, partners, partner_classes):
    """Wang et al. 2019, equations 11, 12 (mining) and 15."""
    losses = []
    for positives, negatives in similarities(embeddings, classes, partners, partner_classes):
        hardest = negatives.max() if len(negatives) else -math.inf
        farthest = positives.min() if len(positives) else math.inf
        kept, pushed = positives[positives < hardest + 0.1], negatives[negatives > farthest - 0.1]
        losses.append(
            torch.log(1 + torch.exp(-2 * (kept - 0.5)).sum()) / 2
            + torch.log(1 + torch.exp(50 * (pushed - 0.5)).sum()) / 50
        )
    return torch.stack(losses).mean()


def contrastive(embeddings, classes, partners, partner_classes):
    """1 - s of positives, s - 0.5 of negatives, each where it is above 0, and the mean of each."""
    both = list(similarities(embeddings, classes, partners, partner_classes))
    costs = [1 - torch.cat([pos for pos, _ in both]), torch.cat([neg for _, neg in both]) - 0.5]
    return sum(cost[cost > 0].mean() if (cost > 0).any() else 0 * embeddings.sum().double() for cost in costs)


def circle(embeddings, classes, partners, partner_classes):
    """Sun et al. 2020, equation 6 with 5 and 8: the weights are no part of the gradient; mean over those that have both."""
    m, gamma, losses = 0.4, 80.0, []
    for pos, neg in similarities(embeddings, classes, partners, partner_classes):
        if len(pos) and len(neg):
            near = torch.exp(gamma * (neg.detach() + m).clamp(min=0) * (neg - m)).sum()
            far = torch.exp(-gamma * (1 + m - pos.detach()).clamp(min=0) * (pos - (1 - m))).sum()
            losses.append(torch.log(1 + near * far))
    return torch.stack([loss for loss in losses if loss > 0]).mean()


FORMULAS = {"multi_similarity": multi_similarity, "contrastive": contrastive, "circle": circle}


def nt_xent(embeddings, classes, temperature):
    """Chen et al. 2020, equation 1, and its mean over all ordered pairs of views."""
    unit, losses = F.normalize(embeddings.double(), dim=1), []
    similarity = unit @ unit.T / temperature
    for i in range(len(classes)):
        (j,) = [j for j in range(len(classes)) if j != i and classes[j] == classes[i]]
        rest = [k for k in range(len(classes)) if k != i]
        losses.append(-torch.log(torch.exp(similarity[i, j]) / torch.exp(similarity[i, rest]).sum()))
    return torch.stack(losses).mean()


# ---- classifiers ----


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("scale", "margin"), [(30.0, 0.3), (64.0, 0.5), (10.0, 0.0)])
def test_arcface_by_its_formula(scale, margin, smoothing):
    loss = make(scale=scale, margin=margin, label_smoothing=smoothing)
    embeddings, classes = draw(1, [*range(7), *range(5)])
    class_matrix = loss.classifier.W
    assert class_matrix.shape == (DIMENSION, 7)
    expected = arcface(cosines(embeddings, class_matrix), classes, scale, margin, smoothing)
    assert_equal(apply(loss, embeddings, classes), expected, embeddings, loss.classifier.W)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("centers", [1, 2, 4])
def test_subcenter_arcface_takes_the_nearest_of_each_class(centers, smoothing):
    loss = make(classifier="subcenter", centers=centers, label_smoothing=smoothing)
    embeddings, classes = draw(1, [*range(7), *range(5)])
    assert loss.classifier.W.shape == (DIMENSION, 7 * centers)
    expected = arcface(cosines(embeddings, loss.classifier.W, centers), classes, smoothing=smoothing)
    assert_equal(apply(loss, embeddings, classes), expected, embeddings, loss.classifier.W)


def test_angles_over_half_a_turn():
    loss = make(2, 2, margin=0.5)
    with torch.no_grad():
        loss.classifier.W.copy_(torch.eye(2))
    embeddings = F.normalize(torch.tensor([[-1.0, 0.05], [-1.0, -0.6]]), dim=1).requires_grad_()
    classes = torch.tensor([0, 0])
    expected = arcface(cosines(embeddings, loss.classifier.W), classes, margin=0.5)
    assert_equal(apply(loss, embeddings, classes), expected, embeddings, loss.classifier.W)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_an_embedding_on_a_class_vector_has_a_gradient(margin):
    loss = make(3, 3, margin=margin)
    with torch.no_grad():
        loss.classifier.W.copy_(torch.eye(3))
    embeddings = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], requires_grad=True)
    apply(loss, embeddings, torch.tensor([0, 0])).backward()
    assert embeddings.grad.isfinite().all() and loss.classifier.W.grad.isfinite().all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize(
    ("warmup", "done", "margin"),
    [
        (0.25, 0.0, 0.0),
        (0.25, 0.125, 0.2),
        (0.25, 0.2, 0.32),
        (0.25, 0.25, 0.4),
        (0.25, 1.0, 0.4),
        (1.0, 0.5, 0.2),
        (0.0, 0.0, 0.4),
        (0.0, 0.7, 0.4),
    ],
)
def test_the_margin_rises_over_its_warmup(classifier, warmup, done, margin):
    loss = make(classifier=classifier, margin=0.4, margin_warmup=warmup)
    loss.set_margin(done)
    embeddings, classes = draw(2, [0, 1, 2, 3])
    centers = SETTINGS["centers"] if classifier == "subcenter" else 1
    expected = arcface(cosines(embeddings, loss.classifier.W, centers), classes, margin=margin)
    assert apply(loss, embeddings, classes).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_new_loss_has_the_margin_of_the_first_step():
    embeddings, classes = draw(2, [0, 1, 2, 3])
    fresh, begun = make(margin_warmup=0.5), make(margin_warmup=0.5)
    begun.set_margin(0.0)
    assert apply(fresh, embeddings, classes) == apply(begun, embeddings, classes)
    make(classifier="none", pair="circle").set_margin(0.3)  # nothing to move, and no error


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
def test_mixed_crops_count_for_both_classes_by_their_shares(classifier, share):
    loss = make(classifier=classifier, pair="contrastive", memory=8, memory_for="both")
    old, old_classes = draw(1, [5, 6, 5, 6])
    apply(loss, old, old_classes)
    kept = loss.state_dict()["memory.embeddings"].clone()
    embeddings, classes = draw(2, [0, 1, 2, 3])
    others = torch.tensor([3, 1, 0, 2])
    centers = SETTINGS["centers"] if classifier == "subcenter" else 1
    cosine = cosines(torch.cat([embeddings, old.detach()]), loss.classifier.W, centers)
    first, second = (arcface(cosine, torch.cat([labels, old_classes])) for labels in (classes, others))
    for _ in range(2):  # the second time shows that the first was not remembered
        found = loss(embeddings, classes, others, share)
        assert_equal(found, share * first + (1 - share) * second, embeddings)  # and no pair loss in it
    assert torch.equal(loss.state_dict()["memory.embeddings"], kept)


# ---- pair losses ----


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("classes", [[0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 0, 1, 3], [4, 4, 4, 1]], ids=str)
def test_pair_losses_by_their_formulas(pair, classes):
    loss = make(classifier="none", pair=pair)
    embeddings, classes = draw(3, classes)
    expected = FORMULAS[pair](embeddings, classes, embeddings, classes)
    assert expected > 0
    assert_equal(apply(loss, embeddings, classes), expected, embeddings)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_loss_is_added_by_its_weight(pair):
    embeddings, classes = draw(3, [0, 0, 1, 1, 2, 2])
    classifier = apply(make(), embeddings, classes).item()
    alone = apply(make(classifier="none", pair=pair), embeddings, classes).item()
    for weight in (0.0, 0.5, 2.0):
        both = apply(make(pair=pair, pair_weight=weight), embeddings, classes).item()
        assert both == pytest.approx(classifier + weight * alone, rel=1e-5)
    half = apply(make(classifier="none", pair=pair, pair_weight=0.5), embeddings, classes).item()
    assert half == pytest.approx(0.5 * alone)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [2]], ids=str)
def test_without_positives_there_is_nothing_to_pull(pair, memory, classes):
    loss = make(classifier="none", pair=pair, memory=memory, memory_for="pair")
    for seed in range(2):
        embeddings, labels = draw(seed, classes)
        value = apply(loss, embeddings, labels + 4 * seed)
        value.backward()
        assert value.isfinite() and embeddings.grad.isfinite().all()
        if pair != "contrastive" or len(classes) == 1 and not seed:  # contrastive pushes negatives all the same
            assert value == 0 and not embeddings.grad.any()


@pytest.mark.parametrize("pair", PAIRS)
def test_without_negatives_there_is_nothing_to_push(pair):
    embeddings, classes = draw(0, [1, 1, 1])
    value = apply(make(classifier="none", pair=pair), embeddings, classes)
    value.backward()
    assert value.isfinite() and embeddings.grad.isfinite().all()
    assert (value > 0) == (pair == "contrastive")


def test_an_embedding_without_a_positive_pushes_no_remembered_negative_either():
    loss = make(classifier="none", pair="multi_similarity", memory=4, memory_for="pair")
    old, old_classes = draw(1, [0, 0, 1, 1])
    apply(loss, old, old_classes)
    embeddings, classes = old.detach().clone().requires_grad_(), torch.tensor([2, 3, 4, 5])  # each on a negative
    assert apply(loss, embeddings, classes) == 0


# ---- views ----


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("classes", [[0, 1, 2, 0, 1, 2], [9, 9, 4, 4], [5, 3, 3, 5, 8, 0, 0, 8]], ids=str)
def test_views_loss_is_nt_xent(classes, temperature):
    embeddings, classes = draw(4, classes)
    expected = nt_xent(embeddings, classes, temperature)
    assert_equal(views_loss(embeddings, classes, temperature), expected, embeddings)


def test_a_lone_pair_of_views_has_nothing_to_be_told_from():
    embeddings, classes = draw(4, [0, 0])
    value = views_loss(embeddings, classes, 0.1)
    value.backward()
    assert value == 0 and not embeddings.grad.any()


# ---- properties ----

LOSSES = [
    *({"classifier": name} for name in CLASSIFIERS),
    *({"classifier": "none", "pair": name} for name in PAIRS),
    {"classifier": "subcenter", "pair": "multi_similarity"},
]


@pytest.mark.parametrize("settings", LOSSES, ids=str)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(8)))
def test_the_order_in_the_batch_does_not_count(settings, seed, order):
    embeddings, classes = draw(seed, [0, 0, 1, 1, 2, 2, 3, 4])
    first = apply(make(**settings), embeddings, classes)
    assert apply(make(**settings), embeddings[order], classes[order]).item() == pytest.approx(first.item(), rel=1e-3)


@pytest.mark.parametrize("pair", PAIRS)
@given(seed=st.integers(0, 10**6))
def test_pair_losses_depend_on_angles_alone(pair, seed):
    embeddings, classes = draw(seed, [0, 0, 1, 1, 2, 2, 3, 4])
    rotation = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(seed))).Q
    first = apply(make(classifier="none", pair=pair), embeddings, classes)
    turned = apply(make(classifier="none", pair=pair), embeddings @ rotation, classes)
    assert turned.item() == pytest.approx(first.item(), rel=1e-3)


@given(seed=st.integers(0, 10**6), order=st.permutations(range(8)))
def test_views_loss_depends_on_angles_alone_in_any_order(seed, order):
    embeddings, classes = draw(seed, [0, 0, 1, 1, 2, 2, 3, 3])
    rotation = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(seed))).Q
    turned = views_loss((embeddings @ rotation)[order], classes[order], 0.2)
    assert turned.item() == pytest.approx(views_loss(embeddings, classes, 0.2).item(), rel=1e-3)


@given(seed=st.integers(0, 10**6))
def test_the_margin_makes_it_harder(seed):
    embeddings, classes = draw(seed, [0, 1, 2, 3, 4, 5, 6, 0])
    values = [apply(make(margin=margin), embeddings, classes).item() for margin in (0.0, 0.2, 0.4)]
    assert values[0] < values[1] < values[2]


# ---- memory ----


def numbered(first, last):
    """Samples that carry their number, so that they can be told apart."""
    numbers = torch.arange(first, last)
    return numbers[:, None].float().repeat(1, 3), numbers


@pytest.mark.parametrize(
    ("size", "after"),
    [
        (0, [[], [], []]),
        (1, [[1], [3], [6]]),
        (3, [[0, 1], [1, 2, 3], [4, 5, 6]]),
        (4, [[0, 1], [0, 1, 2, 3], [3, 4, 5, 6]]),
        (6, [[0, 1], [0, 1, 2, 3], [1, 2, 3, 4, 5, 6]]),
        (100, [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_memory_is_first_in_first_out(size, after):
    memory = EmbeddingMemory(size, 3)
    for (first, last), expected in zip([(0, 2), (2, 4), (4, 7)], after, strict=True):
        memory.remember(*numbered(first, last))
        embeddings, classes = memory.join(*numbered(50, 52))
        assert classes.tolist() == [50, 51, *expected]
        assert torch.equal(embeddings[:, 0], classes.float())  # each embedding has kept its class


def steps(loss, n, classes=(0, 0, 1, 1, 2, 2, 3, 3)):
    """n steps; gives embeddings, classes and value of each."""
    done = []
    for step in range(n):
        embeddings, labels = draw(100 + step, list(classes))
        labels = (labels + step) % 7
        done.append((embeddings, labels, apply(loss, embeddings, labels)))
    return done


def joined_steps(loss, memory):
    """Four steps; of each the embeddings, the batch with the last `memory` samples before it, and the value."""
    past, past_classes = torch.zeros(0, DIMENSION), torch.zeros(0, dtype=torch.long)
    for embeddings, classes, value in steps(loss, 4):
        yield embeddings, classes, torch.cat([embeddings, past]), torch.cat([classes, past_classes]), value
        past = torch.cat([past, embeddings.detach()])[-memory:]
        past_classes = torch.cat([past_classes, classes])[-memory:]


@pytest.mark.parametrize("memory_for", ["classifier", "both"])
@pytest.mark.parametrize("memory", [5, 16])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_remembered_embeddings_are_further_samples_of_the_classifier(classifier, memory, memory_for):
    loss = make(classifier=classifier, memory=memory, memory_for=memory_for)
    centers = SETTINGS["centers"] if classifier == "subcenter" else 1
    for embeddings, _, samples, sample_classes, value in joined_steps(loss, memory):
        expected = arcface(cosines(samples, loss.classifier.W, centers), sample_classes)
        assert_equal(value, expected, embeddings, loss.classifier.W)


@pytest.mark.parametrize("memory_for", ["pair", "both"])
@pytest.mark.parametrize("memory", [5, 16])
@pytest.mark.parametrize("pair", PAIRS)
def test_remembered_embeddings_are_further_partners_of_the_pair_loss(pair, memory, memory_for):
    loss = make(classifier="none", pair=pair, memory=memory, memory_for=memory_for)
    for embeddings, classes, partners, partner_classes, value in joined_steps(loss, memory):
        assert_equal(value, FORMULAS[pair](embeddings, classes, partners, partner_classes), embeddings)


@pytest.mark.parametrize("memory", [3, 8, 20])
@pytest.mark.parametrize("pair", PAIRS)
def test_pair_memory_has_the_values_of_the_library_s(pair, memory):
    """The library's memory holds the batch too."""
    loss = make(classifier="none", pair=pair, memory=memory, memory_for="pair")
    library = CrossBatchMemory(loss.pair_loss, DIMENSION, memory_size=8 + memory, miner=loss.miner)
    for embeddings, classes, value in steps(loss, 6):
        assert value.item() == pytest.approx(library(embeddings, classes).item(), rel=1e-5)


@pytest.mark.parametrize("memory_for", ["classifier", "pair", "both"])
def test_one_memory_serves_those_that_it_is_for(memory_for):
    keys = {"pair": "contrastive", "pair_weight": 0.5}
    loss = make(memory=16, memory_for=memory_for, **keys)
    classifier = make(memory=16 if memory_for != "pair" else 0)
    pair = make(**{**keys, "classifier": "none"}, memory=16 if memory_for != "classifier" else 0, memory_for="pair")
    for together, one, other in zip(steps(loss, 3), steps(classifier, 3), steps(pair, 3), strict=True):
        assert together[2].item() == pytest.approx((one[2] + other[2]).item(), rel=1e-5)


@pytest.mark.parametrize("pair", ["none", *PAIRS])
def test_gradients_reach_the_batch_and_the_classes_but_not_the_past(pair):
    loss = make(pair=pair, memory=8, memory_for="both")
    old, old_classes = draw(0, [0, 0, 1, 1])
    new, classes = draw(1, [1, 1, 2, 2])
    apply(loss, old, old_classes)
    apply(loss, new, classes).backward()
    assert old.grad is None and new.grad.any() and loss.classifier.W.grad.any()
    assert not loss.memory.embeddings.requires_grad


# ---- state and precision ----


@pytest.mark.parametrize("settings", LOSSES, ids=str)
@pytest.mark.parametrize("n_steps", [0, 1, 5])
def test_a_loss_comes_back_from_its_state(settings, n_steps):
    keys = {**settings, "memory": 20, "memory_for": "both"}
    loss, other = make(**keys), make(**keys, seed=1)
    steps(loss, n_steps)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for mine, theirs in zip(steps(loss, 4), steps(other, 4), strict=True):
        assert torch.equal(mine[2], theirs[2])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_autocast_changes_nothing(classifier, pair):
    keys = {"classifier": classifier, "pair": pair, "memory": 8, "memory_for": "both"}
    exact, cast = make(**keys), make(**keys)
    for step in range(2):
        embeddings, classes = draw(step, [0, 0, 1, 1, 2, 2])
        rounded = embeddings.detach().bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            values = apply(cast, rounded, classes), views_loss(rounded, classes, 0.1)
        assert values[0].dtype == values[1].dtype == cast.memory.embeddings.dtype == torch.float32
        assert torch.equal(values[0], apply(exact, rounded.float(), classes))
        assert torch.equal(values[1], views_loss(rounded.float(), classes, 0.1))
