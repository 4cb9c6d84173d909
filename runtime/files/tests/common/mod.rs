//! A GGUF file written field by field, without the crate's own writer, so that a test can
//! put a false value into any field.
#![allow(dead_code)] // Each test program uses a part of it.

/// A metadata entry: key, value type and the value's bytes.
#[derive(Clone)]
pub struct RawEntry {
    pub key: Vec<u8>,
    pub ty: u32,
    pub value: Vec<u8>,
}

/// A tensor entry.
#[derive(Clone)]
pub struct RawTensor {
    pub name: Vec<u8>,
    /// `None`: as many as there are.
    pub dim_count: Option<u32>,
    pub dims: Vec<u64>,
    pub ty: u32,
    pub offset: u64,
}

#[derive(Clone)]
pub struct RawGguf {
    pub magic: [u8; 4],
    pub version: u32,
    /// `None`: as many as there are.
    pub tensor_count: Option<u64>,
    pub entry_count: Option<u64>,
    pub entries: Vec<RawEntry>,
    pub tensors: Vec<RawTensor>,
    /// The data start at a multiple of this.
    pub padding: usize,
    /// Length of the data section.
    pub data_len: usize,
}

/// The bytes, where the lengths and counts stand in them, and where the header ends.
pub struct Built {
    pub bytes: Vec<u8>,
    /// Offsets of the 64-bit counts, lengths, dimensions and offsets.
    pub u64_fields: Vec<usize>,
    /// Offsets of the 32-bit types and dimension counts.
    pub u32_fields: Vec<usize>,
    /// End of the header before padding.
    pub header_end: usize,
}

pub fn text(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

pub fn array(ty: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

impl RawGguf {
    /// Every value type, every array type, five tensor types, 1 to 4 dimensions.
    pub fn sample() -> Self {
        let mut raw = Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: vec![],
            tensors: vec![],
            padding: 64,
            data_len: 0,
        };
        raw.entry("general.alignment", 4, &64u32.to_le_bytes());
        raw.entry("general.architecture", 8, &text(b"deepseek4"));
        let eight = [1u8, 0, 0, 0, 0, 0, 0, 0];
        for (ty, size) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 4),
            (5, 4),
            (7, 1),
            (10, 8),
            (11, 8),
        ] {
            raw.entry(&format!("one.{ty}"), ty, &eight[..size]);
            let items = eight[..size].repeat(5);
            raw.entry(&format!("many.{ty}"), 9, &array(ty, 5, &items));
        }
        raw.entry("one.6", 6, &1e-6f32.to_le_bytes());
        raw.entry("one.12", 12, &1e-6f64.to_le_bytes());
        raw.entry(
            "many.6",
            9,
            &array(6, 2, &[1f32, 2.0].map(f32::to_le_bytes).concat()),
        );
        raw.entry(
            "many.12",
            9,
            &array(12, 2, &[1f64, 2.0].map(f64::to_le_bytes).concat()),
        );
        let strings = ["", "é", "<｜begin▁of▁sentence｜>", "Ġ Ġ"].map(|s| text(s.as_bytes()));
        raw.entry("many.8", 9, &array(8, 4, &strings.concat()));
        raw.entry("none.4", 9, &array(4, 0, &[]));
        raw.entry("none.8", 9, &array(8, 0, &[]));
        // (name, type, dims, bytes)
        for (name, ty, dims, bytes) in [
            ("token_embd.weight", 8, &[64u64, 3][..], 6 * 34),
            ("output_norm.weight", 0, &[7], 28),
            ("blk.0.ffn_gate_exps.weight", 39, &[32, 2, 4], 8 * 17),
            ("blk.0.ffn_gate_tid2eid.weight", 26, &[2, 5, 1, 2], 80),
            ("blk.0.attn_q_a.weight", 12, &[256, 1], 144),
        ] {
            raw.tensors.push(RawTensor {
                name: name.into(),
                dim_count: None,
                dims: dims.to_vec(),
                ty,
                offset: raw.data_len.next_multiple_of(64) as u64,
            });
            raw.data_len = raw.data_len.next_multiple_of(64) + bytes;
        }
        raw
    }

    pub fn entry(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.entries.push(RawEntry {
            key: key.into(),
            ty,
            value: value.into(),
        });
    }

    /// The value's bytes of a key of the sample.
    pub fn value(&mut self, key: &str) -> &mut RawEntry {
        let found = self.entries.iter_mut().find(|e| e.key == key.as_bytes());
        found.expect("a key of the sample")
    }

    pub fn build(&self) -> Built {
        let mut b = Built {
            bytes: vec![],
            u64_fields: vec![8, 16],
            u32_fields: vec![4],
            header_end: 0,
        };
        let out = &mut b.bytes;
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        let tensor_count = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        out.extend(tensor_count.to_le_bytes());
        let entry_count = self.entry_count.unwrap_or(self.entries.len() as u64);
        out.extend(entry_count.to_le_bytes());
        for e in &self.entries {
            b.u64_fields.push(out.len());
            out.extend(text(&e.key));
            b.u32_fields.push(out.len());
            out.extend(e.ty.to_le_bytes());
            if e.ty == 8 {
                b.u64_fields.push(out.len());
            } else if e.ty == 9 {
                b.u32_fields.push(out.len());
                b.u64_fields.push(out.len() + 4);
            }
            out.extend(&e.value);
        }
        for t in &self.tensors {
            b.u64_fields.push(out.len());
            out.extend(text(&t.name));
            b.u32_fields.push(out.len());
            out.extend(t.dim_count.unwrap_or(t.dims.len() as u32).to_le_bytes());
            for dim in &t.dims {
                b.u64_fields.push(out.len());
                out.extend(dim.to_le_bytes());
            }
            b.u32_fields.push(out.len());
            out.extend(t.ty.to_le_bytes());
            b.u64_fields.push(out.len());
            out.extend(t.offset.to_le_bytes());
        }
        b.header_end = out.len();
        out.resize(out.len().next_multiple_of(self.padding), 0);
        // Data that is not valid UTF-8 and no small number, should it be read as such.
        out.extend((0..self.data_len).map(|i| (i * 37 + 129) as u8));
        b
    }
}
