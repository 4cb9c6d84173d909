//! Arrays.

use serde_json::{Map, Value};

use super::reader::{Keywords, Read, Reader, Rigor, Way};

impl Reader<'_> {
    /// Items and their number.
    pub(super) fn arrays(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Read<()> {
        // Before 2020 a list of schemas was `items`, and the rest `additionalItems`.
        let old = schema.get("items").is_some_and(Value::is_array);
        let (first, rest) = match old {
            true => ("items", "additionalItems"),
            false => ("prefixItems", "items"),
        };
        let (mut least, mut most) = (
            self.count(schema, "minItems", place)?,
            self.count(schema, "maxItems", place)?,
        );
        let way = Way::default();
        let mut rest_there = false;
        if let Some(value) = schema.get(rest) {
            rest_there = true;
            let read = self.read(value, &format!("{place}/{rest}"), depth + 1, &way)?;
            out.insert("items".into(), read);
        }
        match schema.get(first) {
            None => {}
            Some(Value::Array(all)) => {
                let mut read = Vec::new();
                for (i, one) in all.iter().enumerate() {
                    let place = format!("{place}/{first}/{i}");
                    read.push(self.read(one, &place, depth + 1, &way)?);
                }
                // A tuple, as closed as an object is.
                if self.rigor == Rigor::Strict && !rest_there && least.is_none() && most.is_none() {
                    let number = Some(all.len() as u64);
                    (least, most) = (number, number);
                }
                out.insert("prefixItems".into(), read.into());
            }
            Some(_) => self.let_go(place, first, "it must be a list of schemas")?,
        }
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            self.let_go(place, "minItems", "it is larger than maxItems")?;
            return Ok(());
        }
        for (keyword, count) in [("minItems", least), ("maxItems", most)] {
            if let Some(count) = count {
                out.insert(keyword.into(), count.into());
            }
        }
        Ok(())
    }
}
