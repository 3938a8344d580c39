//! Clients' connections: only so many at once, and only those that say something.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Most connections at once; more wait in the listener's queue. Each may cost a descriptor and some 100 KiB.
const MAX_CONNECTIONS: usize = 4096;
/// A connection begins with the preface of HTTP/2 (24 bytes), or with a handshake of TLS, which is longer.
const GREETING_BYTES: usize = 24;
/// How long that may take: until then nothing else watches over the connection.
const GREETING: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, most likely).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The connections of a listener.
pub(crate) fn accept(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> + Send {
    accept_within(listener, GREETING)
}

fn accept_within(
    listener: TcpListener,
    greeting: Duration,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    async_stream::stream! {
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Small answers go at once; a socket that can't be told so is about to fail anyway.
                    let _ = stream.set_nodelay(true);
                    yield Ok(Connection::new(stream, place, greeting));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

/// A client's connection.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Until the greeting has come: how much is missing, and until when.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, within: Duration) -> Self {
        let greeting = Some((GREETING_BYTES, Box::pin(tokio::time::sleep(within))));
        Self { stream, greeting, _place: place }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((missing, end)) = &mut self.greeting else { return read };
        if read.is_pending() {
            ready!(end.as_mut().poll(context));
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.greeting = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_silent_connection_ends_and_one_that_greets_stays() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
        let address = listener.local_addr().expect("address");
        let within = Duration::from_millis(200);
        let mut connections = Box::pin(accept_within(listener, within));
        let _silent = TcpStream::connect(address).await.expect("connects");
        let mut server_side = connections.next().await.expect("one").expect("accepted");
        let mut buffer = [0; 64];
        let error = server_side.read(&mut buffer).await.expect_err("nothing came");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let mut client = TcpStream::connect(address).await.expect("connects");
        let mut server_side = connections.next().await.expect("one").expect("accepted");
        client.write_all(&[b'x'; GREETING_BYTES]).await.expect("sent");
        server_side.read_exact(&mut buffer[..GREETING_BYTES]).await.expect("read");
        let waits = tokio::time::timeout(3 * within, server_side.read(&mut buffer)).await;
        assert!(waits.is_err(), "it may be silent now");
    }
}
