//! Split models: parts named `NAME-00001-of-00003.gguf`, each a GGUF file with the keys
//! `split.no` (from 0), `split.count` and `split.tensors.count`, as llama.cpp's
//! `gguf-split` writes them. Metadata are in the first part alone.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{GgufError, Shown};
use super::metadata::Metadata;
use super::part::{Part, part_starts};
use super::reader::{Header, parse_header};
use super::value::Value;

/// Keys of a part.
pub const SPLIT_NO: &str = "split.no";
/// The number of parts.
pub const SPLIT_COUNT: &str = "split.count";
/// The number of tensors of all parts.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// Most parts of a set; published ones have some dozens.
pub const MAX_PARTS: usize = 512;

/// What a file's metadata say of the set that it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// From 0.
    no: u64,
    count: u64,
    /// Of all parts.
    tensors: u64,
}

impl Place {
    /// `None` for a file that is no part of several.
    fn of(metadata: &Metadata) -> Result<Option<Self>, GgufError> {
        let number = |key: &str| match metadata.get(key) {
            None => Ok(None),
            Some(value) => {
                let number = value.as_integer().and_then(|n| u64::try_from(n).ok());
                number.map(Some).ok_or_else(|| GgufError::OutOfRange {
                    key: key.to_owned(),
                    value: brief(value),
                    expected: "a number of 0 or more",
                })
            }
        };
        let Some(count) = number(SPLIT_COUNT)? else {
            return Ok(None);
        };
        if count < 2 {
            return Ok(None);
        }
        if count > MAX_PARTS as u64 {
            return Err(GgufError::OutOfRange {
                key: SPLIT_COUNT.to_owned(),
                value: count.to_string(),
                expected: "at most 512 parts",
            });
        }
        let missing = |key: &str| GgufError::Missing {
            key: key.to_owned(),
        };
        let no = number(SPLIT_NO)?.ok_or_else(|| missing(SPLIT_NO))?;
        if no >= count {
            return Err(GgufError::OutOfRange {
                key: SPLIT_NO.to_owned(),
                value: no.to_string(),
                expected: "less than split.count",
            });
        }
        let tensors = number(SPLIT_TENSORS)?.ok_or_else(|| missing(SPLIT_TENSORS))?;
        Ok(Some(Self { no, count, tensors }))
    }
}

fn brief(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}

/// A part's name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartName {
    /// What all parts begin with.
    pub stem: PathBuf,
    /// From 1.
    pub number: u32,
    /// The number of parts.
    pub count: u32,
}

impl PartName {
    /// Takes `STEM-00001-of-00003.gguf` apart; `None` for any other name.
    #[must_use]
    pub fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let rest = name.strip_suffix(".gguf")?;
        let digits = |text: &str| -> Option<u32> {
            (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()))
                .then(|| text.parse().ok())?
        };
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        Some(Self {
            stem: path.with_file_name(stem),
            number: digits(number)?,
            count: digits(count)?,
        })
    }

    /// The path of the part with this number, from 1.
    #[must_use]
    pub fn path_of(&self, number: u32) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(format!("-{number:05}-of-{:05}.gguf", self.count));
        PathBuf::from(name)
    }
}

fn named(path: &Path) -> impl Fn(GgufError) -> GgufError {
    let path = path.to_owned();
    move |error| GgufError::File {
        path: path.clone(),
        error: Box::new(error),
    }
}

/// All parts of the model whose first part this is, with their headers: one part for a
/// file that is no set.
pub(super) fn open(first: &Path) -> Result<Vec<(Part, Header)>, GgufError> {
    let part = Part::open(first).map_err(named(first))?;
    let header = parse_header(part.bytes(), part.file_len()).map_err(named(first))?;
    let Some(place) = Place::of(&header.metadata).map_err(named(first))? else {
        return Ok(vec![(part, header)]);
    };
    let name = own_name(first, place).map_err(named(first))?;
    if place.no != 0 {
        return Err(named(first)(GgufError::NotFirstPart {
            number: place.no + 1,
            count: place.count,
            first: name.path_of(1),
        }));
    }
    let mut parts = vec![part];
    for number in 2..=name.count {
        parts.push(open_other(&name, number)?);
    }
    read(with_starts(parts))
}

/// The files of a model in `count` parts, whose first one this is, without looking into
/// them.
pub(super) fn open_files(first: &Path, count: usize) -> Result<Vec<Part>, GgufError> {
    let mut parts = vec![Part::open(first).map_err(named(first))?];
    if count > 1 {
        let name = PartName::parse(first);
        let name = name.filter(|name| name.number == 1 && name.count as usize == count);
        let name = name.ok_or_else(|| {
            named(first)(GgufError::PartName {
                number: 1,
                count: count as u64,
            })
        })?;
        for number in 2..=name.count {
            parts.push(open_other(&name, number)?);
        }
    }
    Ok(with_starts(parts))
}

fn open_other(name: &PartName, number: u32) -> Result<Part, GgufError> {
    let path = name.path_of(number);
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    if std::fs::metadata(&path).is_err_and(|e| gone(&e)) {
        return Err(named(&path)(GgufError::MissingPart {
            number: number.into(),
            count: name.count.into(),
        }));
    }
    Part::open(&path).map_err(named(&path))
}

fn with_starts(mut parts: Vec<Part>) -> Vec<Part> {
    let starts = part_starts(parts.iter().map(Part::file_len));
    for (part, start) in parts.iter_mut().zip(starts) {
        part.start = start;
    }
    parts
}

/// Reads the headers of files that are open, and sees that they are one model's.
pub(super) fn read(parts: Vec<Part>) -> Result<Vec<(Part, Header)>, GgufError> {
    let count = parts.len() as u64;
    let mut set = None;
    let mut read: Vec<(Part, Header)> = Vec::with_capacity(parts.len());
    for (no, part) in parts.into_iter().enumerate() {
        let header = parse_header(part.bytes(), part.file_len()).map_err(|e| part.error(e))?;
        let place = Place::of(&header.metadata).map_err(|e| part.error(e))?;
        match set {
            None => {
                let expected = (count > 1).then_some((0, count));
                if place.map(|place| (place.no, place.count)) != expected {
                    let what = format!("is not the first of {count} parts by its metadata");
                    return Err(part.error(GgufError::ForeignPart { what }));
                }
                set = place;
            }
            Some(set) => {
                check_place(&read, &part, &header, place, set, no as u64)
                    .map_err(|e| part.error(e))?;
            }
        }
        read.push((part, header));
    }
    let found: u64 = read.iter().map(|(_, h)| h.tensors.len() as u64).sum();
    match set {
        Some(set) if set.tensors != found => Err(read[0].0.error(GgufError::SetTensors {
            expected: set.tensors,
            found,
        })),
        _ => Ok(read),
    }
}

/// The name of a part, which must be that of its place: the others are found by it.
fn own_name(path: &Path, place: Place) -> Result<PartName, GgufError> {
    let name = PartName::parse(path).filter(|name| {
        u64::from(name.number) == place.no + 1 && u64::from(name.count) == place.count
    });
    name.ok_or(GgufError::PartName {
        number: place.no + 1,
        count: place.count,
    })
}

/// Whether a file is the part of the set that its name says.
fn check_place(
    before: &[(Part, Header)],
    part: &Part,
    header: &Header,
    place: Option<Place>,
    set: Place,
    no: u64,
) -> Result<(), GgufError> {
    let foreign = |what: String| Err(GgufError::ForeignPart { what });
    match place {
        None => {
            return foreign(format!(
                "is no part of a set; part {} of {} is expected",
                no + 1,
                set.count
            ));
        }
        Some(own) if own.no != no || own.count != set.count => {
            return foreign(format!(
                "is part {} of {} by its metadata; part {} of {} is expected",
                own.no + 1,
                own.count,
                no + 1,
                set.count
            ));
        }
        Some(own) if own.tensors != set.tensors => {
            return foreign(format!(
                "belongs to a set of {} tensors; the first part's set has {}",
                own.tensors, set.tensors
            ));
        }
        Some(_) => {}
    }
    let facts = |file: &std::fs::File| file.metadata().map(|m| (m.dev(), m.ino())).ok();
    if let Some((twin, _)) = before
        .iter()
        .find(|(p, _)| facts(p.file()) == facts(part.file()))
    {
        return foreign(format!("is the same file as {}", twin.path().display()));
    }
    // What a part repeats of the first one's metadata must be the same. The alignment is a
    // matter of each file.
    let first = &before[0].1.metadata;
    for (key, value) in header.metadata.iter() {
        let own = key.starts_with("split.") || key == "general.alignment";
        if !own && first.get(key) != Some(value) {
            return foreign(format!(
                "has another key {} than the first part: it belongs to another model",
                Shown(key)
            ));
        }
    }
    Ok(())
}

/// One header for all parts: the first one's, with the tensors of all, whose offsets are
/// counted from the first part's data on.
pub(super) fn merge(parts: Vec<(Part, Header)>) -> Result<(Vec<Part>, Header), GgufError> {
    let mut parts = parts.into_iter();
    let Some((first, mut header)) = parts.next() else {
        return Err(GgufError::NotGguf);
    };
    // What is left describes the model, in however many files it is.
    for key in [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS] {
        header.metadata.remove(key);
    }
    let mut files = vec![first];
    let mut known: HashSet<String> = header.tensors.iter().map(|t| t.name.clone()).collect();
    for (part, other) in parts {
        if let Some(twice) = other.tensors.iter().find(|t| !known.insert(t.name.clone())) {
            let what = format!("has tensor {}, as an earlier part has", Shown(&twice.name));
            return Err(part.error(GgufError::ForeignPart { what }));
        }
        let shift = part.start + other.data_offset - header.data_offset;
        header
            .tensors
            .extend(other.tensors.into_iter().map(|mut t| {
                t.offset += shift;
                t
            }));
        files.push(part);
    }
    Ok((files, header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_taken_apart_and_made() {
        let name = PartName::parse(Path::new("/m/a-b-00002-of-00012.gguf")).unwrap();
        assert_eq!((name.number, name.count), (2, 12));
        assert_eq!(name.stem, Path::new("/m/a-b"));
        assert_eq!(name.path_of(11), Path::new("/m/a-b-00011-of-00012.gguf"));
        for other in [
            "a.gguf",
            "a-1-of-2.gguf",
            "a-00001-of-0002.gguf",
            "a-00001-of-00002.bin",
            "00001-of-00002.gguf",
            "a-+0001-of-00002.gguf",
        ] {
            assert_eq!(PartName::parse(Path::new(other)), None, "{other}");
        }
    }
}
