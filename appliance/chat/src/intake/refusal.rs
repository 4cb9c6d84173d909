/// A request that cannot be answered as it is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The field that is at fault.
    pub param: &'static str,
    /// What is wrong with it, and what helps.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(param: &'static str, message: impl Into<String>) -> Self {
        Self {
            param,
            message: message.into(),
        }
    }
}
