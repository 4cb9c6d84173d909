//! Token ids from a text file.

use std::path::Path;

use anyhow::{Context, bail};

use crate::commands::read_text;

/// Reads ids separated by white space.
pub fn read(path: &Path) -> anyhow::Result<Vec<u32>> {
    let text = read_text(path)?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for word in text.split_whitespace() {
        let Ok(id) = word.parse() else {
            let shown: String = word.chars().take(40).collect();
            bail!(
                "word {} is {shown:?}, not a token id; give decimal numbers separated by whitespace",
                ids.len() + 1
            );
        };
        ids.push(id);
    }
    if ids.is_empty() {
        bail!("contains no token ids");
    }
    Ok(ids)
}

/// Refuses the first id that is not below `vocab`.
pub fn check(ids: &[u32], vocab: usize) -> anyhow::Result<()> {
    match ids.iter().position(|&id| id as usize >= vocab) {
        Some(at) => bail!(
            "token id {} (number {}) is outside the model's vocabulary of {vocab}",
            ids[at],
            at + 1
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_white_space_separates_ids() {
        assert_eq!(parse(" 1\n2\t3\r\n").unwrap(), [1, 2, 3]);
    }

    #[test]
    fn what_is_no_id_is_named() {
        for bad in ["1 x 2", "1 -2", "1 4294967296", "1 2,3"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("word 2 "), "{bad}: {error}");
        }
        assert!(parse(" \n").is_err());
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_named() {
        let error = check(&[0, 9, 10], 10).unwrap_err().to_string();
        assert!(error.contains("token id 10 (number 3)"), "{error}");
        assert!(check(&[0, 9], 10).is_ok());
    }
}
