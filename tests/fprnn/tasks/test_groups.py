"""Group tables against published hashes, sympy, and the definition of a group."""

import hashlib
import re
from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest

from fprnn.tasks.groups import cayley_table, element_names

HASHES = {
    "S3": "b010f7c5a4fb881b",
    "S4": "3887b43148f002d1",
    "A4": "e77b81a93d7c478d",
    "S5": "ee5272bd3fad0502",
    "A5": "ca01c8929b55e403",
}
NAMES = ["Z1", "Z2", "Z7", "Z60", "S1", "S2", "S3", "S4", "A1", "A2", "A3", "A4", "A5", "A4_x_Z5", "Z2_x_Z3_x_S3"]


@pytest.mark.parametrize(("name", "expected"), HASHES.items())
def test_tables_have_the_published_hashes(name: str, expected: str) -> None:
    table = np.ascontiguousarray(cayley_table(name), dtype=np.int16)
    assert hashlib.sha256(table.tobytes()).hexdigest()[:16] == expected


def test_s3_is_the_published_table() -> None:
    rows = ["0 1 2 3 4 5", "1 0 4 5 2 3", "2 3 0 1 5 4", "3 2 5 4 0 1", "4 5 1 0 3 2", "5 4 3 2 1 0"]
    assert cayley_table("S3").tolist() == [[int(entry) for entry in row.split()] for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_groups_with_identity_0(name: str) -> None:
    table = cayley_table(name).astype(int)
    order = np.arange(len(table))
    np.testing.assert_array_equal(table[0], order)
    np.testing.assert_array_equal(table[:, 0], order)
    assert all((np.sort(table, axis=axis) == (order if axis else order[:, None])).all() for axis in (0, 1))
    a, b, c = np.random.default_rng(0).integers(len(table), size=(3, 500))
    np.testing.assert_array_equal(table[table[a, b], c], table[a, table[b, c]])


@pytest.mark.parametrize("name", ["S2", "S3", "S4", "A3", "A4", "A5"])
def test_tables_agree_with_sympy(name: str) -> None:
    combinatorics = pytest.importorskip("sympy.combinatorics")
    degree = int(name[1])
    every = [combinatorics.Permutation(list(p)) for p in permutations(range(degree))]
    elements = [p for p in every if name[0] == "S" or p.is_even]
    index = {tuple(p.array_form): number for number, p in enumerate(elements)}
    table = cayley_table(name)
    for (i, a), (j, b) in product(enumerate(elements), repeat=2):
        # In sympy the left factor acts first.
        assert table[i, j] == index[tuple((b * a).array_form)]


def test_tables_agree_with_composition_by_hand() -> None:
    elements = list(permutations(range(5)))
    table = cayley_table("S5")
    for i, j in np.random.default_rng(1).integers(120, size=(300, 2)):
        composed = tuple(elements[i][elements[j][k]] for k in range(5))
        assert elements[table[i, j]] == composed


def test_products_multiply_each_component() -> None:
    left, right, table = cayley_table("S3"), cayley_table("Z4"), cayley_table("S3_x_Z4")
    for a, b, c, d in product(range(6), range(4), range(6), range(4)):
        assert table[4 * a + b, 4 * c + d] == 4 * left[a, c] + right[b, d]


def test_a5_has_the_published_element_orders_and_commuting_pairs() -> None:
    table = cayley_table("A5")

    def order(element: int) -> int:
        power, count = element, 1
        while power:
            power, count = table[power, element], count + 1
        return count

    assert Counter(order(element) for element in range(60)) == {1: 1, 2: 15, 3: 20, 5: 24}
    assert (table == table.T).mean() == pytest.approx(1 / 12)
    assert (cayley_table("S5") == cayley_table("S5").T).mean() == pytest.approx(0.0583, abs=5e-5)


def test_a_table_is_the_callers_own() -> None:
    cayley_table("Z2")[0, 0] = 9
    assert cayley_table("Z2")[0, 0] == 0


def test_element_names_are_different_and_in_order() -> None:
    assert element_names("S3") == ("(0 1 2)", "(0 2 1)", "(1 0 2)", "(1 2 0)", "(2 0 1)", "(2 1 0)")
    assert element_names("Z2_x_Z2") == ("0,0", "0,1", "1,0", "1,1")
    for name in NAMES:
        assert len(set(element_names(name))) == len(cayley_table(name))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("s5", "S5"), ("Z_2", "Z2"), ("A4xZ5", "A4_x_Z5"), ("a4 x z5", "A4_x_Z5"), ("AS5", "S5"), ("A_5", "A5")],
)
def test_a_misspelt_group_is_guessed(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf'group={re.escape(name)}: unknown. Did you mean "{meant}"\?'):
        cayley_table(name)


@pytest.mark.parametrize("name", ["", "quaternions", "S3_x_", "Z-3-4", "\n"])
def test_an_unknown_group_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="products like A4_x_Z5") as error:
        cayley_table(name)
    assert str(error.value).count("\n") == name.count("\n")


@pytest.mark.parametrize("name", ["S8", "A9", "S999", "Z5041", "S5_x_S5"])
def test_a_huge_group_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: has more than the 5040 elements"):
        cayley_table(name)
