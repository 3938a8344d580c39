//! The protocols, public and internal, and the code generated from them.
