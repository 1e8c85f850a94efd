//! Part of the sync stack.
