//! The connection to the server: one session after the other, each on one ordered stream.

mod session;
mod ship;

use bulkhead_proto::worker::FromWorker;
use bulkhead_proto::worker::from_worker::Message;
use bulkhead_proto::worker::worker_service_client::WorkerServiceClient;
use tonic::transport::Channel;

pub(crate) use session::session;

/// The server's calls.
pub(crate) type Client = WorkerServiceClient<Channel>;

/// The largest message that the server may send, in bytes: a lease holds a specification with at most 1 MiB of argv
/// and env and 1 MiB of inline content, which JSON writes as up to four bytes a byte.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The two connections of a node: large transfers have their own, so that they never hold up a heartbeat.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) control: Client,
    pub(crate) bulk: Client,
}

impl Clients {
    pub(crate) fn new(endpoint: &tonic::transport::Endpoint) -> Self {
        let client =
            || WorkerServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { control: client(), bulk: client() }
    }
}

/// The envelope.
fn from_worker(message: Message) -> FromWorker {
    FromWorker { message: Some(message) }
}
