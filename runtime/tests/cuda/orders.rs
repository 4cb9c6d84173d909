//! Whatever the order of work in streams, of threads and of blocks.

use std::sync::Arc;

use v4_cuda_shim::driver::Schedule;
use v4_cuda_shim::{Order, ShimOptions};
use v4_runtime::{Engine, Session, Want};

use crate::common::{Card, FAST, Found, on_cpu, text};

/// Seeds of random orders.
const SEEDS: u64 = 20;

/// Some tokens at once, and one more.
fn short(engine: &Arc<Engine>, ids: &[u32], tokens: usize) -> Found {
    let mut found = Found::default();
    let mut session = Session::new(engine, 64, 64).unwrap();
    let logits = session.append(&ids[..tokens], Want::Last).unwrap();
    found.logits("prompt", &logits);
    let next = &ids[tokens..=tokens];
    found.logits("one more", &session.append(next, Want::Last).unwrap());
    found.session("file", &session);
    found
}

fn cards() -> Vec<ShimOptions> {
    let mut cards: Vec<_> = (100..100 + SEEDS).map(ShimOptions::random).collect();
    cards.extend([1, 2].map(ShimOptions::threaded));
    for (schedule, order) in [
        (Schedule::Eager, Order::Forward),
        (Schedule::Late, Order::Reversed),
        (Schedule::Random(7), Order::Reversed),
    ] {
        cards.push(ShimOptions {
            schedule,
            order,
            ..ShimOptions::default()
        });
    }
    cards
}

fn any_order_gives_the_same_bits(name: &str) {
    let ids = text(name);
    let cpu = on_cpu(name, FAST);
    // A few tokens, and now and then so many that products have kernels of their own.
    let expected = [1, 9].map(|tokens| (tokens, short(&cpu, &ids, tokens)));
    for (i, shim) in cards().into_iter().enumerate() {
        let (tokens, expected) = &expected[usize::from(i % 8 == 7)];
        let what = format!("{name}, {tokens} tokens, {shim:?}");
        let card = Card::open(name, FAST, shim).unwrap();
        short(&card.engine, &ids, *tokens).same(expected, &what);
    }
}

#[test]
fn orders_of_v4() {
    any_order_gives_the_same_bits("tiny-v4");
}

#[test]
fn orders_of_v41() {
    any_order_gives_the_same_bits("tiny-v41");
}
