//! Rotary embeddings: of the window's keys, and of the compressed ones, whose
//! positions are scaled.

use serde_json::Value;

use super::error::ConfigError;
use super::fields::Fields;
use super::model::Yarn;

/// What `config.json` says of rotary embeddings.
pub(super) struct Rope {
    /// Base of plain layers.
    pub theta: f32,
    /// Base of compressed layers.
    pub compress_theta: f32,
    /// Their scaling.
    pub yarn: Yarn,
}

impl<'a> Fields<'a> {
    /// Reads `rope_theta`, `compress_rope_theta` and `rope_scaling`, or
    /// `rope_parameters`, in which newer versions of `transformers` keep the same.
    pub(super) fn rope(&self) -> Result<Rope, ConfigError> {
        if self.find("rope_parameters").is_none() {
            return Ok(Rope {
                theta: self.positive("rope_theta")?,
                compress_theta: self.positive("compress_rope_theta")?,
                yarn: self.object("rope_scaling")?.yarn()?,
            });
        }
        let all = self.object("rope_parameters")?;
        if all.find("compress").is_none() && all.find("main").is_none() {
            // One level: the scaling, and the plain layers' base.
            return Ok(Rope {
                theta: self.same(&all, "rope_theta", "rope_theta")?,
                compress_theta: self.same(&all, "compress_rope_theta", "compress_rope_theta")?,
                yarn: self.same_yarn(&all)?,
            });
        }
        let (main, compress) = (all.object("main")?, all.object("compress")?);
        if main.find(main.rope_type()).is_some() {
            main.exactly(main.rope_type(), &Value::from("default"))?;
        }
        Ok(Rope {
            theta: self.same(&main, "rope_theta", "rope_theta")?,
            compress_theta: self.same(&compress, "rope_theta", "compress_rope_theta")?,
            yarn: self.same_yarn(&compress)?,
        })
    }

    /// A number that stands in `newer`, or under its older name here, or in both.
    fn same(&self, newer: &Fields<'a>, field: &str, older: &str) -> Result<f32, ConfigError> {
        match (newer.find(field), self.find(older)) {
            (None, Some(_)) => self.positive(older),
            (Some(value), Some(_)) => {
                let (new, old) = (newer.positive(field)?, self.positive(older)?);
                if new == old {
                    return Ok(new);
                }
                Err(newer.wrong(field, value, format!("{old}, as `{older}`")))
            }
            (_, None) => newer.positive(field),
        }
    }

    /// The scaling in `newer`, which must be that of `rope_scaling` if that exists too.
    fn same_yarn(&self, newer: &Fields<'a>) -> Result<Yarn, ConfigError> {
        let yarn = newer.yarn()?;
        if let Some(older) = self.find("rope_scaling")
            && self.object("rope_scaling")?.yarn()? != yarn
        {
            let expected = "equal to `rope_parameters`, or left out";
            return Err(self.wrong("rope_scaling", older, expected));
        }
        Ok(yarn)
    }

    fn rope_type(&self) -> &'static str {
        match self.find("rope_type") {
            Some(_) => "rope_type",
            None => "type",
        }
    }

    fn yarn(&self) -> Result<Yarn, ConfigError> {
        self.exactly(self.rope_type(), &Value::from("yarn"))?;
        // The published models do not scale the scores.
        if let Some(factor) = self.find("attention_factor")
            && factor.as_f64() != Some(1.0)
        {
            return Err(self.wrong("attention_factor", factor, "1, or left out"));
        }
        Ok(Yarn {
            factor: self.positive("factor")?,
            beta_fast: self.positive("beta_fast")?,
            beta_slow: self.positive("beta_slow")?,
            original_context: self.int("original_max_position_embeddings", 1, 1 << 30)?,
        })
    }
}
