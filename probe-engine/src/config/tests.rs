use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn a_flag_lies_over_the_file_and_the_file_over_the_default() {
    let file = file("io: epoll\nshards: 2\nmanifests: [a.yaml, b]\n");
    let flags = Settings { io: Some(IoChoice::Uring), ..Settings::default() };
    let config = Config::load(&flags, Some(file.path())).expect("valid");
    assert_eq!(config.io, IoChoice::Uring);
    assert_eq!(config.shards, 2);
    assert_eq!(config.manifests, [PathBuf::from("a.yaml"), PathBuf::from("b")]);
    let origin = |key: &str| config.origins.iter().find(|o| o.0 == key).map(|o| o.2.clone()).expect("listed");
    assert_eq!(origin("io"), "flag");
    assert_eq!(origin("shards"), file.path().display().to_string());
    assert_eq!(origin("close"), "default");
}

#[test]
fn metrics_can_be_switched_off_with_and_without_quotes() {
    for text in ["metricsListen: off\n", "metricsListen: 'off'\n"] {
        let config = Config::load(&Settings::default(), Some(file(text).path())).expect("valid");
        assert_eq!(config.metrics_listen, None, "{text}");
    }
}

#[test]
fn the_dashboard_listens_on_loopback_only_and_says_why() {
    let load = |text: &str| Config::load(&Settings::default(), Some(file(text).path()));
    assert_eq!(Config::load(&Settings::default(), None).expect("valid").dashboard_listen, DashboardListen::Auto);
    assert_eq!(load("dashboardListen: off\n").expect("valid").dashboard_listen, DashboardListen::Off);
    for text in ["127.0.0.2:80", "[::1]:9750"] {
        let at = DashboardListen::At(text.parse().expect("an address"));
        assert_eq!(load(&format!("dashboardListen: '{text}'\n")).expect("valid").dashboard_listen, at);
    }
    for text in ["0.0.0.0:9750", "10.0.0.1:9750", "[::]:9750", "[::ffff:10.0.0.1]:9750"] {
        let error = load(&format!("dashboardListen: '{text}'\n")).expect_err("not loopback").to_string();
        for part in ["--dashboard-listen", text, "no address of loopback", "ssh -L 9750:127.0.0.1:9750"] {
            assert!(error.contains(part), "{error}");
        }
    }
    let error = load("dashboardListen: localhost\n").expect_err("a name").to_string();
    assert!(error.contains("nor `off` nor `auto`"), "{error}");
}

#[test]
fn the_api_over_tcp_is_off_by_default_and_names_each_missing_file() {
    let load = |text: &str| Config::load(&Settings::default(), Some(file(text).path()));
    for text in ["", "apiListen: off\n", "apiListen: 'off'\napiTlsCert: c.pem\n"] {
        assert!(load(text).expect("valid").api_listen.is_none(), "{text}");
    }
    let listen = "apiListen: 127.0.0.1:9751\n";
    let text = load(listen).expect_err("no files").to_string();
    let all = "--api-listen 127.0.0.1:9751 needs --api-tls-cert and --api-tls-key and --api-client-ca too";
    assert!(text.contains(all), "{text}");
    let text = load(&format!("{listen}apiTlsCert: c\napiClientCa: ca\n")).expect_err("no key").to_string();
    assert!(text.contains("needs --api-tls-key too"), "{text}");
    let config = load(&format!("{listen}apiTlsCert: c\napiTlsKey: k\napiClientCa: ca\n")).expect("valid");
    let api = config.api_listen.expect("on");
    assert_eq!((api.address.port(), api.files.key), (9751, PathBuf::from("k")));
    for wrong in ["on", "true", "9751", "localhost:9751", ":9751"] {
        let text = load(&format!("apiListen: '{wrong}'\n")).expect_err("no address").to_string();
        assert!(text.contains("--api-listen") && text.contains("10.0.0.1:9751") && text.contains("off"), "{text}");
    }
}

#[test]
fn commands_run_on_this_host_only_where_that_is_said() {
    let load = |text: &str| Config::load(&Settings::default(), Some(file(text).path()));
    assert!(!load("runtime: none\n").expect("valid").host_exec);
    assert!(load("hostExec: true\n").expect("valid").host_exec);
    assert_eq!(from_variable("PROBE_ENGINE_HOST_EXEC", "true").expect("valid").host_exec, Some(true));
    let text = load("hostExec: maybe\n").expect_err("no boolean").to_string();
    assert!(text.contains("--host-exec") && text.contains("maybe") && text.contains("true, false"), "{text}");
}

#[test]
fn passive_answers_are_set_in_seconds_with_and_without_quotes() {
    let text = "ebpf: off\npassive: off\npassiveMaxAgeSeconds: 1\npathRecheckMaxSeconds: 2\nearlyDetection: true\n\
                passiveAuditPerSecond: 0\n";
    let config = Config::load(&Settings::default(), Some(file(text).path())).expect("valid");
    assert_eq!(config.ebpf, EbpfChoice::Off);
    assert!(!config.passive.passive && config.passive.early_detection);
    assert_eq!(config.passive.passive_max_age, Duration::from_secs(1));
    assert_eq!(config.passive.path_recheck_max, Duration::from_secs(2));
    assert_eq!(config.passive.passive_audit_per_second, 0);
    let config = Config::load(&Settings::default(), Some(file("passive: 'on'\nebpf: require\n").path()));
    let config = config.expect("valid");
    assert!(config.passive.passive && config.ebpf == EbpfChoice::Require);
}

#[test]
fn nothing_said_is_the_default_of_passive_answers() {
    let (config, default) = (Config::load(&Settings::default(), None).expect("valid"), PassiveSettings::default());
    assert_eq!(config.ebpf, EbpfChoice::Auto);
    assert_eq!(format!("{:?}", config.passive), format!("{default:?}"));
}

#[test]
fn bounds_of_passive_answers_are_told() {
    for (name, value, allowed) in [
        ("PROBE_ENGINE_PASSIVE_MAX_AGE_SECONDS", "0", "1..=3600"),
        ("PROBE_ENGINE_PATH_RECHECK_MAX_SECONDS", "301", "1..=300"),
        ("PROBE_ENGINE_PASSIVE_AUDIT_PER_SECOND", "1001", "0..=1000"),
        ("PROBE_ENGINE_PASSIVE", "maybe", "on, off"),
        ("PROBE_ENGINE_EBPF", "on", "auto, off, require"),
    ] {
        let text = from_variable(name, value).expect_err("out of bounds").to_string();
        assert!(text.contains(name) && text.contains(value) && text.contains(allowed), "{text}");
    }
}

#[test]
fn an_unknown_key_is_an_error_with_the_nearest_name() {
    let file = file("metricListen: 127.0.0.1:1\n");
    let error = Config::load(&Settings::default(), Some(file.path())).expect_err("unknown key");
    let text = error.to_string();
    assert!(text.contains("unknown key `metricListen`; did you mean `metricsListen`?"), "{text}");
}

#[test]
fn a_key_that_was_not_written_to_its_end_is_recognised() {
    for (key, meant) in
        [("passiveMaxAge", "passiveMaxAgeSeconds"), ("crashLoopBackOffMax", "crashLoopBackOffMaxSeconds")]
    {
        let error = Config::load(&Settings::default(), Some(file(&format!("{key}: 5\n")).path()));
        let text = error.expect_err("unknown key").to_string();
        assert!(text.contains(&format!("unknown key `{key}`; did you mean `{meant}`?")), "{text}");
    }
    let text = from_variable("PROBE_ENGINE_PASSIVE_MAX_AGE", "5").expect_err("unknown").to_string();
    assert!(text.contains("did you mean `PROBE_ENGINE_PASSIVE_MAX_AGE_SECONDS`?"), "{text}");
}

#[test]
fn ebpf_takes_no_true_and_says_so_as_it_was_written() {
    let load = |text: &str| Config::load(&Settings::default(), Some(file(text).path()));
    assert_eq!(load("ebpf: false\n").expect("valid").ebpf, EbpfChoice::Off);
    let text = load("ebpf: true\n").expect_err("not a choice").to_string();
    assert!(text.contains("'true'") && text.contains("auto, off, require"), "{text}");
}

#[test]
fn the_help_of_passive_answers_tells_the_bounds_that_hold() {
    let command = Settings::augment_args(Command::new("settings"));
    for (long, bounds) in
        [("passive-max-age-seconds", PASSIVE_MAX_AGE_SECONDS), ("path-recheck-max-seconds", PATH_RECHECK_MAX_SECONDS)]
    {
        let help = command.get_arguments().find(|a| a.get_long() == Some(long)).and_then(clap::Arg::get_help);
        let text = help.expect("it has one").to_string();
        assert!(text.contains(&format!("({} to {})", bounds.start(), bounds.end())), "{text}");
    }
    let audits = command.get_arguments().find(|a| a.get_long() == Some("passive-audit-per-second"));
    let text = audits.and_then(clap::Arg::get_help).expect("it has one").to_string();
    assert!(text.contains(&format!("up to {PASSIVE_AUDIT_PER_SECOND_MAX}")), "{text}");
}

#[test]
fn a_wrong_value_names_the_setting_the_value_and_what_is_allowed() {
    let file = file("io: kqueue\n");
    let text = Config::load(&Settings::default(), Some(file.path())).expect_err("wrong value").to_string();
    assert!(text.contains("kqueue") && text.contains("--io") && text.contains("epoll"), "{text}");
    let text = from_variable("PROBE_ENGINE_SHARDS", "9").expect_err("too many").to_string();
    assert!(text.contains("PROBE_ENGINE_SHARDS") && text.contains('9') && text.contains("1..=4"), "{text}");
    let text = from_variable("PROBE_ENGINE_SHARD", "1").expect_err("unknown").to_string();
    assert!(text.contains("did you mean `PROBE_ENGINE_SHARDS`?"), "{text}");
}

#[test]
fn a_collector_s_address_is_a_url_without_a_password() {
    let read = |value: &str| from_variable("PROBE_ENGINE_OTLP_ENDPOINT", value).map(|settings| settings.otlp_endpoint);
    assert_eq!(read("http://[::1]:4317").expect("right"), Some("http://[::1]:4317".to_owned()));
    for (value, expected) in [
        ("collector:4317", "http://HOST:PORT"),
        ("grpc://collector:4317", "https://HOST:PORT"),
        ("http://", "http://HOST:PORT"),
        ("https://me:secret@collector", "OTEL_EXPORTER_OTLP_HEADERS"),
    ] {
        let text = read(value).expect_err("wrong").to_string();
        assert!(text.contains("--otlp-endpoint") && text.contains(expected), "{value}: {text}");
    }
}

#[test]
fn of_the_environment_only_settings_are_read() {
    use std::os::unix::ffi::OsStringExt;
    let variable = |name: &str, value: &[u8]| (OsString::from(name), OsString::from_vec(value.to_vec()));
    let read = |variables: Vec<(OsString, OsString)>| environment(variables.into_iter());
    let settings = read(vec![
        (OsString::from_vec(b"\xff".to_vec()), OsString::from("x")),
        variable("LANG", b"\xff"),
        variable("PROBE_ENGINE_SERVICE_HOST", b"10.0.0.1"),
        variable("PROBE_ENGINE_SERVICE_PORT_METRICS", b"9750"),
        variable("PROBE_ENGINE_PORT", b"tcp://10.0.0.1:9750"),
        variable("PROBE_ENGINE_PORT_9750_TCP_ADDR", b"10.0.0.1"),
        variable("PROBE_ENGINE_CONTAINER", b"0"),
        variable("PROBE_ENGINE_IO", b"epoll"),
        variable("PROBE_ENGINE_TYPO", b"x"),
    ]);
    let names: Vec<String> = settings.expect("text").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["PROBE_ENGINE_IO", "PROBE_ENGINE_TYPO"]);
    let text = read(vec![variable("PROBE_ENGINE_IO", b"\xff")]).expect_err("no text").to_string();
    assert!(text.contains("PROBE_ENGINE_IO") && text.contains("UTF-8"), "{text}");
}

#[test]
fn keys_are_the_flags_in_camel_case() {
    let settings = known();
    let metrics = settings.iter().find(|s| s.long == "metrics-listen").expect("there");
    assert_eq!((metrics.key.as_str(), metrics.env.as_str()), ("metricsListen", "PROBE_ENGINE_METRICS_LISTEN"));
}

#[test]
fn every_default_has_a_key_of_the_list() {
    let mut merged = BTreeMap::new();
    overlay(&mut merged, &defaults(), "default");
    for key in merged.keys() {
        assert!(long_of_key(key).is_some(), "{key}");
    }
}
