"""Alignments of layers: against NumPy's singular vectors, exact laws of chance, and bad weights."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
from sigprop import continuity
from sigprop.alignment import (
    cosine_null,
    frobenius_cosines,
    gram_cosines,
    leading_vectors,
    mean_alignment,
    neighbours,
    overlap_null,
    rotation_drift,
    spectra,
)
from tests.tolerances import FOLD, SINGLE_LAYERS, SLOPE, SOLUTION
from theory import Status

KEY = jax.random.key(5)


def spiked(key, layers, m, n, strength, dtype=jnp.float64):
    """Random matrices with one common direction u vᵀ."""
    noise = jax.random.normal(key, (layers, m, n), dtype) / math.sqrt(n)
    u, v = (
        jax.random.normal(jax.random.fold_in(key, i), (size,), dtype)
        for i, size in ((1, m), (2, n))
    )
    common = jnp.outer(u, v) / (jnp.linalg.norm(u) * jnp.linalg.norm(v))
    return noise + strength * common[None]


@pytest.mark.parametrize(
    "shape",
    [(150, 210), *(pytest.param(s, marks=pytest.mark.slow) for s in [(40, 30), (210, 150)])],
)
def test_the_answers_of_a_loop_over_numpys_svd(shape):
    weights = spiked(KEY, 5, *shape, 2.0)
    found = continuity(weights, 3, tolerance=1e-6)
    u, s, vt = np.linalg.svd(np.asarray(weights))
    np.testing.assert_allclose(found.values, s[:, :3], rtol=SOLUTION)
    for side, vectors in (("right", vt[:, :3]), ("left", np.swapaxes(u, 1, 2)[:, :3])):
        first, frame = getattr(found, side), getattr(found, f"{side}_frame")
        truth = np.abs(vectors[:, 0] @ vectors[:, 0].T)
        overlap = np.einsum("lid,kjd->lkij", vectors, vectors)
        overlap = np.sum(overlap**2, axis=(2, 3)) / 3
        for estimate, exact in ((first, truth), (frame, overlap)):
            assert np.all(np.asarray(estimate.status) == Status.OK)
            assert np.all(np.abs(estimate.value - exact) <= np.asarray(estimate.error) + 1e-13)
            assert np.max(estimate.error) <= 1e-6


def test_the_bound_on_the_angle_is_honest():
    """Random matrices, whose leading values lie close together, in both precisions."""
    for dtype, tolerance in ((jnp.float32, 1e-2), (jnp.float64, 1e-2), (jnp.float64, 1e-9)):
        weights = jax.random.normal(KEY, (12, 128, 128), dtype)
        found = leading_vectors(weights, 1, tolerance=tolerance)
        _, _, vt = np.linalg.svd(np.asarray(weights, float))
        own = np.asarray(found.right[..., 0], float)
        along = np.einsum("ld,ld->l", vt[:, 0], own)[:, None]
        sine = np.linalg.norm(own - along * vt[:, 0], axis=1)
        error = np.asarray(found.error, float)
        assert np.all(sine <= error)
        good = np.asarray(found.status) == Status.OK
        assert good.mean() > 0.8
        assert np.all(error[good] <= tolerance)


class TestStart:
    """The search from vectors that were found before."""

    @pytest.mark.parametrize("layers", [3, pytest.param(41, marks=pytest.mark.slow)])
    def test_the_same_answers(self, layers):
        """From vectors of similar matrices; 41 of this size are spread unevenly over the cores."""
        size = 120 if layers == 3 else 256
        weights = spiked(KEY, layers, size, size, 2.5)
        before = continuity(weights, 2, tolerance=1e-4)
        change = 0.05 * jax.random.normal(jax.random.key(5), weights.shape) / np.sqrt(size)
        cold = continuity(weights + change, 2, tolerance=1e-4)
        warm = continuity(weights + change, 2, tolerance=1e-4, start=before)
        for name in ("right", "left", "right_frame", "left_frame"):
            one, two = getattr(cold, name), getattr(warm, name)
            assert np.all(np.asarray(two.status) == Status.OK)
            assert np.all(np.abs(one.value - two.value) <= one.error + two.error)

    def test_a_new_direction_is_found(self):
        """Orthogonal to all that was found before, and now the largest."""
        values = np.linspace(1, 0.1, 120)
        old = jnp.asarray(np.diag([2.0, *values[1:]]))[None]
        exact = [jnp.eye(120)[None, :, i : i + 1] for i in range(2)]
        before = eqx.tree_at(lambda b: [b.right, b.next_right], leading_vectors(old), exact)
        found = leading_vectors(old.at[0, 60, 60].set(3.0), start=before)
        assert abs(float(found.right[0, 60, 0])) > 0.999
        assert float(found.values[0, 0]) == pytest.approx(3, rel=SINGLE_LAYERS)

    def test_a_start_of_other_layers(self):
        before = continuity(spiked(KEY, 3, 120, 120, 2.0))
        with pytest.raises(ValueError, match="`start`"):
            continuity(spiked(KEY, 4, 120, 120, 2.0), start=before)
        with pytest.raises(ValueError, match="`start`"):
            continuity(spiked(KEY, 3, 120, 120, 2.0), 2, start=before)


class TestBadWeights:
    """A status, never a number."""

    def layers(self):
        good = np.asarray(spiked(KEY, 4, 120, 120, 3.0))
        rotation, _ = np.linalg.qr(good[0])
        double = rotation @ np.diag([2.0, 2.0, *np.linspace(1.5, 0.1, 118)]) @ rotation.T
        broken = good[1].copy()
        broken[3, 4] = np.nan
        return [good[0], np.zeros((120, 120)), double, broken, good[2], good[3]]

    def test_each_is_told_apart(self):
        found = continuity(self.layers())
        kinds = [Status.OK, Status.ABSENT, Status.ABSENT, Status.INVALID, Status.OK, Status.OK]
        np.testing.assert_array_equal(found.status, kinds)
        near = neighbours(found.right)
        wanted = [Status.ABSENT, Status.ABSENT, Status.INVALID, Status.INVALID, Status.OK]
        np.testing.assert_array_equal(near.status, wanted)
        np.testing.assert_array_equal(np.isnan(near.value), [True] * 4 + [False])
        mean, count = mean_alignment(found.right)
        assert count == 1
        assert float(mean.value) == float(near.value[-1])
        lines = sigprop.alignment.layer_remarks(found)
        assert len(lines) == 3
        assert "all weights are zero" in lines[0]
        assert "agree to rounding" in lines[1]
        assert "not finite" in lines[2]

    @pytest.mark.parametrize("size", [20, 150])
    def test_all_singular_values_equal(self, size):
        rotation = np.linalg.qr(np.asarray(jax.random.normal(KEY, (2, size, size))))[0]
        found = continuity(rotation, 2)
        assert np.all(np.asarray(found.right.status) == Status.ABSENT)
        assert np.all(np.asarray(found.right_frame.status) == Status.ABSENT)
        for map_ in gram_cosines(jnp.asarray(rotation)):
            assert np.all(np.asarray(map_.status) == Status.ABSENT)
        assert mean_alignment(found.right)[1] == 0

    def test_a_degenerate_pair_is_a_good_frame(self):
        found = continuity(self.layers()[2:3] * 2, 2)
        assert np.all(np.asarray(found.right.status) == Status.ABSENT)
        np.testing.assert_allclose(found.right_frame.value, 1.0, rtol=0, atol=SLOPE)

    def test_one_layer_has_no_neighbours(self):
        found = continuity(self.layers()[:1])
        mean, count = mean_alignment(found.right)
        assert count == 0
        assert mean.status == Status.ABSENT
        assert np.isnan(mean.value)
        assert sigprop.alignment.layer_remarks(found) == ["one layer has no neighbour"]

    def test_mixed_shapes_meet_where_they_can(self):
        a, b, c = (np.asarray(spiked(KEY, 1, *s, 3.0))[0] for s in ((9, 7), (5, 7), (9, 4)))
        found = continuity([a, b, c])
        status = np.asarray(neighbours(found.right).status)
        np.testing.assert_array_equal(status, [Status.OK, Status.ABSENT])
        assert np.asarray(found.left.status)[0, 2] == Status.OK
        exact = abs(np.linalg.svd(a)[2][0] @ np.linalg.svd(b)[2][0])
        assert float(found.right.value[0, 1]) == pytest.approx(exact, abs=SOLUTION)

    @pytest.mark.parametrize(
        "weights, rank, message",
        [
            ([], 1, "`weights`: must contain"),
            ([np.ones(3)], 1, "`weights`: must be real matrices"),
            ([np.ones((2, 2), complex)], 1, "`weights`: must be real matrices"),
            ([np.ones((3, 2))], 3, "`rank`: must be at most 2"),
        ],
    )
    def test_what_is_no_list_of_matrices(self, weights, rank, message):
        with pytest.raises(ValueError, match=message):
            continuity(weights, rank)

    def test_sizes_of_weights_do_not_matter(self):
        weights = np.asarray(spiked(KEY, 3, 20, 20, 2.0, jnp.float32))
        plain = continuity(weights).right.value
        for factor in (1e-30, 1e30):
            found = continuity(weights * np.float32(factor)).right
            np.testing.assert_allclose(found.value, plain, rtol=0, atol=SINGLE_LAYERS)


class TestChance:
    def drawn(self, d, r, count=4000):
        frames = np.linalg.qr(np.random.default_rng(1).normal(size=(2 * count, d, r)))[0]
        one, two = frames[:count], frames[count:]
        return np.sum((np.swapaxes(one, 1, 2) @ two) ** 2, axis=(1, 2)) / r

    @pytest.mark.parametrize("d", [2, 5, 64])
    def test_cosines(self, d):
        law, drawn = cosine_null(d, 0.9), np.sqrt(self.drawn(d, 1))
        assert abs(drawn.mean() - law.mean) < 5 * law.deviation / math.sqrt(drawn.size)
        assert drawn.std() == pytest.approx(law.deviation, rel=0.06)  # within: its standard error
        assert np.mean(drawn > law.quantile) == pytest.approx(
            0.1, abs=0.025
        )  # within: 5 √(.09/draws)

    def test_the_paper_s_values(self):
        """√(2/(πd)), which is the leading term."""
        for d, value in ((64, 0.0997), (128, 0.0705), (256, 0.0499)):
            assert cosine_null(d).mean == pytest.approx(value, rel=5e-3)

    @pytest.mark.parametrize("d, r", [(6, 4), (20, 3), (3, 2)])
    def test_overlaps(self, d, r):
        law, drawn = overlap_null(d, r, 0.9), self.drawn(d, r)
        assert abs(drawn.mean() - law.mean) < 5 * law.deviation / math.sqrt(drawn.size)
        assert drawn.std() == pytest.approx(law.deviation, rel=0.06)  # within: its standard error
        assert np.mean(drawn > law.quantile) == pytest.approx(
            0.1, abs=0.025
        )  # within: 5 √(.09/draws)
        assert overlap_null(d, d).mean == 1

    def test_one_vector_is_a_frame(self):
        cosine, frame = cosine_null(30), overlap_null(30, 1)
        assert abs(frame.quantile - cosine.quantile**2) < 4 * frame.quantile_error
        assert frame.mean == pytest.approx(cosine.mean**2 + cosine.deviation**2, rel=FOLD)

    def test_gram_cosines(self):
        weights = jax.random.normal(KEY, (60, 8, 5))
        for map_, d in zip(gram_cosines(weights), (5, 8), strict=True):
            off = np.asarray(map_.value)[np.triu_indices(60, 1)]
            deviation = math.sqrt(2 / ((d - 1) * (d + 2)))
            assert abs(off.mean()) < 5 * deviation / math.sqrt(off.size)
            assert off.std() == pytest.approx(deviation, rel=0.06)  # within: its standard error

    def test_frobenius_cosines(self):
        stack = jax.random.normal(KEY, (60, 8, 5)).at[3].set(0.0).at[4, 0, 0].set(jnp.inf)
        found = frobenius_cosines(stack)
        off = np.asarray(found.value)[np.triu_indices(60, 1)]
        off = off[np.isfinite(off)]
        assert off.size == 58 * 57 / 2
        assert off.std() == pytest.approx(1 / math.sqrt(40), rel=0.06)  # within: its standard error
        status = np.asarray(found.status)
        assert status[3, 7] == Status.ABSENT
        assert status[4, 3] == Status.INVALID

    @pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
    def test_levels(self, level):
        with pytest.raises(ValueError, match="`level`"):
            cosine_null(5, level)


def test_spectra_by_hand():
    weights = np.stack([np.diag([3.0, 2.0, 1.0]), np.diag([1.0, 1.0, 1.0]), np.zeros((3, 3))])
    found = spectra(jnp.asarray(weights))
    p = np.array([9, 4, 1]) / 14
    assert float(found.effective_rank.value[0]) == pytest.approx(
        np.exp(-np.sum(p * np.log(p))), rel=FOLD
    )
    assert float(found.effective_rank.value[1]) == pytest.approx(3, rel=FOLD)
    wanted = [Status.OK, Status.OK, Status.ABSENT]
    np.testing.assert_array_equal(found.effective_rank.status, wanted)
    # The pairing of indices means nothing where all singular values agree.
    np.testing.assert_array_equal(found.right.status, [Status.INACCURATE, Status.ABSENT])
    same = spectra(jnp.asarray(weights[[0, 0]]))
    assert float(same.right.value[0]) == pytest.approx(1, rel=FOLD)


def test_drift_is_the_angle():
    angle, weights = 0.3, np.diag([2.0, 1.0, 0.5])[None]
    rotation = np.eye(3)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    right, left = rotation_drift(weights, weights @ rotation.T, tolerance=1e-9)
    assert float(right.value[0]) == pytest.approx(angle, rel=FOLD)
    assert float(left.value[0]) == pytest.approx(0, abs=SLOPE)
    with pytest.raises(ValueError, match="`after`"):
        rotation_drift(weights, weights[:, :2])
