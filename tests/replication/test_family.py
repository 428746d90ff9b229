"""The family of sparse codes: every way on a case computed by hand, and in training."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from replication.family import WAYS, JumpReLU, Lifetime, TopK, between_seeds, errors_by_codes, paired

Z = torch.tensor([[3.0, -1.0, 2.0, 0.5], [0.2, 0.4, -2.0, 0.1]])
X = torch.tensor([[3.0, 0.0], [0.0, 0.3]])
ATOMS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])


def net_of(way, k=2, units=4):
    """A net of two inputs with known atoms."""
    net = WAYS[way](np.eye(2, dtype=np.float32), units, k, rate=0.01, seed=0)
    net.decoder.data = ATOMS[:units].clone()
    return net


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("TopK + AuxK", [[3, 0, 2, 0], [0.2, 0.4, 0, 0]]),
        ("Multi-TopK", [[3, 0, 2, 0], [0.2, 0.4, 0, 0]]),
        # Of both rows together the four largest.
        ("BatchTopK", [[3, 0, 2, 0.5], [0, 0.4, 0, 0]]),
        ("Matryoshka", [[3, 0, 2, 0.5], [0, 0.4, 0, 0]]),
        # ‖(3)‖ = 3 is as long as x; of the second row ‖(0.4)‖ is nearer to 0.3 than ‖(0.4, 0.2)‖ = 0.45.
        ("top-AFA", [[3, 0, 0, 0], [0, 0.4, 0, 0]]),
        ("ReLU + L1", [[3, 0, 2, 0.5], [0.2, 0.4, 0, 0.1]]),
        # Thresholds start at 0.25.
        ("JumpReLU", [[3, 0, 2, 0.5], [0, 0.4, 0, 0]]),
        # Each unit keeps 2/4 of two rows: one.
        ("lifetime", [[3, 0, 2, 0.5], [0, 0.4, 0, 0]]),
    ],
)
def test_a_way_keeps_what_its_paper_says(way, expected):
    assert torch.allclose(net_of(way).training_code(Z, X), torch.tensor(expected, dtype=torch.float32))


def test_groups_are_kept_whole_and_by_their_length():
    z = torch.tensor([[1.0, 1, 1, 1, 1, 2, 0, 0, 0, -9, 0.1, 0.2]])
    net = WAYS["groups of 5"](np.eye(2, dtype=np.float32), 12, 5, rate=0.01, seed=0)
    assert net.training_code(z, X[:1]).tolist() == [[1, 1, 1, 1, 1] + [0] * 7], "√5 is longer than 2"


def test_kl_sparse_pays_twice_the_mean_divergence_from_k_of_all_units():
    net, code = net_of("KL-sparse", k=1), torch.tensor([[0.2, 0.6, 0.25, 0.1], [0.3, 0.4, 0.25, 0.3]])
    assert torch.allclose(net.training_code(Z, X), torch.sigmoid(Z))
    rho, means = 0.25, np.array([0.25, 0.5, 0.25, 0.2])
    kl = rho * np.log(rho / means) + (1 - rho) * np.log((1 - rho) / (1 - means))
    assert float(net.penalty(X, Z, code)) == pytest.approx(2 * kl.mean(), abs=1e-6)


def test_penalties_by_hand():
    afa, l1, jump = (net_of(way) for way in ("top-AFA", "ReLU + L1", "JumpReLU"))
    code = torch.tensor([[3.0, 0, 4, 0], [0, 0.1, 0, 0]])
    assert float(afa.penalty(X, Z, code)) == pytest.approx((2**2 + 0.2**2) / 2 / 16)
    # Three units are on where four are wanted: the weight 0.001 falls by 1%.
    assert float(l1.penalty(X, Z, code)) == pytest.approx(0.001 / 1.01 * 7.1 / 2)
    assert jump.penalty(X, Z, code).item() == pytest.approx(0.001 / 1.01 * 3 / 2)


def test_errors_by_hand():
    code = torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, 0.3]])
    # x̂ = (3, 0) and (−0.3, 0); without the last two units (3, 0) and (0, 0).
    whole, half = (0.3**2 + 0.3**2) / 4, 0.3**2 / 4
    assert net_of("TopK + AuxK").error(X, Z, code).item() == pytest.approx(whole)
    # The first eighth of four units is none of them, the quarter one.
    assert net_of("Matryoshka").error(X, Z, code).item() == pytest.approx(((9 + 0.09) / 4 + 2 * half + whole) / 4)
    net = net_of("Multi-TopK", k=1)
    all_units = Z.relu() @ ATOMS
    assert net.error(X, Z, code).item() == pytest.approx(whole + float((X - all_units).square().mean()) / 8)


def test_thresholds_learn_through_the_ramp():
    net = JumpReLU(np.eye(2, dtype=np.float32), 1, 1, rate=0.01, seed=0)
    theta, width = 0.25, 0.5
    z = torch.tensor([[0.4], [5.0]])
    # Only the first lies within half a width of the threshold. d/dθ of the jump is −θ/ε there, of the count −1/ε.
    net.training_code(z, X).sum().backward()
    assert float(net.log_threshold.grad) == pytest.approx(-theta / width * theta)
    net.log_threshold.grad = None
    (net.penalty(X, z, z) / net.penalty_weight).backward()
    assert float(net.log_threshold.grad) == pytest.approx(-theta / width / 2)


def test_new_examples_are_coded_each_by_itself():
    net = net_of("BatchTopK")
    net.training_code(Z, X)
    assert net.threshold == pytest.approx(0.4)
    assert torch.equal(net.new_code(Z, X), torch.tensor([[3.0, 0, 2, 0.5], [0, 0.4, 0, 0]]))
    net.training_code(Z * 2, X)
    assert net.threshold == pytest.approx(0.99 * 0.4 + 0.01 * 0.8)
    assert torch.equal(net_of("lifetime").new_code(Z, X), Z.relu())


def test_examples_are_scaled_to_a_mean_square_of_one():
    x = np.random.default_rng(0).normal(size=(500, 3)) * [1, 2, 3] + [0, 10, 100]
    assert TopK(x, 4, 2, rate=0.01, seed=0).x.square().mean().item() == pytest.approx(1, abs=1e-5)


def test_the_second_loss_by_hand():
    net, rest = net_of("TopK + AuxK", k=1), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    dead = torch.tensor([False, True, True, False])
    # One unit at most, half of two inputs: of the first row the third with 2, of the second the second with 0.4.
    wrong = (2 * 0.6) ** 2 + (2 * 0.8 - 1) ** 2 + 1**2 + 0.4**2
    assert net.second_loss(Z, rest, dead).item() == pytest.approx(wrong / 2)


def test_dead_units_reconstruct_what_the_others_leave():
    class Plain(TopK):
        revives = False

    x = torch.tensor([[2.0, 0.5], [1.5, 0.2]])
    moved = {}
    for way in (TopK, Plain):
        net = way(np.eye(2, dtype=np.float32), 4, 1, rate=0.01, seed=0)
        net.decoder.data, net.encoder.data = ATOMS.clone(), ATOMS.clone()
        net.bias.data[:] = 0.1
        net.idle[:] = torch.tensor([0, 101, 99, 99])
        net.step(x)
        moved[way] = (net.encoder.detach() != ATOMS).any(dim=1).tolist()
    # Only the first unit is kept, and only the second has been idle for more than 100 steps.
    assert moved == {TopK: [True, True, False, False], Plain: [True, False, False, False]}
    assert net.idle.tolist() == [0, 102, 100, 100]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_to_describe_its_examples(way):
    rng = np.random.default_rng(0)
    x = (rng.random((600, 12)) * (rng.random((600, 12)) < 0.2) @ rng.normal(size=(12, 8)) + 3).astype(np.float32)
    net = WAYS[way](x, 20, 5, rate=0.01, seed=0).fit(15)
    code = net.new_code(*net.pre_activation(x)) if way != "lifetime" else net.training_code(*net.pre_activation(x))
    unexplained = ((x - net.decode(code.detach().numpy())) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert unexplained < {"groups of 5": 0.6, "KL-sparse": 0.4}.get(way, 0.2)
    lengths = np.linalg.norm(net.atoms, axis=1)
    assert (lengths == pytest.approx(1, abs=1e-5)) is (way != "KL-sparse")
    again = WAYS[way](x, 20, 5, rate=0.01, seed=0).fit(15)
    assert np.array_equal(net.encode(x), again.encode(x)), "the same seed gives the same net"


def test_penalties_settle_where_k_units_are_on():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 16)).astype(np.float32)
    for way in ("ReLU + L1", "JumpReLU"):
        on = (WAYS[way](x, 32, 4, rate=0.01, seed=0).fit(60).encode(x) != 0).sum(axis=1).mean()
        assert on == pytest.approx(4, rel=0.25), way


def test_every_unit_learns_from_every_batch_with_lifetime_sparsity():
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    net = Lifetime(x, 40, 2, rate=0.003, seed=0).fit(5)
    z, inputs = net.pre_activation(x[:100])
    # 2/40 of 100 examples.
    assert (net.training_code(z, inputs) > 0).sum(dim=0).tolist() == [5] * 40


def test_atoms_are_paired_one_to_one():
    one = np.array([[1.0, 0], [0.8, 0.6]])
    place, cosine = paired(one, np.array([[2.0, 0], [0, -1]]))
    # Both are nearest to the first; the sum is larger with 1 + 0.6 than with 0 + 0.8.
    assert place.tolist() == [0, 1] and cosine == pytest.approx([1, 0.6])
    place, cosine = paired(one, np.array([[-2.0, 0]]))
    assert place.tolist() == [0, -1] and cosine == pytest.approx([1, 0])


def test_what_seeds_share_has_the_values_of_the_jackknife():
    rng = np.random.default_rng(0)
    trained = [[rng.normal(size=(7, 5)) for _ in range(4)] for _ in range(2)]

    def whole(kept, least):
        pairs = [paired(of[i], of[j])[1] for of in trained for i, j in combinations(kept, 2)]
        return 100 * np.mean([cosines >= least if least else cosines for cosines in pairs])

    for least in (0, 0.7):
        without = [whole([i for i in range(4) if i != left_out], least) for left_out in range(4)]
        wanted = 4 * whole(range(4), least) - 3 * np.array(without)
        assert between_seeds(trained, least) == pytest.approx(wanted)
        assert between_seeds([of[:2] for of in trained], least) == pytest.approx([whole((0, 1), least)])


def test_the_second_set_chooses_the_penalty_and_the_third_is_judged_by_it():
    rng = np.random.default_rng(0)
    codes = [rng.normal(size=(n, 30)) * (rng.random((n, 30)) < 0.3) for n in (120, 400, 500)]
    classes = [(code[:, :3] + 0.3 * rng.normal(size=(len(code), 3))).argmax(axis=1) for code in codes]
    wrong = []
    for l2 in (0.01, 0.001, 0.0001):
        other = LogisticRegression(C=1 / (l2 * len(codes[0])), tol=1e-8, max_iter=10_000).fit(codes[0], classes[0])
        wrong.append([100 * np.mean(other.predict(x) != y) for x, y in zip(codes[1:], classes[1:], strict=True)])
    assert len({second for second, _ in wrong}) == 3, "the penalties differ"
    best = wrong[np.argmin([second for second, _ in wrong])]
    assert best[1] != min(third for _, third in wrong), "the third set would choose another"
    assert errors_by_codes(codes, classes, 3) == pytest.approx(best, abs=0.3)
