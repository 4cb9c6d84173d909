//! Parsers of single values.

/// Parses bytes, with binary units: 64M, 1.5G.
pub fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|e| format!("{e}; examples: 64M, 1.5G"))?;
    usize::try_from(bytes).map_err(|e| e.to_string())
}

/// Parses a whole number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("must be a whole number".into()),
    }
}

/// Stands for the model's own limit.
pub const MAX_CONTEXT: usize = usize::MAX;

/// Parses a number of tokens of context, or `max`.
pub fn tokens_or_max(text: &str) -> Result<usize, String> {
    match text {
        "max" => Ok(MAX_CONTEXT),
        _ => positive(text).map_err(|e| format!("{e}; give a number of tokens, or max")),
    }
}

/// Parses an upper limit on connections or requests.
pub fn count(text: &str) -> Result<usize, String> {
    /// More than any machine handles at once.
    const MOST: usize = 1_000_000;
    match positive(text)? {
        n if n <= MOST => Ok(n),
        _ => Err(format!("must be at most {MOST}")),
    }
}

fn float_where(text: &str, allowed: fn(f32) -> bool, range: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if allowed(x) => Ok(x),
        Ok(_) => Err(format!("must be {range}")),
        Err(_) => Err("must be a number".into()),
    }
}

/// Parses a temperature, also for `/temp` in a chat.
pub fn temperature(text: &str) -> Result<f32, String> {
    float_where(text, |x| (0.0..=100.0).contains(&x), "from 0 to 100")
}

/// Parses a share that is not nothing.
pub fn top_p(text: &str) -> Result<f32, String> {
    float_where(text, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")
}

/// Parses a share.
pub fn min_p(text: &str) -> Result<f32, String> {
    float_where(text, |x| (0.0..=1.0).contains(&x), "from 0 to 1")
}

/// Parses a factor.
pub fn penalty(text: &str) -> Result<f32, String> {
    float_where(text, |x| x > 0.0 && x <= 100.0, "above 0 and at most 100")
}
