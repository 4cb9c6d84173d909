//! C ABI of the engine. Not built yet: it has no exported function.
