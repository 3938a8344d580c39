use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use serde_json::json;

use super::*;

fn tenant() -> Option<TenantId> {
    Some(TenantId::new("acme").expect("valid"))
}

fn request() -> TokenRequest {
    TokenRequest {
        subject: "ada".into(),
        tenant: tenant(),
        scopes: vec![Scope::JobsRead, Scope::Operator],
        lifetime: Duration::from_secs(60),
    }
}

fn issuer(directory: &Path) -> TokenIssuer {
    let keys = KeyDirectory::open(directory).expect("directory");
    TokenIssuer::open_or_create(&keys, Expected::default()).expect("issuer")
}

fn verify(verifier: &Verifier, token: &str) -> Result<Caller, TokenError> {
    verifier.verify(Some(format!("Bearer {token}").as_bytes()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_secs()
}

/// A token with any header and claims, signed by the issuer's key.
fn signed(issuer: &TokenIssuer, header: &Header, claims: &serde_json::Value) -> String {
    encode(header, claims, &issuer.key).expect("token")
}

fn good_claims() -> serde_json::Value {
    json!({"iss": "bulkhead", "aud": "bulkhead", "exp": now() + 60, "sub": "ada", "tenant": "acme", "scope": "jobs.read"})
}

#[test]
fn own_tokens_hold_across_restarts_and_no_others() {
    let directory = tempfile::tempdir().expect("directory");
    let other = tempfile::tempdir().expect("directory");
    let token = issuer(directory.path()).issue(&request()).expect("token");
    let verifier =
        Verifier::new(issuer(directory.path()).key_set(), None, Expected::default()).expect("verifier");
    let caller = verify(&verifier, &token).expect("own token");
    assert_eq!(caller.subject, "ada");
    assert_eq!(caller.tenant, tenant());
    assert_eq!(caller.scopes, [Scope::JobsRead, Scope::Operator].into());

    let forged = issuer(other.path()).issue(&request()).expect("token");
    assert_eq!(verify(&verifier, &forged), Err(TokenError::Invalid));
    // The other key under our key's id.
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(issuer(directory.path()).id);
    let forged = signed(&issuer(other.path()), &header, &good_claims());
    assert_eq!(verify(&verifier, &forged), Err(TokenError::Invalid));
}

#[test]
fn each_kind_of_bad_token_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let issuer = issuer(directory.path());
    let verifier = Verifier::new(issuer.key_set(), None, Expected::default()).expect("verifier");
    let header = Header::new(Algorithm::EdDSA);
    assert!(verify(&verifier, &signed(&issuer, &header, &good_claims())).is_ok());
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = good_claims();
        claims[name] = value;
        signed(&issuer, &header, &claims)
    };
    let without = |name: &str| {
        let mut claims = good_claims();
        claims.as_object_mut().expect("object").remove(name);
        signed(&issuer, &header, &claims)
    };
    assert_eq!(verify(&verifier, &with("exp", json!(now() - 3600))), Err(TokenError::Expired));
    assert_eq!(verify(&verifier, &with("nbf", json!(now() + 3600))), Err(TokenError::NotYetValid));
    assert_eq!(verify(&verifier, &with("aud", json!("other"))), Err(TokenError::Elsewhere));
    assert_eq!(verify(&verifier, &with("iss", json!("other"))), Err(TokenError::Elsewhere));
    for missing in ["exp", "iss", "aud", "sub"] {
        assert!(verify(&verifier, &without(missing)).is_err(), "without {missing}");
    }
    for (name, value) in [
        ("exp", json!("tomorrow")),
        ("nbf", json!({})),
        ("sub", json!("")),
        ("sub", json!("x".repeat(300))),
        ("tenant", json!("../x")),
        ("scope", json!(["jobs.read"])),
    ] {
        assert_eq!(verify(&verifier, &with(name, value.clone())), Err(TokenError::Invalid), "{name} {value}");
    }
    // Another algorithm than the key's, and extensions that must be understood.
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!("{}.{}.", part(json!({"alg": "none"})), part(good_claims()));
    assert_eq!(verify(&verifier, &none), Err(TokenError::Invalid));
    let mut critical = header.clone();
    critical.crit = Some(vec!["exp".into()]);
    assert_eq!(verify(&verifier, &signed(&issuer, &critical, &good_claims())), Err(TokenError::Invalid));
    // The public key taken for the secret of an HMAC.
    let secret = EncodingKey::from_secret(&issuer.public);
    let hmac = encode(&Header::new(Algorithm::HS256), &good_claims(), &secret).expect("token");
    assert_eq!(verify(&verifier, &hmac), Err(TokenError::Invalid));
    for garbage in ["", "a", "a.b.c", "..", &"x".repeat(100_000)] {
        assert_eq!(verify(&verifier, garbage), Err(TokenError::Invalid));
    }
    for header in [None, Some(&b""[..]), Some(b"Basic YTpi"), Some(b"Bearer"), Some(&[0xff; 9])] {
        assert_eq!(verifier.verify(header), Err(TokenError::Missing));
    }
    // A signature that was cut or changed.
    let good = signed(&issuer, &header, &good_claims());
    assert_eq!(verify(&verifier, &good[..good.len() - 4]), Err(TokenError::Invalid));
}

fn ec_key() -> (EncodingKey, Jwk) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("jwk");
    (key, jwk)
}

#[test]
fn keys_of_a_jwks_file_are_chosen_by_id_and_rotate() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("jwks.json");
    let write = |keys: Vec<Jwk>| {
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(&JwkSet { keys }).expect("json")).expect("written");
        std::fs::rename(&fresh, &path).expect("renamed");
    };
    let (first, mut first_jwk) = ec_key();
    first_jwk.common.key_id = Some("first".into());
    let (second, mut second_jwk) = ec_key();
    second_jwk.common.key_id = Some("second".into());
    write(vec![first_jwk.clone()]);
    let issuer = issuer(directory.path());
    let verifier =
        Verifier::new(issuer.key_set(), Some(path.clone()), Expected::default()).expect("verifier");
    let token = |key: &EncodingKey, kid: &str| {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.into());
        encode(&header, &good_claims(), key).expect("token")
    };
    assert!(verify(&verifier, &token(&first, "first")).is_ok());
    assert!(verify(&verifier, &token(&second, "second")).is_err());
    assert!(verify(&verifier, &token(&first, "second")).is_err(), "the id chooses the key");
    assert!(
        verify(&verifier, &issuer.issue(&request()).expect("token")).is_ok(),
        "own tokens hold beside it"
    );

    let look_again = || {
        let file = verifier.file.as_ref().expect("file");
        file.checked.lock().expect("lock").0 = Instant::now().checked_sub(2 * JWKS_CHECK).expect("clock");
    };
    write(vec![second_jwk]);
    look_again();
    assert!(verify(&verifier, &token(&second, "second")).is_ok());
    assert!(verify(&verifier, &token(&first, "first")).is_err(), "a key that was taken out is void");
    // A broken file leaves the keys in force.
    std::fs::write(&path, "{").expect("written");
    look_again();
    assert!(verify(&verifier, &token(&second, "second")).is_ok());
    assert!(Verifier::new(issuer.key_set(), Some(path), Expected::default()).is_err());
}

#[test]
fn keys_that_are_for_something_else_are_left_out() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("jwks.json");
    let (_, jwk) = ec_key();
    let mut other = serde_json::to_value(&jwk).expect("json");
    other["alg"] = json!("RS256");
    let mut encryption = serde_json::to_value(&jwk).expect("json");
    encryption["use"] = json!("enc");
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
    std::fs::write(&path, json!({"keys": [other, encryption, secret]}).to_string()).expect("written");
    assert!(matches!(KeySet::from_jwks_file(&path), Err(JwksError::Empty { .. })));
}
