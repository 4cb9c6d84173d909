//! Numbers and their bounds.

use serde_json::{Map, Value, json};

use super::reader::{Keywords, Read, Reader};

/// Whole numbers up to here are held exactly as the grammar counts, with room to spare.
const LARGEST: f64 = 1e15;
/// Smaller fractions are not held.
const SMALLEST: f64 = 1e-9;
/// The largest integer of which all smaller ones are numbers of their own in JavaScript.
const SAFE: u64 = (1 << 53) - 1;

/// Whether the grammar can hold all numbers of a value exactly.
pub(super) fn exact(value: &Value) -> bool {
    match value {
        Value::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => n <= SAFE,
            (None, Some(n)) => n.unsigned_abs() <= SAFE,
            (None, None) => n.as_f64().is_some_and(held),
        },
        Value::Array(all) => all.iter().all(exact),
        Value::Object(all) => all.values().all(exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

fn held(n: f64) -> bool {
    n == 0.0 || (SMALLEST..=LARGEST).contains(&n.abs())
}

impl Reader<'_> {
    /// Bounds, and what numbers are multiples of.
    pub(super) fn numbers(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        types: Option<&[String]>,
        out: &mut Map<String, Value>,
    ) -> Read<()> {
        let mut low = self.bound(schema, place, ["minimum", "exclusiveMinimum"])?;
        let mut high = self.bound(schema, place, ["maximum", "exclusiveMaximum"])?;
        let integer = types.is_some_and(|t| t.iter().any(|t| t == "integer"));
        if let Some(format) = schema.get("format").and_then(Value::as_str)
            && integer
            && let Some((least, most)) = of_format(format)
        {
            low.push((least, false));
            high.push((most, false));
        }
        // Readers that count in floating point are right up to here.
        if integer && schema.contains_key("multipleOf") {
            low.push((-(SAFE as f64), false));
            high.push((SAFE as f64, false));
        }
        let tightest = |all: Vec<(f64, bool)>, sign: f64| {
            let order = |a: &(f64, bool), b: &(f64, bool)| {
                (a.0 * sign).total_cmp(&(b.0 * sign)).then(a.1.cmp(&b.1))
            };
            all.into_iter().max_by(order)
        };
        let (low, high) = (tightest(low, 1.0), tightest(high, -1.0));
        if let (Some(low), Some(high)) = (low, high)
            && (low.0 > high.0 || (low.0 == high.0 && (low.1 || high.1)))
        {
            self.let_go(place, "minimum", "no number is within these bounds")?;
            return Ok(());
        }
        for (bound, [inclusive, exclusive], sign) in [
            (low, ["minimum", "exclusiveMinimum"], -1.0),
            (high, ["maximum", "exclusiveMaximum"], 1.0),
        ] {
            let Some((n, excluded)) = bound else { continue };
            // A bound that no answer comes near is moved to where numbers are exact.
            let (n, excluded) = match n * sign > SAFE as f64 {
                true => (SAFE as f64 * sign, false),
                false => (n, excluded),
            };
            if n.abs() > SAFE as f64 || (n.fract() != 0.0 && !held(n)) {
                let why = "the number has more digits than can be enforced exactly";
                self.let_go(place, inclusive, why)?;
                continue;
            }
            let n = match n.fract() == 0.0 {
                true => json!(n as i64),
                false => json!(n),
            };
            let keyword = if excluded { exclusive } else { inclusive };
            out.insert(keyword.into(), n);
        }
        match schema.get("multipleOf") {
            None => {}
            // Its digits, and those of its inverse, are counted in 32 bits.
            Some(Value::Number(n))
                if n.as_f64().is_some_and(|n| n > 0.0 && n < 1e6)
                    && n.to_string().chars().filter(char::is_ascii_digit).count() <= 6
                    && !n.to_string().contains(['e', 'E']) =>
            {
                out.insert("multipleOf".into(), Value::Number(n.clone()));
            }
            Some(_) => {
                let why = "it must be a number above 0 with at most 6 digits";
                self.let_go(place, "multipleOf", why)?;
            }
        }
        Ok(())
    }

    /// What the two keywords of one side say, draft 4's form included.
    fn bound(
        &self,
        schema: &Keywords<'_>,
        place: &str,
        [inclusive, exclusive]: [&str; 2],
    ) -> Read<Vec<(f64, bool)>> {
        let mut all = Vec::new();
        let why = "it must be a number";
        match schema.get(inclusive) {
            None => {}
            Some(n) => match n.as_f64() {
                Some(n) => all.push((n, schema.get(exclusive) == Some(&Value::Bool(true)))),
                None => self.let_go(place, inclusive, why)?,
            },
        }
        match schema.get(exclusive) {
            None | Some(Value::Bool(_)) => {}
            Some(n) => match n.as_f64() {
                Some(n) => all.push((n, true)),
                None => self.let_go(place, exclusive, why)?,
            },
        }
        Ok(all)
    }

    /// A count: a whole number, not negative.
    pub(super) fn count(
        &self,
        schema: &Keywords<'_>,
        keyword: &str,
        place: &str,
    ) -> Read<Option<u64>> {
        let Some(value) = schema.get(keyword) else {
            return Ok(None);
        };
        let whole = |n: &f64| n.fract() == 0.0 && (0.0..=1e18).contains(n);
        match value
            .as_u64()
            .or_else(|| value.as_f64().filter(whole).map(|n| n as u64))
        {
            Some(n) if n <= u64::from(u32::MAX) => Ok(Some(n)),
            // There is no answer that long.
            Some(_) if keyword.starts_with("max") => Ok(None),
            Some(_) => {
                self.let_go(place, keyword, "no answer is that long")?;
                Ok(None)
            }
            None => {
                self.let_go(place, keyword, "it must be a whole number of at least 0")?;
                Ok(None)
            }
        }
    }
}

/// The bounds of integers in the formats of OpenAPI and of Rust.
fn of_format(format: &str) -> Option<(f64, f64)> {
    let bits = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|bits| (8..=64).contains(bits))
    };
    if format == "uint" {
        return Some((0.0, SAFE as f64));
    }
    if let Some(bits) = format.strip_prefix("uint").and_then(bits) {
        return Some((0.0, 2_f64.powi(bits as i32) - 1.0));
    }
    let bits = format.strip_prefix("int").and_then(bits)?;
    let most = 2_f64.powi(bits as i32 - 1);
    Some((-most, most - 1.0))
}
