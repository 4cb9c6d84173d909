/// The generation of a model, which decides names and roles of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// DeepSeek-V4.
    V4,
    /// DeepSeek-V4.1.
    V41,
}
