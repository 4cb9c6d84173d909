//! Compressed request bodies.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use ruzstd::decoding::StreamingDecoder;

use super::error::{ApiError, Kind};

/// What can be read, for `Accept-Encoding` in a refusal.
const ACCEPTED: &str = "gzip, deflate, br, zstd";
/// Encodings one inside of another; none is known to need a second.
const MOST_LAYERS: usize = 3;
/// Bytes that brotli reads at once.
const BROTLI_BUFFER: usize = 4096;

/// A way to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn find(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }
}

/// The encodings of a request's body, in the order in which they were applied.
pub(super) fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, ApiError> {
    let mut codings = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let text = String::from_utf8_lossy(value.as_bytes());
        for name in text.split(',').map(str::trim) {
            if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                continue;
            }
            codings.push(Coding::find(name).ok_or_else(|| {
                refused(format!(
                    "The Content-Encoding {name:?} is not supported; send the body unencoded, or \
                     as one of {ACCEPTED}."
                ))
            })?);
        }
    }
    if codings.len() > MOST_LAYERS {
        return Err(refused(format!(
            "The body has {} nested encodings; at most {MOST_LAYERS} are supported.",
            codings.len()
        )));
    }
    Ok(codings)
}

fn refused(message: String) -> ApiError {
    ApiError::new(Kind::Encoding(ACCEPTED), message)
}

/// The body as it was before the encodings were applied, of at most `most` bytes at every
/// step: what would unfold into more is not unfolded.
pub(super) fn decode(codings: &[Coding], body: Bytes, most: usize) -> Result<Bytes, ApiError> {
    codings.iter().rev().try_fold(body, |body, &coding| {
        let mut decoded = Vec::new();
        let read = unfold(coding, &body, most, &mut decoded);
        if decoded.len() > most {
            return Err(ApiError::too_large(most));
        }
        read.map_err(|error| {
            ApiError::new(
                Kind::Invalid,
                format!("The body does not match its Content-Encoding: {error}."),
            )
        })?;
        Ok(decoded.into())
    })
}

/// Reads one byte more than `most`, if there are that many.
fn unfold(coding: Coding, mut body: &[u8], most: usize, to: &mut Vec<u8>) -> io::Result<()> {
    let limit = (most as u64).saturating_add(1);
    match coding {
        Coding::Gzip => MultiGzDecoder::new(body).take(limit).read_to_end(to)?,
        // Clients send both forms under this name.
        Coding::Deflate if is_zlib(body) => ZlibDecoder::new(body).take(limit).read_to_end(to)?,
        Coding::Deflate => DeflateDecoder::new(body).take(limit).read_to_end(to)?,
        Coding::Brotli => Decompressor::new(body, BROTLI_BUFFER)
            .take(limit)
            .read_to_end(to)?,
        Coding::Zstd => {
            // One frame after the other.
            while !body.is_empty() && to.len() <= most {
                let frame = StreamingDecoder::new(&mut body).map_err(io::Error::other)?;
                frame.take(limit).read_to_end(to)?;
            }
            to.len()
        }
    };
    Ok(())
}

/// Whether there is zlib's head before the deflated bytes (RFC 1950, 2.2).
fn is_zlib(body: &[u8]) -> bool {
    match body {
        [method, flags, ..] => {
            method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)).is_multiple_of(31)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use hyper::header::HeaderValue;

    use super::*;

    const TEXT: &[u8] = b"{\"prompt\": \"x\"}";
    /// The same by the programs of zstd and brotli, which this project does not have.
    const ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x0f, 0x79, 0x00, 0x00, 0x7b, 0x22, 0x70, 0x72, 0x6f, 0x6d,
        0x70, 0x74, 0x22, 0x3a, 0x20, 0x22, 0x78, 0x22, 0x7d,
    ];
    const BROTLI: &[u8] = &[
        0x0b, 0x07, 0x80, 0x7b, 0x22, 0x70, 0x72, 0x6f, 0x6d, 0x70, 0x74, 0x22, 0x3a, 0x20, 0x22,
        0x78, 0x22, 0x7d, 0x03,
    ];

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn headers(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|v| HeaderValue::from_static(v));
        values.map(|value| (CONTENT_ENCODING, value)).collect()
    }

    fn read(names: &[&'static str], body: &[u8], most: usize) -> Result<Bytes, ApiError> {
        decode(
            &codings(&headers(names))?,
            Bytes::copy_from_slice(body),
            most,
        )
    }

    #[test]
    fn each_encoding_gives_the_same_body() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(TEXT).unwrap();
        let zlib = zlib.finish().unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(TEXT).unwrap();
        let raw = raw.finish().unwrap();
        let twice = gzip(&gzip(TEXT));
        let frames = [ZSTD, ZSTD].concat();
        for (names, body) in [
            (&["gzip"][..], &gzip(TEXT)[..]),
            (&["GZip"], &gzip(TEXT)),
            (&["x-gzip, identity"], &gzip(TEXT)),
            (&["deflate"], &zlib),
            (&["deflate"], &raw),
            (&["zstd"], ZSTD),
            (&["br"], BROTLI),
            (&["identity"], TEXT),
            (&[""], TEXT),
            (&["gzip, gzip"], &twice),
            (&["gzip", "gzip"], &twice),
        ] {
            assert_eq!(&read(names, body, 100).unwrap()[..], TEXT, "{names:?}");
        }
        assert_eq!(read(&["zstd"], &frames, 100).unwrap().len(), 2 * TEXT.len());
    }

    #[test]
    fn a_bomb_is_not_unfolded() {
        let bomb = gzip(&vec![b' '; 10 << 20]);
        assert!(bomb.len() < 20_000);
        for most in [0, 100, 1 << 20] {
            let error = read(&["gzip"], &bomb, most).unwrap_err();
            assert_eq!(error.kind, Kind::TooLarge);
        }
        let inside = gzip(&bomb);
        let error = read(&["gzip, gzip"], &inside, 1 << 20).unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge);
        assert_eq!(read(&["gzip"], &gzip(TEXT), TEXT.len()).unwrap(), TEXT);
        let frames = ZSTD.repeat(1000);
        let error = read(&["zstd"], &frames, 1000).unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge);
    }

    #[test]
    fn what_is_not_known_or_not_so_encoded_is_refused_by_name() {
        for name in ["compress", "snappy", "gzip, aes128gcm"] {
            let error = read(&[name], TEXT, 100).unwrap_err();
            assert_eq!(error.kind, Kind::Encoding(ACCEPTED));
        }
        let error = codings(&headers(&["gzip,gzip,gzip,gzip"])).unwrap_err();
        assert_eq!(error.kind, Kind::Encoding(ACCEPTED));
        let cut = gzip(TEXT);
        for (name, body) in [
            ("gzip", &cut[..cut.len() - 9]),
            ("gzip", TEXT),
            ("deflate", &[0x78, 0x9c, 0xff, 0xff, 0xff][..]),
            ("br", &[0xff; 40]),
            ("zstd", TEXT),
            ("zstd", &ZSTD[..12]),
        ] {
            let error = read(&[name], body, 100).unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{name}");
            assert!(error.message.contains("Content-Encoding"));
        }
    }
}
