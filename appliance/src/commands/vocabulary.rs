//! The tokenizer of a model file or of a `tokenizer.json`, without opening the
//! model itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use v4_files::gguf::GgufFile;
use v4_tokenizer::Tokenizer;

/// A tokenizer and where it came from.
pub struct Vocabulary {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The model's architecture; a `tokenizer.json` does not say.
    pub architecture: Option<String>,
}

/// Reads the tokenizer in a GGUF file's metadata, or a `tokenizer.json`. Which of
/// them it is shows in the first byte, whatever the name.
pub fn load(path: &Path) -> anyhow::Result<Vocabulary> {
    if looks_like_json(path)? {
        return Ok(Vocabulary {
            tokenizer: Tokenizer::from_json_file(path)?,
            architecture: None,
        });
    }
    let file = GgufFile::open(path)?;
    let name = || path.display().to_string();
    let metadata = file.metadata();
    Ok(Vocabulary {
        tokenizer: Tokenizer::from_gguf(metadata).with_context(name)?,
        architecture: Some(
            metadata
                .get_str("general.architecture")
                .with_context(name)?
                .to_owned(),
        ),
    })
}

fn looks_like_json(path: &Path) -> anyhow::Result<bool> {
    let is_json = |bytes: &[u8]| {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = text.trim_ascii_start();
        text.starts_with(b"{") || text.starts_with(b"[")
    };
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut start));
    match read {
        Ok(_) => Ok(is_json(&start)),
        // A folder opens but cannot be read; the GGUF reader says it better.
        Err(_) if path.is_dir() => Ok(false),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
pub mod tests {
    use std::path::PathBuf;

    use v4_files::gguf::{Metadata, encode_header};

    use super::*;

    /// The tiny model's tokenizer.json.
    pub fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny-v4/tokenizer.json")
    }

    #[test]
    fn the_kind_of_file_shows_in_its_contents() {
        let from_json = load(&tiny()).unwrap();
        assert_eq!(from_json.architecture, None);

        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "deepseek4");
        from_json.tokenizer.to_gguf_metadata(&mut metadata);
        let dir = tempfile::tempdir().unwrap();
        // The name says JSON.
        let path = dir.path().join("model.json");
        std::fs::write(&path, encode_header(&metadata, &[], 32).unwrap()).unwrap();
        let from_gguf = load(&path).unwrap();
        assert_eq!(from_gguf.architecture.as_deref(), Some("deepseek4"));
        assert_eq!(from_gguf.tokenizer.vocab_size(), 4096);
    }

    #[test]
    fn files_that_are_neither_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        for bytes in [&b""[..], b"hello", b"GGUF", b"{", b"[]", b"{}"] {
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", load(&path).err().unwrap());
            assert!(error.contains("model.gguf: "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = format!("{:#}", load(dir.path()).err().unwrap());
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    }
}
