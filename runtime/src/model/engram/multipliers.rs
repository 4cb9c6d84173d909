//! Hash multipliers: odd numbers that a seeded generator draws for each layer.

use super::numpy::Generator;

/// The seed of a layer is its id times this.
const SEED_STEP: u64 = 10_007;

/// The multipliers of one layer, one per token of the longest n-gram.
///
/// They are so small that a product with a class stays below 2^63: the published
/// code multiplies in signed 64-bit integers. `classes` is at least 1.
pub(super) fn multipliers(layer: u32, classes: u32, count: usize) -> Vec<u64> {
    let bound = multiplier_bound(classes);
    let mut generator = Generator::new(u64::from(layer) * SEED_STEP);
    (0..count).map(|_| generator.below(bound) * 2 + 1).collect()
}

fn multiplier_bound(classes: u32) -> u64 {
    (i64::MAX as u64) / u64::from(classes.max(1)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// spec section 3.7
    #[test]
    fn published_constants() {
        assert_eq!(multiplier_bound(99_092), 46_539_438_283_891);
        assert_eq!(
            multipliers(1, 99_092, 4),
            [
                76_632_096_046_245,
                4_839_876_093_313,
                35_959_672_319_349,
                73_987_337_458_391
            ]
        );
        assert_eq!(
            multipliers(14, 99_092, 4),
            [
                67_716_810_739_261,
                51_510_806_800_915,
                30_921_347_202_721,
                82_619_226_485_591
            ]
        );
    }

    /// Made with NumPy 2.4.6:
    /// `default_rng(10007*layer).integers(0, (2**63-1)//classes//2, 4)*2+1`.
    #[test]
    fn other_layers_and_vocabularies() {
        let cases: [(u32, u32, [u64; 4]); 6] = [
            (
                0,
                1,
                [
                    5874934615388537135,
                    2488343231644625807,
                    377914054924498011,
                    152440531369162767,
                ],
            ),
            (
                61,
                1,
                [
                    7084845728193401521,
                    1961177161455667983,
                    6172302935069193287,
                    634287609030994571,
                ],
            ),
            (
                3,
                2_860,
                [
                    953742346373903,
                    2829292843514307,
                    376893691479427,
                    2435617047688845,
                ],
            ),
            (
                0,
                99_092,
                [59287678272599, 25111444230055, 3813769577005, 1538373747317],
            ),
            (
                3,
                129_280,
                [
                    21099188665139,
                    62591100962645,
                    8337840018805,
                    53881998425045,
                ],
            ),
            (
                61,
                1 << 22,
                [1689158851669, 467581072201, 1471591695563, 151225950487],
            ),
        ];
        for (layer, classes, expected) in cases {
            assert_eq!(
                multipliers(layer, classes, 4),
                expected,
                "{layer}, {classes}"
            );
        }
    }

    #[test]
    fn products_with_classes_keep_their_sign() {
        for classes in [1, 2, 3, 99_092, u32::MAX] {
            let largest = (multiplier_bound(classes) - 1) * 2 + 1;
            assert!(largest.checked_mul(u64::from(classes)).unwrap() <= i64::MAX as u64);
        }
    }
}
