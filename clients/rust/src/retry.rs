use std::time::Duration;

use tonic::{Response, Status};
use uuid::Uuid;

use crate::ClientError;
use crate::error::is_lost;

/// Tries before an absence of the service is an error: with the waits below, about ten seconds, which a restart of
/// the service is well within.
const TRIES: u32 = 9;
/// The first wait between tries; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A `request_id`: the service answers a repetition as it did the first time.
pub(crate) fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// Makes the call until the service is there to answer it. The call must be safe to repeat.
pub(crate) async fn retry<T, F>(call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    retry_with(Patience::new(), call).await
}

async fn retry_with<T, F>(mut patience: Patience, mut call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if is_lost(&status) && patience.wait().await => {}
            Err(status) => return Err(status.into()),
        }
    }
}

/// Counts tries and waits between them.
pub(crate) struct Patience {
    left: u32,
    wait: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { left: TRIES, wait: FIRST_WAIT }
    }

    /// Waits for the next try; false when there have been enough.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        true
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn only_absence_is_waited_out_and_not_for_ever() {
        let mut calls = 0;
        let answer = retry(|| {
            calls += 1;
            let absent = calls < 4;
            async move { if absent { Err(Status::unavailable("away")) } else { Ok(Response::new(7)) } }
        });
        assert_eq!(answer.await.expect("answered"), 7);
        assert_eq!(calls, 4);

        let mut calls = 0;
        let refused = retry(|| {
            calls += 1;
            async { Err::<Response<()>, _>(Status::not_found("no")) }
        });
        assert_eq!(refused.await.expect_err("refused").code, Code::NotFound);
        assert_eq!(calls, 1);

        let short = Patience { left: 3, wait: Duration::from_millis(1) };
        let gone = retry_with(short, || async { Err::<Response<()>, _>(Status::unavailable("away")) }).await;
        assert!(gone.expect_err("gave up").is_unavailable());
    }
}
