//! The calls on files, from registers to answers.

mod files;
mod guest;
mod ready;
mod sockets;
