//! What memory holds before anybody wrote it: NaNs, as f32 and as both halves, no address, and
//! no two neighbouring bytes the same. The same as in shared memory.

use std::ops::Range;

const WORD: [u8; 4] = 0xffa5_ffa5u32.to_le_bytes();

/// Many words, which are compared and copied as a whole.
const WORDS: [u8; 512] = {
    let mut words = [0; 512];
    let mut at = 0;
    while at < words.len() {
        words[at] = WORD[at % 4];
        at += 1;
    }
    words
};

/// Makes all bytes poison.
///
/// # Safety
/// They must be there, and nobody else's meanwhile.
pub unsafe fn fill(bytes: Range<usize>) {
    for (at, poison) in parts(bytes) {
        // SAFETY: some of the bytes.
        unsafe { std::ptr::copy_nonoverlapping(poison.as_ptr(), at as *mut u8, poison.len()) };
    }
}

/// The address of the first byte that is not poison any more.
///
/// # Safety
/// As for [`fill`].
pub unsafe fn first_change(bytes: Range<usize>) -> Option<usize> {
    parts(bytes).find_map(|(at, poison)| {
        // SAFETY: some of the bytes.
        let found = unsafe { std::slice::from_raw_parts(at as *const u8, poison.len()) };
        // Word by word: the address sanitizer watches the functions that compare memory, and
        // kernels may not touch these bytes.
        let (found_words, found_rest) = found.as_chunks::<8>();
        let (words, rest) = poison.as_chunks::<8>();
        let same = |(one, other): (&[u8; 8], &[u8; 8])| {
            u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other)
        };
        if found_words.iter().zip(words).all(same)
            && found_rest.iter().zip(rest).all(|(a, b)| a == b)
        {
            return None;
        }
        let change = found
            .iter()
            .zip(poison)
            .position(|(one, other)| one != other);
        change.map(|i| at + i)
    })
}

/// Bytes in parts: where each begins, and what it holds. The pattern begins at whole words.
fn parts(bytes: Range<usize>) -> impl Iterator<Item = (usize, &'static [u8])> {
    let phase = bytes.start % 4;
    let most = WORDS.len() - 4;
    bytes.clone().step_by(most).map(move |at| {
        let len = most.min(bytes.end - at);
        (at, &WORDS[phase..phase + len])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_filled_and_looked_at() {
        for from in 0..8 {
            for to in from..16 {
                let mut memory = [0u32; 4];
                let start = memory.as_mut_ptr() as usize;
                let bytes = start + from..start + to;
                // SAFETY: within the array, which nobody else uses meanwhile.
                unsafe { fill(bytes.clone()) };
                let filled = memory.iter().flat_map(|word| word.to_le_bytes());
                for (i, byte) in filled.enumerate() {
                    let expected = if (from..to).contains(&i) {
                        WORD[i % 4]
                    } else {
                        0
                    };
                    assert_eq!(byte, expected, "byte {i} of {from}..{to}");
                }
                // SAFETY: as above.
                assert_eq!(unsafe { first_change(bytes.clone()) }, None);
                for i in from..to {
                    let mut memory = memory;
                    let start = memory.as_mut_ptr() as usize;
                    let bytes = start + from..start + to;
                    let at = start + i;
                    // SAFETY: as above.
                    let found = unsafe {
                        (at as *mut u8).write(!WORD[i % 4]);
                        first_change(bytes)
                    };
                    assert_eq!(found, Some(at));
                }
            }
        }
    }
}
