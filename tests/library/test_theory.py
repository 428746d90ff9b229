"""Section 3: the theorem, its condition loosened, and each step against a computation by hand or another package."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ksae_lib import load_pretrained, supp_k
from ksae_lib.metrics import mutual_coherence
from ksae_lib.selection import by_sorting
from ksae_lib.theory import babel, first_step, iterative_thresholding, least_squares, meets_condition, planted_codes

_CASES = 10_000


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def with_products(products: Tensor) -> Tensor:
    """Atoms with these inner products (shapes: [..., units, units] → [..., units, units])."""
    return torch.linalg.cholesky(products)


def recovered(atoms: Tensor, z: Tensor) -> Tensor:
    """Whether the first step finds the support of each code, each in a dictionary of its own."""
    y = torch.einsum("nui,nvi,nv->nu", atoms, atoms, z)
    return (by_sorting(y, (z > 0).sum(dim=1, keepdim=True)) == (z > 0)).all(dim=1)


def random_cases(generator: torch.Generator, count: int, loosened: float) -> tuple[Tensor, Tensor, Tensor]:
    """Dictionaries, codes whose values differ as much as the loosened condition lets them, and the coherences.

    Of every second dictionary inner products are any; of the others the atoms of a support point away from one another
    and towards all others, nearly as far as the coherence allows.
    """
    units = 8
    k = torch.randint(2, 6, (count, 1), generator=generator)
    # Behind the others: of equal values the first would be kept.
    inside = (torch.arange(units) >= units - k).double()
    anyhow, nearly = torch.rand(2, count, units, units, generator=generator, dtype=torch.float64)
    worst = (1 - 2 * inside[:, :, None] * inside[:, None]) * (0.9 + nearly / 10)
    signs = torch.where(torch.arange(count)[:, None, None] % 2 == 0, 2 * anyhow - 1, worst).tril(-1)
    # So small that there are such atoms.
    size = torch.rand(count, 1, generator=generator, dtype=torch.float64) * (0.5 / k).clamp(max=1 / units)
    products = size[:, :, None] * (signs + signs.mT)
    coherence = products.abs().amax(dim=(1, 2))
    smallest = 2 * loosened * k * coherence[:, None]
    z = inside * (smallest + (1 - smallest) * torch.rand(count, units, generator=generator, dtype=torch.float64) ** 0.1)
    z[:, -1:] = 1
    z.scatter_(1, units - k, smallest)
    return with_products(products + torch.eye(units, dtype=torch.float64)), z, coherence


def test_the_theorem_has_no_counterexample_and_its_condition_loosened_has() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms, z, coherence = random_cases(generator, _CASES, 1 + 1e-9)
    assert meets_condition(z, coherence).all()
    assert recovered(atoms, z).all()
    atoms, z, coherence = random_cases(generator, _CASES, 0.8)
    assert not meets_condition(z, coherence).any()
    assert not recovered(atoms, z).all()


def test_the_theorem_holds_too_with_the_babel_function_strictly_below() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms, z, _ = random_cases(generator, 1_000, 0.8)
    sums = torch.stack([babel(one) for one in atoms])
    kept = z > 0
    of_k = sums.gather(1, kept.sum(dim=1, keepdim=True) - 1)[:, 0]
    meets = of_k < z.where(kept, torch.inf).amin(dim=1) / (2 * z.amax(dim=1))
    assert meets.any()
    assert not meets.all()
    assert recovered(atoms, z)[meets].all()
    # Not with an equal sign: the second and third atom of the support point to the first one and away from the last.
    products = torch.eye(4, dtype=torch.float64)
    for other, product in ((0, 0.25), (3, -0.25)):
        products[other, 1:3] = products[1:3, other] = product
    z = torch.tensor([[0.0, 1, 1, 1]], dtype=torch.float64)
    assert babel(with_products(products))[2] == pytest.approx(0.5)
    assert by_sorting(z @ products, 3).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_the_theorem_is_nearly_sharp(k: int) -> None:
    # Atoms of the support point away from one another, and all of them towards one that is outside.
    def first_step_succeeds(coherence: float) -> bool:
        products = torch.full((k + 1, k + 1), -coherence, dtype=torch.float64)
        products[0, :] = products[:, 0] = coherence
        products.fill_diagonal_(1)
        z = torch.ones(1, k + 1, dtype=torch.float64)
        z[0, 0] = 0
        assert bool(meets_condition(z, coherence)) == (k * coherence <= 0.5)
        return bool(recovered(with_products(products)[None], z))

    assert first_step_succeeds(0.5 / k - 1e-9)
    assert first_step_succeeds(1 / (2 * k - 1) - 1e-9)
    assert not first_step_succeeds(1 / (2 * k - 1) + 1e-9)


def test_the_printed_bound_on_unique_codes_does_not_hold_and_donoho_and_elads_does() -> None:
    # Spikes and Hadamard's rows: four spikes, a comb, are the sum of four rows.
    had = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        had = torch.cat([torch.cat([had, had], 1), torch.cat([had, -had], 1)])
    atoms = torch.cat([torch.eye(16, dtype=torch.float64), had / 4])
    coherence, _ = mutual_coherence(atoms)
    assert coherence == pytest.approx(0.25)
    comb = torch.zeros(16, dtype=torch.float64)
    comb[::4] = 1
    spectrum = had @ comb / 4
    assert int((spectrum != 0).sum()) == 4
    assert torch.equal(spectrum @ had / 4, comb)
    assert (1 + 1 / coherence) / 2 < 4 <= 1 + 1 / coherence


def test_babel_by_hand() -> None:
    products = torch.tensor([[1.0, 0.3, -0.2], [0.3, 1.0, 0.1], [-0.2, 0.1, 1.0]], dtype=torch.float64)
    atoms = with_products(products)
    assert babel(atoms).tolist() == pytest.approx([0.3, 0.5])
    assert babel(atoms)[0] == pytest.approx(mutual_coherence(atoms)[0])


def test_condition_by_hand() -> None:
    z = torch.tensor([[4.0, 1.0, 0.0], [4.0, 1.01, 0.0], [2.0, 0.0, 0.0]])
    assert meets_condition(z, 0.0625).tolist() == [True, True, True]
    assert meets_condition(z, 0.0626).tolist() == [False, True, True]


def test_least_squares_equals_numpy_also_where_atoms_are_the_same() -> None:
    noise = np.random.default_rng(0)
    atoms, x = noise.standard_normal((9, 6)), noise.standard_normal((5, 6))
    atoms[1] = atoms[0]
    support = np.array([noise.permutation(9) < 4 for _ in x])
    support[0] = [True, True, True, False, False, True, False, False, False]
    ours = least_squares(*(torch.from_numpy(one) for one in (x, atoms, support))).numpy()
    for row, kept, code in zip(x, support, ours, strict=True):
        np.testing.assert_allclose(code[kept], np.linalg.lstsq(atoms[kept].T, row)[0], atol=1e-10)
        assert not code[~kept].any()


def test_least_squares_keeps_its_digits_where_atoms_are_nearly_the_same() -> None:
    generator = torch.Generator().manual_seed(3)
    atoms = unit(torch.randn(3, 20, generator=generator))
    atoms[1] = unit(atoms[0] + 1e-3 * torch.randn(20, generator=generator))
    x = torch.tensor([[1.0, 2.0, 1.0]]) @ atoms
    code = least_squares(x, atoms, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(code, torch.tensor([[1.0, 2.0, 1.0]]), atol=0.02, rtol=0)


def test_iterative_thresholding_finds_planted_codes() -> None:
    generator = torch.Generator().manual_seed(1)
    atoms = unit(torch.randn(80, 60, generator=generator, dtype=torch.float64))
    z = torch.zeros(200, 80, dtype=torch.float64)
    for code in z:
        code[torch.randperm(80, generator=generator)[:3]] = 1 + torch.rand(3, generator=generator, dtype=torch.float64)
    x = z @ atoms
    one, many = (iterative_thresholding(x, atoms, 3, steps) for steps in (1, 20))
    found = [((code != 0) == (z != 0)).all(dim=1).double().mean() for code in (one, many)]
    assert found[0] < found[1]
    right = ((many != 0) == (z != 0)).all(dim=1)
    torch.testing.assert_close(many[right], z[right])


def test_the_first_support_is_that_of_a_k_sparse_encoder() -> None:
    generator = torch.Generator().manual_seed(2)
    atoms = torch.randn(30, 20, generator=generator, dtype=torch.float64) / 12
    x = torch.randn(50, 20, generator=generator, dtype=torch.float64)
    assert torch.equal(iterative_thresholding(x, atoms, 4) != 0, supp_k(x @ atoms.T, 4))


def test_first_step_by_hand() -> None:
    products = torch.eye(4, dtype=torch.float64)
    products[0, 1] = products[1, 0] = 0.2
    products[0, 2] = products[2, 0] = 0.8
    z = torch.tensor([[1.0, 1, 0, 0], [1, 0.1, 0, 0], [0, 1, 0, 0.5]], dtype=torch.float64)
    # Products with the atoms: 1.2, 1.2, 0.8, 0; 1.02, 0.3, 0.8, 0; 0.2, 1, 0, 0.5.
    got = first_step(with_products(products), z)
    assert got == pytest.approx({"condition": 0, "recovered": 2 / 3, "found": 2.5 / 3})
    products[0, 2] = products[2, 0] = products[0, 1] = products[1, 0] = 0.125
    assert first_step(with_products(products), z)["condition"] == pytest.approx(2 / 3)


def test_a_code_without_a_support_is_refused() -> None:
    with pytest.raises(ValueError, match="no value above zero"):
        first_step(torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 0, 0]]))


def test_supports_of_different_sizes_are_refused() -> None:
    support = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    with pytest.raises(ValueError, match="The supports differ in size"):
        least_squares(torch.ones(3, 2), torch.ones(3, 2), support)


def test_planted_codes_reconstruct_as_the_model_does_without_its_biases() -> None:
    model = load_pretrained("mnist-k25").model_
    x = torch.rand(20, 784, generator=torch.Generator().manual_seed(0))
    atoms, z = planted_codes(model, x)
    assert ((z > 0).sum(dim=1) <= 25).all()
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(1000, dtype=torch.float64))
    wanted = model.decode(model.encode(x).clamp(min=0)) - model.visible_bias
    torch.testing.assert_close(z @ atoms, wanted.double().detach(), atol=1e-4, rtol=0)


def test_impossible_k_is_refused() -> None:
    with pytest.raises(ValueError, match="k = 4 is not possible with 3 hidden units"):
        iterative_thresholding(torch.ones(2, 2), torch.ones(3, 2), 4)
