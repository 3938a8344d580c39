//! Tests of several kinds of files.

mod pipe;
mod proc;
mod streams;
