use super::fixture::{Ca, Files};
use super::*;

fn load(files: &Files) -> Result<(Certificates, Arc<TcpStats>), CertificateError> {
    let stats = Arc::new(TcpStats::default());
    Ok((Certificates::load(&files.named(), Arc::clone(&stats))?, stats))
}

fn look(certificates: &mut Certificates, files: &Files) {
    certificates.look(Material::read(&files.named()));
}

#[test]
fn what_is_wrong_with_a_file_is_told_by_its_flag() {
    let ca = Ca::new("ca");
    let (server, other) = (ca.server(), ca.server());
    let error = |change: &dyn Fn(&Files)| {
        let files = Files::write(&server, &ca.pem());
        change(&files);
        load(&files).err().expect("not usable").to_string()
    };
    let replaced = |name: &'static str, text: &str| error(&|files: &Files| files.replace(name, text));
    let remove = |name: &'static str| error(&|files: &Files| std::fs::remove_file(files.path(name)).expect("there"));
    for (name, flag) in [("cert.pem", "--api-tls-cert"), ("key.pem", "--api-tls-key"), ("ca.pem", "--api-client-ca")] {
        let text = remove(name);
        assert!(text.starts_with(flag) && text.contains(name) && text.contains("No such file"), "{text}");
        let text = replaced(name, "nothing of the kind");
        assert!(text.starts_with(flag) && text.contains("PEM"), "{text}");
        let text = replaced(name, &"x".repeat(2 * 1024 * 1024));
        assert!(text.starts_with(flag) && text.contains("larger than 1048576 bytes"), "{text}");
        let text = error(&|files: &Files| {
            std::fs::remove_file(files.path(name)).expect("there");
            nix::unistd::mkfifo(&files.path(name), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        });
        assert!(text.starts_with(flag) && text.ends_with("is not a file"), "{text}");
    }
    let text = replaced("key.pem", &other.key);
    assert!(text.contains("key.pem is not the key of --api-tls-cert") && text.ends_with("cert.pem"), "{text}");
    let text = replaced("key.pem", &server.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
    assert!(text.contains("not encrypted"), "{text}");
    let broken = format!("{}-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", ca.pem());
    let text = replaced("ca.pem", &broken);
    assert!(text.starts_with("--api-client-ca") && text.contains("revocation list"), "{text}");
}

#[test]
fn new_files_are_taken_into_use_and_bad_ones_change_nothing() {
    let ca = Ca::new("ca");
    let files = Files::write(&ca.server(), &ca.pem());
    let (mut certificates, stats) = load(&files).expect("usable");
    let newest = certificates.newest();
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    assert!(count(&stats.certificate_expires_at_s) > 0);
    let (first, _) = newest.credentials();
    let is_first = || Arc::ptr_eq(&first, &newest.credentials().0);

    look(&mut certificates, &files);
    assert!(is_first(), "nothing has changed");

    let next = ca.server();
    files.replace("cert.pem", &next.cert);
    look(&mut certificates, &files);
    assert!(is_first() && count(&stats.certificate_load_failed) == 0, "half of a change is no failure yet");
    look(&mut certificates, &files);
    assert!(is_first() && count(&stats.certificate_load_failed) == 1, "a pair that does not fit");
    files.replace("key.pem", &next.key);
    look(&mut certificates, &files);
    assert!(!is_first() && count(&stats.certificate_load_failed) == 0);
    assert_eq!(count(&stats.certificate_loads), 2);

    std::fs::remove_file(files.path("ca.pem")).expect("there");
    look(&mut certificates, &files);
    look(&mut certificates, &files);
    assert_eq!((count(&stats.certificate_load_failed), count(&stats.certificate_loads)), (1, 2));
    files.replace("ca.pem", &ca.pem());
    look(&mut certificates, &files);
    assert_eq!((count(&stats.certificate_load_failed), count(&stats.certificate_loads)), (0, 2), "as before");
}

#[test]
fn another_ca_or_list_ends_what_was_trusted_and_another_certificate_does_not() {
    let ca = Ca::new("ca");
    let files = Files::write(&ca.server(), &ca.pem());
    let (mut certificates, _) = load(&files).expect("usable");
    let newest = certificates.newest();
    let (_, trust) = newest.credentials();
    let next = ca.server();
    files.replace("cert.pem", &next.cert);
    files.replace("key.pem", &next.key);
    look(&mut certificates, &files);
    assert!(!trust.is_over());
    files.replace("ca.pem", &(ca.pem() + &ca.revokes(&[7])));
    look(&mut certificates, &files);
    assert!(trust.is_over());
    assert!(!newest.credentials().1.is_over());
}
