//! Keys and applications that change while the relay serves.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::{FileExt, symlink},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use clickpesa_relay::http::WEBHOOKS;

use crate::harness::{
    Answer, Connection, Directory, KEY, Process, Setup, ask, eventually, payment, request,
    signed_with,
};

/// A relay whose application has its keys in files of that directory.
fn setup(directory: &Directory, keys: &[&str]) -> Setup {
    let base = Setup::new().without("applications.default.checksum_keys.main");
    keys.iter().fold(base, |setup, id| {
        let setting = format!("applications.default.checksum_key_files.{id}");
        setup.set(&setting, &directory.path(id))
    })
}

fn post(process: &Process, secret: &str) -> Answer {
    let body = signed_with(secret, &payment("REF-1"));
    ask(process.address("http.listen"), &request("POST", WEBHOOKS, &[], &body))
}

#[track_caller]
fn assert_verifies(process: &Process, secrets: &[(&str, bool)]) {
    for (secret, verifies) in secrets {
        let status = if *verifies { 200 } else { 401 };
        assert_eq!(post(process, secret).status, status, "{secret}");
    }
}

fn reloads(process: &Process, outcome: &str) -> f64 {
    process.samples().sum("settings_reloads_total", &[&format!("outcome=\"{outcome}\"")])
}

#[track_caller]
fn await_reloads(process: &Process, outcome: &str, count: f64) {
    eventually(&format!("{count} reloads are {outcome}"), || {
        (reloads(process, outcome) >= count).then_some(())
    });
}

#[test]
fn a_key_file_that_changes_is_read_again() {
    let directory = Directory::new();
    directory.put("main", "first\n");
    let process = Process::serve_ready(&setup(&directory, &["main"]));
    assert_verifies(&process, &[("first", true), ("second", false)]);
    directory.put("main", "second\n");
    await_reloads(&process, "applied", 1.0);
    assert_verifies(&process, &[("first", false), ("second", true)]);
    // In place, too.
    fs::write(directory.0.join("main"), "third").unwrap();
    await_reloads(&process, "applied", 2.0);
    assert_verifies(&process, &[("second", false), ("third", true)]);
    process.await_line("the log says so", |line| {
        line["message"] == "the applications were read again, and are in force" && line["keys"] == 1
    });
}

#[test]
fn a_signal_has_them_read_at_once() {
    let directory = Directory::new();
    directory.put("main", "first");
    let process = Process::serve_ready(&setup(&directory, &["main"]));
    directory.put("main", "second");
    process.signal("HUP");
    await_reloads(&process, "applied", 1.0);
    assert_verifies(&process, &[("first", false), ("second", true)]);
}

/// As Kubernetes mounts a secret: links to a link to a directory, which is swapped.
#[test]
fn a_mounted_secret_that_is_swapped_is_read_again() {
    let directory = Directory::new();
    let version = |name: &str, secret: &str| {
        fs::create_dir(directory.0.join(name)).unwrap();
        fs::write(directory.0.join(name).join("main"), secret).unwrap();
        symlink(name, directory.0.join("..data.new")).unwrap();
        fs::rename(directory.0.join("..data.new"), directory.0.join("..data")).unwrap();
    };
    version("..2026_01_01", "first");
    symlink("..data/main", directory.0.join("main")).unwrap();
    let process = Process::serve_ready(&setup(&directory, &["main"]));
    assert_verifies(&process, &[("first", true)]);
    version("..2026_02_02", "second");
    fs::remove_dir_all(directory.0.join("..2026_01_01")).unwrap();
    await_reloads(&process, "applied", 1.0);
    assert_verifies(&process, &[("first", false), ("second", true)]);
}

#[test]
fn a_key_is_rotated_with_an_overlap_that_metrics_show() {
    let directory = Directory::new();
    directory.put("old", "first");
    directory.put("new", "second");
    let process = Process::serve_ready(&setup(&directory, &["old", "new"]));
    assert_verifies(&process, &[("first", true), ("second", true)]);
    let last = |key: &str| {
        let label = format!("key=\"{key}\"");
        let name = "checksum_key_last_verified_timestamp_seconds";
        process.samples().sum(name, &["application=\"default\"", &label])
    };
    let old = last("old");
    assert!(old > 1_700_000_000.0, "{old}");
    eventually("the new key verified later", || {
        assert_verifies(&process, &[("second", true)]);
        (last("new") > old).then_some(())
    });
    assert_eq!(last("old"), old, "it is no longer used: it may go");
    let verified = |key: &str| process.samples().sum("verified_total", &[key]);
    assert_eq!(verified("key=\"old\""), 1.0);
}

#[test]
fn bad_new_keys_leave_the_old_ones_in_force() {
    let directory = Directory::new();
    directory.put("main", "first");
    directory.put("other", "also");
    let process = Process::serve_ready(&setup(&directory, &["main", "other"]));
    type Act = fn(&Directory);
    let bad: [(&str, Act); 3] = [
        ("is empty", |directory| directory.put("main", "")),
        ("cannot be read", |directory| fs::remove_file(directory.0.join("main")).unwrap()),
        ("UTF-8", |directory| fs::write(directory.0.join("main"), b"\xff\xfe").unwrap()),
    ];
    // A good one beside it does not count either: all or nothing.
    directory.put("other", "changed");
    for ((words, act), count) in bad.into_iter().zip(1u8..) {
        act(&directory);
        process.signal("HUP");
        await_reloads(&process, "refused", f64::from(count));
        assert_verifies(&process, &[("first", true), ("also", true), ("changed", false)]);
        let path = directory.path("main");
        process.await_line(words, |line| {
            let message = line["message"].as_str().unwrap_or_default();
            message.contains("stay as they were")
                && message.contains(words)
                && message.contains(&path)
                && line["level"] == "ERROR"
        });
    }
    assert_eq!(reloads(&process, "applied"), 0.0);
    directory.put("main", "second");
    process.signal("HUP");
    await_reloads(&process, "applied", 1.0);
    assert_verifies(&process, &[("second", true), ("changed", true), ("first", false)]);
}

#[test]
fn applications_come_and_go_with_the_file_of_settings() {
    let directory = Directory::new();
    let application =
        |name: &str| format!("[applications.{name}]\nchecksum_keys.main = \"{name}\"\n");
    directory.put("relay.toml", &application("shop"));
    let setup = Setup::new().without("applications.default.checksum_keys.main");
    let file = directory.path("relay.toml");
    let process = Process::start(&setup, &["--config", &file]);
    process.await_line("it is ready", |line| line["message"] == "ready");
    let status = |name: &str| {
        let path = format!("{WEBHOOKS}/{name}");
        let body = signed_with(name, &payment("REF-1"));
        ask(process.address("http.listen"), &request("POST", &path, &[], &body)).status
    };
    assert_eq!((status("shop"), status("till")), (200, 404));
    directory.put("relay.toml", &[application("till"), application("stall")].concat());
    await_reloads(&process, "applied", 1.0);
    assert_eq!((status("shop"), status("till"), status("stall")), (404, 200, 200));

    // What needs new topics, or is no setting of an application, is said and does not count.
    let topics = format!("{}topics_prefix = \"new.\"\n", application("till"));
    directory.put("relay.toml", &topics);
    await_reloads(&process, "refused", 1.0);
    process.await_line("it says why", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("that needs a restart"))
    });
    assert_eq!(status("stall"), 200);
    let other = format!("http.events_max = 7\n{}", application("till"));
    directory.put("relay.toml", &other);
    await_reloads(&process, "applied", 2.0);
    assert_eq!(status("stall"), 404);
    process.await_line("it is said", |line| line["setting"] == "http.events_max");
}

#[test]
fn no_request_is_judged_by_half_a_set() {
    let directory = Directory::new();
    directory.put("stays", "stays");
    directory.put("changes", "a");
    let process = Process::serve_ready(&setup(&directory, &["stays", "changes"]));
    let address = process.address("http.listen");
    // Each element with a key of another set: there is no set that has both.
    let mixed = {
        let signed = |secret, reference| {
            String::from_utf8(signed_with(secret, &payment(reference))).unwrap()
        };
        format!("[{},{}]", signed("a", "REF-A"), signed("b", "REF-B"))
    };
    let (go_on, count) = (AtomicBool::new(true), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = Connection::open(address);
                while go_on.load(Ordering::Relaxed) {
                    let good = signed_with("stays", &payment("REF-S"));
                    for (body, status) in [(&good[..], 200), (mixed.as_bytes(), 401)] {
                        assert!(connection.send(&request("POST", WEBHOOKS, &[], body)));
                        assert_eq!(connection.answer().status, status);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut number = 0;
        while number < 20 || count.load(Ordering::Relaxed) < 2000 {
            number += 1;
            directory.put("changes", if number % 2 == 1 { "b" } else { "a" });
            process.signal("HUP");
            await_reloads(&process, "applied", f64::from(number));
        }
        go_on.store(false, Ordering::Relaxed);
    });
    process.samples().assert_balanced();
}

// --- Where a secret may be --------------------------------------------------------------

/// Every place in a process's memory where some bytes stand.
fn count_in_memory(process: u32, bytes: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut count = 0;
    let mut read = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] =
            [range.0, range.1].map(|number| u64::from_str_radix(number, 16).unwrap());
        let mut content = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut content, start).is_ok() {
            read += content.len();
            count += content.windows(bytes.len()).filter(|window| *window == bytes).count();
        }
    }
    assert!(read > 1 << 20, "only {read} bytes could be read");
    count
}

#[test]
fn a_secret_from_a_file_is_nowhere_in_memory() {
    let directory = Directory::new();
    let (first, second) = ("hunter2-in-a-file-of-its-own", "another-one-that-nobody-knows");
    directory.put("main", first);
    let process = Process::serve_ready(&setup(&directory, &["main"]));
    assert_verifies(&process, &[(first, true)]);
    directory.put("main", second);
    await_reloads(&process, "applied", 1.0);
    assert_verifies(&process, &[(second, true)]);
    // That it would be found: this is in the memory of every relay.
    assert!(count_in_memory(process.id(), b"checksum_key_files") > 0);
    for secret in [first, second] {
        assert_eq!(count_in_memory(process.id(), secret.as_bytes()), 0, "{secret}");
    }
    for name in ["cmdline", "environ"] {
        let mut text = Vec::new();
        let file = format!("/proc/{}/{name}", process.id());
        fs::File::open(file).unwrap().read_to_end(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(first) && !text.contains(second), "{name}");
    }
    let known: BTreeSet<_> =
        process.lines().into_iter().filter(|line| line.contains(KEY)).collect();
    assert!(known.is_empty(), "{known:?}");
}
