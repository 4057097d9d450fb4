use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::{
    Listener,
    options::{ClientOptions, ListenOptions},
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::stage::{Stage, ability, client, client_with, listen, soon, start};

#[tokio::test]
async fn tls_needs_the_right_authority_and_mtls_a_client_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let server_ca = Authority::new(folder.path(), "server");
    let client_ca = Authority::new(folder.path(), "client");
    let (cert, key) = server_ca.issue("localhost");
    let options = ListenOptions {
        listen: Some("0.0.0.0:0".parse().expect("an address")),
        tls_cert_file: Some(cert),
        tls_key_file: Some(key),
        tls_client_ca_file: Some(client_ca.file.clone()),
        ..listen()
    };
    let (stage, _seen) = Stage::new();
    let handle = start(stage, &options).await;
    let endpoint = format!("https://localhost:{}", handle.local_addr().port());

    let (cert, key) = client_ca.issue("orchestrator");
    let good = ClientOptions {
        ca_file: Some(server_ca.file.clone()),
        client_cert_file: Some(cert),
        client_key_file: Some(key),
        ..ClientOptions::default()
    };
    client_with(&endpoint, &good)
        .get_ability(ability(""))
        .await
        .expect("served");

    let nameless = ClientOptions {
        client_cert_file: None,
        client_key_file: None,
        ..good.clone()
    };
    let refused = client_with(&endpoint, &nameless)
        .get_ability(ability(""))
        .await;
    let refused = refused.expect_err("no certificate");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        refused.message().contains("--client-cert-file"),
        "{refused}"
    );
    let (cert, key) = server_ca.issue("stranger");
    let stranger = ClientOptions {
        client_cert_file: Some(cert),
        client_key_file: Some(key),
        ..good.clone()
    };
    let refused = client_with(&endpoint, &stranger)
        .get_ability(ability(""))
        .await;
    assert_eq!(refused.expect_err("a stranger").code(), Code::Unavailable);
    let deceived = ClientOptions {
        ca_file: Some(client_ca.file.clone()),
        ..good
    };
    let refused = client_with(&endpoint, &deceived)
        .get_ability(ability(""))
        .await;
    let refused = refused.expect_err("another authority");
    assert!(refused.message().contains("cannot trust"), "{refused}");

    // Probes bring no certificate: the second port is plaintext.
    let second = handle.health_addr().expect("a second port");
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{second}"));
    let mut probe = HealthClient::new(channel.expect("an endpoint").connect_lazy());
    soon(probe.check(HealthCheckRequest::default()))
        .await
        .expect("health needs no certificate");
}

#[tokio::test]
async fn a_token_is_asked_of_all_but_health_and_follows_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    write_token(&file, "first\n", 1);
    let options = ListenOptions {
        token_file: Some(file.clone()),
        ..listen()
    };
    let (stage, _seen) = Stage::new();
    let handle = start(stage, &options).await;
    let endpoint = handle.endpoint();

    let nobody = client(&endpoint)
        .get_ability(ability(""))
        .await
        .expect_err("no token");
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let channel = tonic::transport::Endpoint::from_shared(endpoint.clone()).expect("an endpoint");
    let mut probe = HealthClient::new(channel.connect_lazy());
    probe
        .check(HealthCheckRequest::default())
        .await
        .expect("health needs no token");

    let own = folder.path().join("own");
    write_token(&own, "first", 1);
    let with_token = ClientOptions {
        client_token_file: Some(own.clone()),
        ..ClientOptions::default()
    };
    let mut caller = client_with(&endpoint, &with_token);
    caller
        .get_ability(ability(""))
        .await
        .expect("the right token");

    write_token(&file, "second", 2);
    let old = caller
        .get_ability(ability(""))
        .await
        .expect_err("the token was changed");
    assert_eq!(old.code(), Code::Unauthenticated);
    write_token(&own, "second", 2);
    caller
        .get_ability(ability(""))
        .await
        .expect("both files were changed");
    fs::remove_file(&file).expect("removed");
    caller
        .get_ability(ability(""))
        .await
        .expect("the last token stands");

    let error = Listener::bind(&options, 0)
        .await
        .expect_err("no token file");
    assert!(error.to_string().contains("token file"), "{error}");
}

/// Rotations are seconds apart in life; here the time of the file says so.
fn write_token(path: &Path, token: &str, at_s: u64) {
    fs::write(path, token).expect("written");
    let file = fs::File::options().append(true).open(path).expect("opened");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at_s))
        .expect("dated");
}

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    pub(crate) file: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("{name} authority"));
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let file = folder.join(format!("{name}-ca.pem"));
        fs::write(&file, issuer.pem()).expect("written");
        Self {
            issuer,
            folder: folder.to_owned(),
            file,
        }
    }

    pub(crate) fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let cert_file = self.folder.join(format!("{name}.pem"));
        let key_file = self.folder.join(format!("{name}.key"));
        fs::write(&cert_file, certificate.pem()).expect("written");
        fs::write(&key_file, key.serialize_pem()).expect("written");
        (cert_file, key_file)
    }
}
