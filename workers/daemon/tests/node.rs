//! The node agent against a server in this process, with jobs that are real processes of this host in place of
//! sandboxes.

#[path = "node/backend.rs"]
mod backend;
#[path = "node/server.rs"]
mod server;

#[path = "node/life.rs"]
mod life;
#[path = "node/stops.rs"]
mod stops;
