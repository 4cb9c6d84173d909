//! Faults that a card may hide are seen here: every kernel of `faults/` is right without its
//! fault, in any order of threads, and with it fails to launch or gives other results.

use std::env;
use std::process::Command;

use v4_cuda::kernel_args;
use v4_cuda_shim::{Bench, Order, Region, Shape};

kernel_args! {
    /// Mirrors `faults/fault.cuh`.
    Fault [
        "fault_missing_sync", "fault_tile_reused", "fault_divergent_sync", "fault_early_end", "fault_shuffle_mask",
        "fault_shuffle_source", "fault_deadlock", "fault_race", "fault_copy_without_wait",
        "fault_copy_wrong_group", "fault_copy_overtakes", "fault_tail", "fault_shared_overrun",
        "fault_uninitialised", "fault_stale_argument", "fault_fragment", "fault_load_matrix",
    ] {
        /// Pointer to results.
        out: u64,
        /// Pointer to input.
        input: u64,
        /// Values of input, for most.
        count: u32,
        /// Whether the fault is there.
        faulty: u32,
    }
}

/// A kernel with a fault, and what it should compute.
struct Case {
    kernel: &'static str,
    shape: Shape,
    input: Vec<u32>,
    count: u32,
    expected: Vec<u32>,
}

/// What came of a launch.
#[derive(Debug, PartialEq)]
enum Outcome {
    Right,
    WrongResult,
    Refused(String),
}

impl Case {
    fn new(kernel: &'static str, input: Vec<u32>, expected: Vec<u32>) -> Self {
        Self {
            kernel,
            shape: Shape::row(1, 256).with_shared(2048),
            count: input.len() as u32,
            input,
            expected,
        }
    }

    fn run(&self, faulty: bool, order: Order) -> Outcome {
        let mut bench = Bench::new(order);
        let input = bench.put(&self.input);
        let out = bench.space::<u32>(self.expected.len());
        self.run_on(&mut bench, out, input, faulty)
    }

    fn run_on(
        &self,
        bench: &mut Bench,
        out: Region<u32>,
        input: Region<u32>,
        faulty: bool,
    ) -> Outcome {
        let args = Fault {
            out: out.address(),
            input: input.address(),
            count: self.count,
            faulty: u32::from(faulty),
        };
        match bench.launch(self.kernel, self.shape, &args) {
            Err(error) => Outcome::Refused(error.to_string()),
            Ok(()) if bench.get(out) == self.expected => Outcome::Right,
            Ok(()) => Outcome::WrongResult,
        }
    }

    /// The fault's outcomes, in all orders. Without it, the result is right in all of them.
    fn outcomes(&self) -> Vec<Outcome> {
        let orders = (0..20).map(Order::Random);
        let orders: Vec<Order> = [Order::Forward, Order::Reversed]
            .into_iter()
            .chain(orders)
            .collect();
        for order in &orders {
            assert_eq!(self.run(false, *order), Outcome::Right, "{order:?}");
        }
        orders.iter().map(|order| self.run(true, *order)).collect()
    }

    /// Every order refuses the launch, for this reason.
    fn is_refused(&self, reason: &str) {
        for outcome in self.outcomes() {
            match outcome {
                Outcome::Refused(message) => {
                    assert!(message.contains(reason), "{message}");
                    assert!(message.contains(self.kernel), "{message}");
                }
                other => panic!("{}: {other:?}", self.kernel),
            }
        }
    }

    /// As [`Self::is_refused`]. With the address sanitizer the process ends, as another one that
    /// runs only the test `name` shows.
    fn is_refused_or_ends(&self, reason: &str, name: &str) {
        const ALONE: &str = "V4_FAULT_ALONE";
        if !cfg!(address_sanitizer) {
            self.is_refused(reason);
        } else if env::var_os(ALONE).is_some() {
            panic!("still here: {:?}", self.run(true, Order::Forward));
        } else {
            let mut alone = Command::new(env::current_exe().unwrap());
            let output = alone
                .args(["--exact", name])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(
                message.contains("AddressSanitizer: use-after-poison"),
                "{message}"
            );
            assert!(message.contains(self.kernel), "{message}");
        }
    }

    /// Every order gives another result.
    fn is_wrong(&self) {
        for outcome in self.outcomes() {
            assert_eq!(outcome, Outcome::WrongResult, "{}", self.kernel);
        }
    }

    /// Some order gives another result. One that tries forward, reversed and random order sees it.
    fn is_wrong_in_some_order(&self) {
        let outcomes = self.outcomes();
        let first = &outcomes[..4];
        assert!(first.contains(&Outcome::WrongResult), "{}", self.kernel);
    }
}

/// Numbers that all differ.
fn numbers(count: u32) -> Vec<u32> {
    (0..count).map(|i| i.wrapping_mul(2_654_435_761)).collect()
}

fn reversed() -> Vec<u32> {
    numbers(256).into_iter().rev().collect()
}

#[test]
fn a_missing_sync() {
    Case::new("fault_missing_sync", numbers(256), reversed()).is_wrong_in_some_order();
}

#[test]
fn a_tile_that_is_written_again_while_others_read() {
    let sums = reversed()
        .into_iter()
        .map(|x| x.wrapping_mul(8).wrapping_add(28));
    let mut case = Case::new("fault_tile_reused", numbers(256), sums.collect());
    case.count = 8;
    case.is_wrong_in_some_order();
}

#[test]
fn a_sync_that_threads_reach_at_different_places() {
    Case::new("fault_divergent_sync", numbers(256), reversed()).is_refused("waits in another");
}

#[test]
fn a_sync_that_some_threads_never_reach() {
    let mut case = Case::new("fault_early_end", numbers(256), reversed());
    case.count = 200;
    for outcome in case.outcomes() {
        let Outcome::Refused(message) = outcome else {
            panic!("{outcome:?}");
        };
        let known = ["threads have ended", "ends while others wait in sync"];
        assert!(
            known.iter().any(|known| message.contains(known)),
            "{message}"
        );
    }
}

#[test]
fn a_mask_with_lanes_that_are_elsewhere() {
    let input = numbers(256);
    let sum = |half: &[u32]| half.iter().fold(0u32, |sum, x| sum.wrapping_add(*x));
    let halves = input.chunks(16).enumerate();
    let expected = halves.flat_map(|(i, half)| match i % 2 {
        0 => vec![sum(half); 16],
        _ => half.to_vec(),
    });
    let expected = expected.collect();
    let case = Case::new("fault_shuffle_mask", input, expected);
    for outcome in case.outcomes() {
        let Outcome::Refused(message) = outcome else {
            panic!("{outcome:?}");
        };
        let known = ["of the mask have ended", "waits for it"];
        assert!(
            known.iter().any(|known| message.contains(known)),
            "{message}"
        );
    }
}

#[test]
fn a_shuffle_from_a_lane_that_is_not_in_the_mask() {
    let input = numbers(256);
    let sum = |warp: &[u32]| warp.iter().fold(0u32, |sum, x| sum.wrapping_add(*x));
    let expected = input.chunks(32).flat_map(|warp| [sum(warp); 32]).collect();
    Case::new("fault_shuffle_source", input, expected).is_refused("isn't in the mask");
}

#[test]
fn lanes_that_wait_for_each_other_at_different_places() {
    Case::new("fault_deadlock", numbers(256), numbers(256)).is_refused("which never come");
}

#[test]
fn a_result_that_depends_on_the_order_of_threads() {
    let mut input = vec![7; 256];
    input[100] = 9;
    input[200] = 9;
    Case::new("fault_race", input, vec![100]).is_wrong_in_some_order();
}

#[test]
fn an_asynchronous_copy_without_a_wait() {
    let case = Case::new("fault_copy_without_wait", numbers(1024), numbers(1024));
    case.is_wrong();
}

#[test]
fn a_wait_for_the_wrong_group() {
    let case = Case::new("fault_copy_wrong_group", numbers(1024), numbers(1024));
    case.is_wrong();
}

#[test]
fn an_asynchronous_copy_over_what_is_still_read() {
    let case = Case::new("fault_copy_overtakes", numbers(1024), numbers(1024));
    case.is_wrong_in_some_order();
}

#[test]
fn a_tail_that_is_one_too_long() {
    let mut case = Case::new("fault_tail", numbers(300), numbers(300));
    case.shape = Shape::row(2, 256);
    case.is_refused_or_ends("wrote outside", "a_tail_that_is_one_too_long");
}

#[test]
fn shared_memory_that_is_too_small() {
    let mut input = numbers(256);
    input.rotate_right(1);
    let expected = input.iter().copied().cycle().skip(255).take(256).collect();
    let mut case = Case::new("fault_shared_overrun", input, expected);
    case.shape = Shape::row(1, 256).with_shared(1024);
    case.is_refused_or_ends("beyond its 1024 bytes", "shared_memory_that_is_too_small");
}

#[test]
fn shared_memory_that_nobody_has_written() {
    let input = numbers(600);
    let column = |i: usize| input.iter().skip(i).step_by(256);
    let expected = (0..256).map(|i| column(i).fold(0u32, |sum, x| sum.wrapping_add(*x)));
    let expected = expected.collect();
    Case::new("fault_uninitialised", input, expected).is_wrong();
}

#[test]
fn an_argument_that_is_no_longer_true() {
    let mut case = Case::new("fault_stale_argument", vec![2, 5, 6, 7], vec![5, 6, 7]);
    for faulty in [false, true] {
        let mut bench = Bench::new(Order::Forward);
        let input = bench.put(&case.input);
        case.count = 2;
        let out = bench.put(&[0, 0, 0]);
        assert_eq!(
            case.run_on(&mut bench, out, input, faulty),
            Outcome::WrongResult,
            "only two were asked for"
        );
        assert_eq!(bench.get(out), [5, 6, 0]);
        // The same launch again, as a graph repeats it.
        bench.set(input, &[3, 5, 6, 7]);
        let expected = match faulty {
            false => Outcome::Right,
            true => Outcome::WrongResult,
        };
        assert_eq!(case.run_on(&mut bench, out, input, faulty), expected);
    }
}

/// A product of signed bytes, 16 x 32 times 32 x 8, and what the kernels read: the first row by
/// row, the second column by column.
fn product() -> (Vec<u32>, Vec<u32>) {
    let bytes: Vec<i8> = numbers(768).iter().map(|n| (n >> 24) as i8).collect();
    let (a, b) = bytes.split_at(512);
    let dot = |row: &[i8], column: &[i8]| -> i32 {
        let products = row
            .iter()
            .zip(column)
            .map(|(a, b)| i32::from(*a) * i32::from(*b));
        products.sum()
    };
    let rows = a.chunks(32);
    let product = rows.flat_map(|row| b.chunks(32).map(move |column| dot(row, column) as u32));
    let words = bytes
        .chunks(4)
        .map(|w| u32::from_le_bytes([0, 1, 2, 3].map(|i| w[i] as u8)));
    (words.collect(), product.collect())
}

#[test]
fn registers_of_a_product_that_are_exchanged() {
    let (input, expected) = product();
    let mut case = Case::new("fault_fragment", input, expected);
    case.shape = Shape::row(1, 32);
    case.is_wrong();
}

#[test]
fn a_matrix_that_is_loaded_transposed() {
    let (input, expected) = product();
    let mut case = Case::new("fault_load_matrix", input, expected);
    case.shape = Shape::row(1, 32).with_shared(768);
    case.is_wrong();
}
