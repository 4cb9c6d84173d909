//! Requests of three chat protocols to prompts, and output back to events.
