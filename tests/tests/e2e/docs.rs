//! What the documents say, executed.
