//! The server as clients and nodes see it: real PostgreSQL, real connections on loopback, a node that speaks the
//! workers' protocol.

mod service {
    pub(crate) mod auth;
    pub(crate) mod bad_input;
    pub(crate) mod blobs;
    pub(crate) mod harness;
    pub(crate) mod images;
    pub(crate) mod jobs;
    pub(crate) mod listen;
    pub(crate) mod node;
    pub(crate) mod operators;
    pub(crate) mod secrets;
    pub(crate) mod transfers;
    pub(crate) mod watch;
}
