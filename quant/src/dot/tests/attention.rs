//! Kernels of attention and of the indexer.

use super::*;

#[test]
fn key_scores_are_dot_products() {
    let mut rng = SmallRng::seed_from_u64(18);
    let (mut scratch, mut buffer) = (Scratch::default(), Vec::new());
    for kernels in versions().into_iter().chain([Kernels::scalar()]) {
        for (heads, n, width) in [
            (64, 25, 512),
            (1, 12, 32),
            (17, 7, 96),
            (40, 1, 544),
            (33, 13, 512),
            (2, 5, 40),
            (3, 0, 64),
        ] {
            let q = random_floats(&mut rng, heads * width);
            let keys = random_floats(&mut rng, n * width);
            let rows = q.chunks_exact(width).collect();
            let packed = Heads::new_in(kernels, rows, &mut buffer);
            let mut out = vec![f32::NAN; heads * n];
            let results = Results::new(&mut out, heads);
            kernels.key_scores()(&keys, &packed, results, &mut scratch);
            for (i, v) in out.iter().enumerate() {
                let (h, k) = (i / n, i % n);
                let [q, key] = [(&q, h), (&keys, k)].map(|(of, i)| &of[i * width..][..width]);
                let expected = Kernels::scalar().dot_f32()(key, q);
                assert_same(&[expected], &[*v], (kernels, heads, n, width, i));
            }
        }
    }
}

#[test]
fn weighted_sums_agree() {
    let mut rng = SmallRng::seed_from_u64(8);
    for kernels in versions().into_iter().chain([Kernels::scalar()]) {
        for (heads, n, more, width) in [
            (1, 0, 0, 64),
            (1, 1, 2, 3),
            (7, 5, 4, 64),
            (13, 33, 0, 128),
            (3, 9, 1, 72),
        ] {
            let stride = n + more;
            // The last head's weights end with those that are used.
            let weights = random_floats(&mut rng, heads * stride);
            let weights = &weights[..weights.len() - more];
            let values = random_floats(&mut rng, n * width);
            let before = random_floats(&mut rng, heads * width);
            let mut out = before.clone();
            kernels.weighted_sums()(weights, stride, &values, width, &mut out);
            for (i, v) in out.iter().enumerate() {
                let (h, c) = (i / width, i % width);
                let expected = (0..n).fold(before[i], |sum, i| {
                    weights[h * stride + i].mul_add(values[i * width + c], sum)
                });
                assert_same(&[expected], &[*v], (kernels, heads, n, width, i));
            }
        }
    }
}

/// Keys with scales that are far apart, and queries of several widths.
#[test]
fn index_scores_are_those_of_decoded_keys_and_the_same_in_all_versions() {
    use crate::rounding::CacheFormat;
    let mut rng = SmallRng::seed_from_u64(11);
    for (width, heads, n, tokens) in [
        (128, 64, 64, 1),
        (128, 32, 37, 3),
        (32, 2, 1, 1),
        (64, 3, 9, 8),
        (160, 1, 16, 2),
    ] {
        let format = CacheFormat::IndexKey;
        let bytes = format.row_bytes(width).unwrap();
        let mut keys = vec![0; n * bytes];
        let mut decoded = vec![0.0; n * width];
        for (key, decoded) in keys
            .chunks_exact_mut(bytes)
            .zip(decoded.chunks_exact_mut(width))
        {
            format.encode(&random_floats(&mut rng, width), key).unwrap();
            format.decode(key, decoded).unwrap();
        }
        let mut queries = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..tokens {
            let mut q = random_floats(&mut rng, heads * width);
            q.chunks_exact_mut(width)
                .for_each(|q| format.round(q).unwrap());
            let weights: Vec<f32> = (0..heads).map(|_| rng.random_range(-1.0..1.0)).collect();
            for key in decoded.chunks_exact(width) {
                let score = q.chunks_exact(width).zip(&weights).map(|(q, &w)| {
                    let dot = q
                        .iter()
                        .zip(key)
                        .map(|(q, k)| f64::from(*q) * f64::from(*k));
                    dot.sum::<f64>().max(0.0) * f64::from(w)
                });
                let score: Vec<f64> = score.collect();
                let size: f64 = score.iter().map(|s| s.abs()).sum();
                expected.push((score.iter().sum::<f64>(), size));
            }
            queries.push(IndexQuery::new(&q, weights).unwrap());
        }
        let mut portable = vec![f32::NAN; tokens * n];
        Kernels::scalar().index_scores()(&keys, &queries, &mut portable);
        for (score, (expected, size)) in portable.iter().zip(expected) {
            let error = (f64::from(*score) - expected).abs();
            assert!(error <= 1e-5 * size, "{score} for {expected}");
        }
        for kernels in versions() {
            let mut out = vec![f32::NAN; tokens * n];
            kernels.index_scores()(&keys, &queries, &mut out);
            assert_same(&out, &portable, (kernels, width, heads, n));
        }
    }
}

/// Any bytes can stand in a file: all versions must agree on them too, scales that are
/// no numbers included.
#[test]
fn index_scores_of_any_bytes_are_the_same_in_all_versions() {
    let mut rng = SmallRng::seed_from_u64(12);
    let keys = random_bytes(&mut rng, 40 * 68);
    let q = random_floats(&mut rng, 5 * 128);
    let query = IndexQuery::new(&q, vec![1.0, -0.5, 0.25, f32::INFINITY, 0.0]).unwrap();
    let mut portable = vec![0.0; 40];
    Kernels::scalar().index_scores()(&keys, std::slice::from_ref(&query), &mut portable);
    for kernels in versions() {
        let mut out = vec![0.0; 40];
        kernels.index_scores()(&keys, std::slice::from_ref(&query), &mut out);
        assert_same(&out, &portable, kernels);
    }
}
