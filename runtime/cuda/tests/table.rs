//! The table of static facts against what Rust hands over.

use std::collections::{BTreeMap, BTreeSet};

use v4_cuda::kernels::KNOWN;

const ARCHITECTURES: [u32; 3] = [89, 90, 120];

/// Rows of `cubin/table.csv` by kernel and architecture: column to value.
fn table() -> BTreeMap<(&'static str, u32), BTreeMap<&'static str, u32>> {
    let mut lines = include_str!("../cubin/table.csv").lines();
    let columns: Vec<&str> = lines.next().expect("a heading").split(',').collect();
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), columns.len(), "{line}");
            let number = |field: &str| field.parse().expect("a number");
            let row = columns.iter().copied().zip(fields.iter().copied()).skip(1);
            let row = row.map(|(column, field)| (column, number(field)));
            ((fields[0], number(fields[1])), row.collect())
        })
        .collect()
}

#[test]
fn every_kernel_is_compiled_for_every_architecture() {
    let compiled: BTreeSet<_> = table().into_keys().collect();
    let known: BTreeSet<_> = KNOWN
        .iter()
        .flat_map(|known| ARCHITECTURES.map(|arch| (known.signature.name, arch)))
        .collect();
    assert_eq!(compiled, known, "run runtime/cuda/cubins.py");
}

#[test]
fn what_kernels_take_has_the_size_of_what_they_are_given() {
    let table = table();
    for known in KNOWN {
        for arch in ARCHITECTURES {
            let row = &table[&(known.signature.name, arch)];
            let takes = row["parameter"] as usize;
            let gives = known.signature.args_size;
            assert_eq!(takes, gives, "{} on sm_{arch}", known.signature.name);
        }
    }
}

#[test]
fn no_kernel_spills_or_declares_shared_memory() {
    for ((kernel, arch), row) in table() {
        for column in ["spills", "frame", "local", "shared"] {
            assert_eq!(row[column], 0, "{column} of {kernel} on sm_{arch}");
        }
        let threads = row["max_threads"];
        let registers = row["registers"].next_multiple_of(8);
        assert!(
            registers * threads <= 65536,
            "{kernel} on sm_{arch}: {registers} registers, {threads} threads"
        );
    }
}

#[cfg(feature = "cuda")]
#[test]
fn every_module_has_machine_code() {
    use v4_cuda::kernels::IMAGES;

    for known in KNOWN {
        for arch in ARCHITECTURES {
            let mut images = IMAGES.iter();
            let image = images
                .find(|image| image.module == known.module && image.capability == arch)
                .expect("an image");
            assert!(image.bytes.starts_with(b"\x7fELF"));
            // An entry of its symbols; the name ends with a zero byte.
            let name = [known.signature.name.as_bytes(), b"\0"].concat();
            assert!(image.bytes.windows(name.len()).any(|bytes| bytes == name));
            assert_eq!(image.bytes.as_ptr().addr() % 16, 0);
        }
    }
}
