//! Where the public API listens, and in what.

use bulkhead_proto::v1::GetVersionRequest;
use bulkhead_proto::v1::version_service_client::VersionServiceClient;
use bulkhead_server::{Server, ServerConfig, ServerError, TlsFiles};
use bulkhead_store::testing::test_database;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::harness::Running;

#[tokio::test]
async fn plain_text_stays_on_loopback_unless_someone_says_so() {
    let data = tempfile::tempdir().expect("directory");
    let mut config = ServerConfig::new(data.path(), test_database().await);
    config.listen = ([0, 0, 0, 0], 0).into();
    config.worker_listen = ([127, 0, 0, 1], 0).into();
    let refused = Server::bind(config.clone()).await.expect_err("tokens would cross the network in clear");
    assert!(matches!(refused, ServerError::Plaintext { .. }));
    assert!(refused.to_string().contains("--tls-cert"), "{refused}");
    assert_eq!(std::fs::read_dir(data.path()).expect("list").count(), 0, "nothing was opened");
    config.insecure_plaintext = true;
    Server::bind(config).await.expect("said so");
}

#[tokio::test]
async fn the_public_api_speaks_tls_with_a_certificate() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    let files = tempfile::tempdir().expect("directory");
    let tls = TlsFiles { certificate: files.path().join("cert.pem"), key: files.path().join("key.pem") };
    std::fs::write(&tls.certificate, made.cert.pem()).expect("written");
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).expect("written");
    let running = Running::start_with(test_database().await, |config| config.tls = Some(tls)).await;
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(made.cert.pem()));
    let endpoint = Endpoint::from_shared(format!("https://{}", running.public)).expect("address");
    let endpoint = endpoint.tls_config(trust.domain_name("localhost")).expect("TLS");
    let channel = endpoint.connect().await.expect("connects");
    VersionServiceClient::new(channel).get(GetVersionRequest {}).await.expect("answers");
    let plain = Endpoint::from_shared(format!("http://{}", running.public)).expect("address");
    let answer = async {
        let channel = plain.connect().await.map_err(|error| error.to_string())?;
        let answer = VersionServiceClient::new(channel).get(GetVersionRequest {}).await;
        answer.map(|_| ()).map_err(|status| status.to_string())
    };
    answer.await.expect_err("plain text is not understood");
    running.stop().await;
}
