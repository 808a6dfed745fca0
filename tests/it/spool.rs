//! The spool: what it promises, and what it does when its disk does not do what it should.

mod power;
mod support;

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use clickpesa_relay::{
    metrics::Metrics,
    spool::{Busy, OpenError, Salvage, Spool, SpoolError, Spooled, View},
};
use futures_util::future::join_all;
use serde_json::Value;

use self::support::{
    DIRECTORY, Driven, MAX_BYTES, TOPIC, append, block_on, close, do_as_told, log_of, numbers,
    oldest, open, record,
};
use crate::harness::{Directory, eventually, provided, run};

/// Does nothing, but in a process that another test has started.
#[test]
#[allow(clippy::disallowed_methods, reason = "a switch of the tests, and no setting of the relay")]
fn does_as_it_is_told() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        do_as_told(Path::new(&directory));
    }
}

// --- Promises -------------------------------------------------------------------------

#[test]
fn what_was_appended_is_there_after_a_kill() {
    let directory = Directory::new();
    let mut driven = Driven::start(&[], &directory.spool(), &[]);
    assert_eq!(driven.answer(), "open");
    for number in 1..=20 {
        assert_eq!(driven.ask(&format!("append {number}")), format!("ok {number}"));
    }
    driven.kill();
    let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
    assert_eq!(numbers(&spool), (1..=20).collect::<Vec<_>>());
    assert_eq!(spool.store().count(TOPIC), 20);
    assert_eq!(metrics.spool_events.get(), 20);
    assert!(spool.store().holds(TOPIC, "key-3"));
    assert_eq!(spool.store().topics(), [TOPIC]);
}

/// What is in it is customers' data.
#[test]
fn it_is_for_its_owner_alone() {
    let directory = Directory::new();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(append(&spool, [0]));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&directory.spool()), 0o700);
    for ending in ["", "-wal", "-shm"] {
        let file = directory.spool().join(format!("spool.sqlite{ending}"));
        assert_eq!(mode(&file), 0o600, "{ending}");
    }
}

#[test]
fn what_waits_together_is_committed_together() {
    let directory = Directory::new();
    let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(async {
        append(&spool, [0]).await;
        let before = metrics.spool_commit_seconds.get_sample_count();
        let appended =
            join_all((1..=400).map(|number| spool.append([record(number)].into()))).await;
        assert!(appended.iter().all(Result::is_ok));
        let commits = metrics.spool_commit_seconds.get_sample_count() - before;
        assert!(commits <= 20, "{commits} commits of 400 appends");
    });
    assert_eq!(numbers(&spool), (0..=400).collect::<Vec<_>>(), "the order of the calls");
}

#[test]
fn topics_are_apart_and_each_in_order() {
    let directory = Directory::new();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(async {
        for number in 0..30 {
            let mut other = record(number);
            "payouts".clone_into(&mut other.topic);
            spool.append([record(number), other].into()).await.unwrap();
        }
    });
    for topic in [TOPIC, "payouts"] {
        let read = oldest(&spool, topic, 20);
        let ids: Vec<_> = read.iter().map(|spooled| spooled.record.id().unwrap()).collect();
        assert_eq!(ids, (0..20).map(|number| format!("event-{number}")).collect::<Vec<_>>());
        assert!(read.iter().all(|spooled| spooled.record.topic == topic));
        assert_eq!(spool.store().count(topic), 30);
    }
}

#[test]
fn the_oldest_of_each_free_key_is_read() {
    let directory = Directory::in_memory();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    let read = |resting: &[&str], under_way: &[&str], limit| {
        let [resting, under_way] =
            [resting, under_way].map(|keys| keys.iter().map(|key| (*key).to_owned()).collect());
        let entries = spool.store().read(TOPIC, &Busy { resting, under_way }, limit).unwrap();
        entries.iter().map(|spooled| support::number(&spooled.record)).collect::<Vec<_>>()
    };
    // Ten keys, in turns.
    block_on(append(&spool, 0..100));
    assert_eq!(read(&[], &[], 100), (0..10).collect::<Vec<_>>());
    assert_eq!(read(&[], &[], 3), [0, 1, 2]);
    assert_eq!(read(&["key-0"], &["key-2", "key-3"], 3), [1, 4, 5]);
    // What is removed is not read again, and the next of its key is.
    drop(spool.store().remove(&oldest(&spool, TOPIC, 2)));
    assert_eq!(read(&[], &[], 3), [2, 3, 4]);
    assert_eq!(read(&[], &[], 100)[8..], [10, 11]);
    // A key that rests keeps nobody waiting, however many entries it has before them.
    block_on(append(&spool, (10..2000).map(|number| number * 10)));
    block_on(append(&spool, [100_001]));
    let all_but_one: Vec<_> = (2..10).map(|number| format!("key-{number}")).collect();
    let all_but_one: Vec<_> = all_but_one.iter().map(String::as_str).collect();
    assert_eq!(read(&["key-0"], &all_but_one, 10), [11]);
    let of_key_1: Vec<_> =
        oldest(&spool, TOPIC, 100).into_iter().filter(|each| each.record.key == "key-1").collect();
    drop(spool.store().remove(&of_key_1));
    assert_eq!(read(&["key-0"], &all_but_one, 10), [100_001]);
}

#[test]
fn the_newest_that_is_alone_of_its_key_is_read() {
    let directory = Directory::in_memory();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    let newest = |but: &[&str]| {
        let but: Vec<_> = but.iter().map(|key| (*key).to_owned()).collect();
        let newest = spool.store().read_newest(TOPIC, &but).unwrap();
        newest.map(|spooled| support::number(&spooled.record))
    };
    assert_eq!(newest(&[]), None);
    // Ten keys, twice.
    block_on(append(&spool, 0..20));
    assert_eq!(newest(&[]), None);
    drop(spool.store().remove(&oldest(&spool, TOPIC, 9)));
    assert_eq!(newest(&[]), Some(18));
    assert_eq!(newest(&["key-8", "key-6"]), Some(17));
}

#[test]
fn a_key_is_held_until_its_last_entry_is_removed() {
    let directory = Directory::new();
    let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(async {
        append(&spool, [1, 11, 2]).await;
        assert!(spool.store().holds(TOPIC, "key-1"));
        assert!(!spool.store().holds("payouts", "key-1"), "of another topic");
        let first = oldest(&spool, TOPIC, 1);
        assert!(spool.store().remove(&first).await);
        assert!(spool.store().holds(TOPIC, "key-1"), "a second entry has it");
        assert!(spool.store().remove(&oldest(&spool, TOPIC, 1)).await);
        assert!(!spool.store().holds(TOPIC, "key-1"));
        assert_eq!((spool.store().count(TOPIC), metrics.spool_events.get()), (1, 1));
        assert!(spool.store().remove(&oldest(&spool, TOPIC, 1)).await);
    });
    assert_eq!((spool.store().count(TOPIC), metrics.spool_events.get()), (0, 0));
    assert_eq!(numbers(&spool), Vec::<u64>::new());
}

#[test]
fn a_later_entry_has_a_later_place_though_all_are_removed() {
    let directory = Directory::new();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(append(&spool, [1]));
    let first = oldest(&spool, TOPIC, 1);
    assert!(block_on(spool.store().remove(&first)));
    close(spool, &directory.spool());
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(append(&spool, [2]));
    assert!(oldest(&spool, TOPIC, 1)[0].sequence > first[0].sequence);
}

#[test]
fn a_second_process_is_refused_by_name() {
    let directory = Directory::new();
    let mut driven = Driven::start(&[], &directory.spool(), &[]);
    assert_eq!(driven.answer(), "open");
    let error = Spool::open(&directory.spool(), MAX_BYTES, &Arc::default()).unwrap_err();
    let OpenError::InUse { holder, .. } = &error else { panic!("{error}") };
    assert_eq!(*holder, driven.pid().to_string());
    let said = error.to_string();
    assert!(said.contains(&format!("in use by process {holder}; give every relay")), "{said}");
    assert_eq!(driven.ask("append 1"), "ok 1", "the holder is not disturbed");
    driven.end();
    open(&directory.spool(), MAX_BYTES);
}

#[test]
fn a_second_instance_in_a_process_is_refused() {
    let directory = Directory::new();
    let (_spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    let error = Spool::open(&directory.spool(), MAX_BYTES, &Arc::default()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

// --- The limit ------------------------------------------------------------------------

#[test]
fn the_limit_is_kept_told_and_left_by_removing() {
    const LIMIT: u64 = 16 << 20;
    let directory = Directory::in_memory();
    let (spool, metrics) = open(&directory.spool(), LIMIT);
    assert!(spool.store().has_room());
    let mut appended = 0;
    let mut room_ended_at = None;
    block_on(async {
        loop {
            match spool.append((0..20).map(|more| record(appended + more)).collect()).await {
                Ok(()) => appended += 20,
                Err(error) => break assert_eq!(error, SpoolError::Full),
            }
            if !spool.store().has_room() {
                room_ended_at.get_or_insert(appended);
            }
        }
        let room_ended_at = room_ended_at.expect("it is said before the first is refused");
        assert!(room_ended_at < appended);
        assert_eq!(metrics.spool_errors.get(), 1);
        assert!(metrics.spool_bytes.get() > metrics.spool_bytes_max.get() / 10 * 9);
        assert!(bytes_on_disk(&directory.spool()) <= LIMIT);
        assert_eq!(spool.store().count(TOPIC) as u64, appended, "what was refused is not counted");
        assert_eq!(numbers(&spool), (0..appended).collect::<Vec<_>>());

        // What is refused and what goes may come in one commit: the one does not hinder the other.
        let first = oldest(&spool, TOPIC, 300);
        let one_too_large = vec![record(5); 3000];
        let store = spool.store();
        let (refused, removed) =
            tokio::join!(spool.append(one_too_large.into()), async { store.remove(&first).await });
        assert_eq!((refused, removed), (Err(SpoolError::Full), true));
        while !spool.store().has_room() {
            assert!(spool.store().remove(&oldest(&spool, TOPIC, 300)).await);
        }
        append(&spool, [appended]).await;
    });
    close(spool, &directory.spool());
    let (spool, _metrics) = open(&directory.spool(), LIMIT);
    assert!(spool.store().has_room(), "the file is as long as it was, but it holds less");
}

fn bytes_on_disk(directory: &Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

// --- Damage ---------------------------------------------------------------------------

/// What is done to the files of a spool of which everything is in the database (`is_closed`) or
/// the newest is in its log; and how many of its 300 entries are got back at least.
struct Damage {
    name: &'static str,
    is_closed: bool,
    act: fn(&Path, &Path),
    got_back_min: u64,
}

const DAMAGES: [Damage; 8] = [
    Damage {
        name: "the header overwritten",
        is_closed: true,
        act: |file, _| overwrite(file, 0, &[0x5a; 100]),
        got_back_min: 300,
    },
    Damage {
        name: "the first page overwritten",
        is_closed: true,
        act: |file, _| overwrite(file, 0, &[0x5a; 4096]),
        got_back_min: 300,
    },
    Damage {
        name: "a page flipped in the middle",
        is_closed: true,
        act: |file, _| {
            let page = fs::metadata(file).unwrap().len() / 4096 / 2;
            let mut bytes = [0; 4096];
            let opened = fs::File::open(file).unwrap();
            opened.read_exact_at(&mut bytes, page * 4096).unwrap();
            overwrite(file, page * 4096, &bytes.map(|byte| !byte));
        },
        got_back_min: 270,
    },
    Damage {
        name: "the file truncated",
        is_closed: true,
        act: |file, _| truncate(file, fs::metadata(file).unwrap().len() / 2 + 100),
        got_back_min: 100,
    },
    Damage {
        name: "the file emptied, the log there",
        is_closed: false,
        act: |file, _| truncate(file, 0),
        got_back_min: 1,
    },
    Damage {
        name: "the log all garbage",
        is_closed: false,
        act: |_, log| {
            let length = usize::try_from(fs::metadata(log).unwrap().len()).unwrap();
            overwrite(log, 0, &vec![0x5a; length]);
        },
        // Those that had gone from the log into the database.
        got_back_min: 1,
    },
    Damage {
        name: "the header of the log overwritten",
        is_closed: false,
        act: |_, log| overwrite(log, 0, &[0x5a; 32]),
        got_back_min: 300,
    },
    Damage {
        name: "a page flipped in the middle of the log",
        is_closed: false,
        act: |_, log| overwrite(log, 32 + 20 * 4120 + 2000, &[0x5a; 512]),
        got_back_min: 270,
    },
];

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

fn truncate(file: &Path, length: u64) {
    fs::File::options().write(true).open(file).unwrap().set_len(length).unwrap();
}

#[test]
fn a_damaged_file_is_set_aside_and_read_as_far_as_can_be() {
    DAMAGES.iter().for_each(check_damage);
}

fn check_damage(damage: &Damage) {
    let name = damage.name;
    let directory = Directory::in_memory();
    let path = directory.spool();
    let mut driven = Driven::start(&[], &path, &[]);
    assert_eq!(driven.answer(), "open");
    for number in 0..300 {
        assert_eq!(driven.ask(&format!("append {number}")), format!("ok {number}"));
    }
    if damage.is_closed {
        driven.end();
    } else {
        driven.kill();
    }
    let log = path.join("spool.sqlite-wal");
    if damage.is_closed {
        eventually("the log is copied back", || fs::metadata(&log).is_err().then_some(()));
    }
    (damage.act)(&path.join("spool.sqlite"), &log);

    // The relay goes on with a fresh one, and is not silent about it.
    let mut driven = Driven::start(&[], &path, &[]);
    assert_eq!(driven.answer(), "open", "{name}");
    let said = fs::read_to_string(log_of(&path)).unwrap();
    assert!(said.contains("ERROR") && said.contains("the spool was damaged"), "{name}: {said}");
    assert_eq!(driven.ask("read"), "[]", "{name}");
    assert_eq!(driven.ask("append 1000"), "ok 1000", "{name}");
    let view = View::open(&path).unwrap();
    let damaged = view.damaged().unwrap();
    let [file] = &damaged[..] else { panic!("{name}: {damaged:?}") };
    assert!(said.contains(&file.display().to_string()), "{name}: {said}");
    let before = fs::read(file).unwrap();

    // While it has the spool, nobody else puts anything there.
    let refused = relay(&path, &["spool", "recover", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "{name}");
    let holder = driven.pid().to_string();
    assert!(text(&refused.stderr).contains(&format!("in use by process {holder}")), "{name}");
    driven.end();

    let recover = || relay(&path, &["spool", "recover", "--json", file.to_str().unwrap()]);
    let first = recover();
    assert!(first.status.success(), "{name}: {}", text(&first.stderr));
    let sum: Value = serde_json::from_slice(&first.stdout).unwrap();
    let got_back = sum["appended"].as_u64().unwrap();
    println!("{name}: {sum}");
    assert!(got_back >= damage.got_back_min, "{name}: {sum}");
    assert!(got_back + sum["unreadable"].as_u64().unwrap() >= damage.got_back_min, "{name}: {sum}");
    let (spool, metrics) = open(&path, MAX_BYTES);
    let waiting = numbers(&spool);
    assert_eq!(waiting[0], 1000, "{name}: what is recovered goes behind");
    assert!(waiting[1..].is_sorted() && waiting.len() as u64 == got_back + 1, "{name}");
    assert_eq!(metrics.spool_damaged.get(), 0, "{name}: it was told of once");

    // Again, from the library: nothing twice, and the file is as it was.
    let again = block_on(spool.salvage(file)).unwrap();
    assert_eq!((again.appended, again.present), (0, got_back), "{name}");
    assert_eq!(numbers(&spool), waiting, "{name}");
    assert_eq!(fs::read(file).unwrap(), before, "{name}");
}

/// A spool of 300 in its log and its database, and what is done to it while it is used.
fn damaged_in_use(act: fn(&Path)) -> (Directory, Arc<Spool>, Arc<Metrics>) {
    let directory = Directory::in_memory();
    let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(append(&spool, 0..300));
    act(&directory.spool());
    (directory, spool, metrics)
}

#[test]
fn a_file_damaged_in_use_makes_way_for_another() {
    let garbage = |spool: &Path| {
        for name in ["spool.sqlite", "spool.sqlite-wal"] {
            let file = spool.join(name);
            let length = usize::try_from(fs::metadata(&file).unwrap().len()).unwrap();
            overwrite(&file, 4096, &vec![0x5a; length - 4096]);
        }
    };
    let (directory, spool, metrics) = damaged_in_use(garbage);
    let old = spool.store();
    block_on(async {
        // Whoever finds it first: the reader here, or the writer.
        assert!(old.read(TOPIC, &Busy::default(), 10).is_err());
        assert!(old.is_damaged());
        let new = spool.replace(Arc::clone(&old)).await.unwrap();
        assert!(Arc::ptr_eq(&new, &spool.replace(Arc::clone(&old)).await.unwrap()), "once");
        append(&spool, 300..310).await;
    });
    assert_eq!(numbers(&spool), (300..310).collect::<Vec<_>>());
    assert_eq!(metrics.spool_damaged.get(), 1);
    let damaged = View::open(&directory.spool()).unwrap().damaged().unwrap();
    assert_eq!(damaged.len(), 1);
    let log = format!("{}-wal", damaged[0].display());
    assert!(fs::metadata(log).unwrap().len() > 300 * 100, "nothing is emptied");
    // What is done late to the old one is nothing to the new one.
    let late = [Spooled { sequence: 1, record: record(300) }];
    assert!(!block_on(old.remove(&late)));
    assert_eq!(spool.store().count(TOPIC), 10);
    drop(old);
    assert_eq!(metrics.spool_events.get(), 10);
    close(spool, &directory.spool());
    assert_eq!(numbers(&open(&directory.spool(), MAX_BYTES).0), (300..310).collect::<Vec<_>>());
}

/// What was damaged in use is set aside, and got back behind what came since.
#[track_caller]
fn assert_got_back(spool: &Arc<Spool>, expected: &[u64]) {
    let mut salvaged = Salvage::default();
    while let Some(file) = spool.take_aside() {
        let more = block_on(spool.salvage(&file)).unwrap();
        salvaged.appended += more.appended;
        salvaged.unreadable += more.unreadable;
    }
    assert_eq!((salvaged.appended, salvaged.unreadable), (expected.len() as u64, 0));
    let waiting = numbers(spool);
    assert_eq!(waiting[waiting.len() - expected.len()..], *expected);
}

#[test]
fn what_is_appended_to_a_deleted_file_is_in_another() {
    let delete_database = |spool: &Path| fs::remove_file(spool.join("spool.sqlite")).unwrap();
    let replace = |spool: &Path| {
        let foreign = spool.join("foreign");
        fs::write(&foreign, "").unwrap();
        fs::rename(foreign, spool.join("spool.sqlite")).unwrap();
    };
    let delete_all = |spool: &Path| fs::remove_dir_all(spool).unwrap();
    let delete_log = |spool: &Path| fs::remove_file(spool.join("spool.sqlite-wal")).unwrap();
    for act in [delete_database, replace, delete_all, delete_log] {
        let (directory, spool, metrics) = damaged_in_use(act);
        block_on(append(&spool, 300..310));
        assert!(metrics.spool_damaged.get() > 0, "told of");
        assert_eq!(numbers(&spool), (300..310).collect::<Vec<_>>());
        assert_got_back(&spool, &(0..300).collect::<Vec<_>>());
        let refused = Spool::open(&directory.spool(), MAX_BYTES, &Arc::default());
        assert!(matches!(refused, Err(OpenError::InUse { .. })), "the new directory is locked too");
        drop(spool);
        eventually("it has let go of it", || {
            fs::File::open(directory.spool().join("lock")).unwrap().try_lock().ok()
        });
        let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
        assert_eq!(numbers(&spool), [300..310, 0..300].into_iter().flatten().collect::<Vec<_>>());
        assert_eq!(metrics.spool_damaged.get(), 0);
    }
}

#[test]
fn an_entry_that_has_changed_is_not_read() {
    // SQLite knows nothing of what is in a column.
    let changes = [
        "value = CAST(replace(value, 'number', 'numbes') AS BLOB)",
        "headers = replace(headers, 'event-3', 'event-4')",
        "headers = 'x'",
        "timestamp_ms = timestamp_ms + 1",
        "key = 'key-4'",
        "key = CAST(x'ff' AS TEXT)",
        "topic = CAST(x'ff' AS TEXT)",
    ];
    for change in changes {
        let directory = Directory::in_memory();
        let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
        block_on(append(&spool, 0..100));
        close(spool, &directory.spool());
        let file = rusqlite::Connection::open(directory.spool().join("spool.sqlite")).unwrap();
        let change = format!("UPDATE event SET {change} WHERE sequence = 4");
        assert_eq!(file.execute(&change, []).unwrap(), 1);
        drop(file);

        let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
        let store = spool.store();
        if store.read(TOPIC, &Busy::default(), 10).is_err() {
            assert!(store.is_damaged(), "{change}");
            block_on(spool.replace(store)).unwrap();
        }
        assert_eq!(metrics.spool_damaged.get(), 1, "{change}");
        let salvage = block_on(spool.salvage(&spool.take_aside().unwrap())).unwrap();
        assert_eq!((salvage.appended, salvage.unreadable), (99, 1), "{change}");
        let rest: Vec<_> = (0..100).filter(|number| *number != 3).collect();
        assert_eq!(numbers(&spool), rest, "{change}");
    }
}

#[test]
fn a_damaged_page_costs_what_is_in_it() {
    let directory = Directory::in_memory();
    let sound = directory.0.join("sound");
    let (spool, _metrics) = open(&sound, MAX_BYTES);
    block_on(append(&spool, 0..300));
    close(spool, &sound);
    let bytes = fs::read(sound.join("spool.sqlite")).unwrap();
    // The second page is the root of the table: without it, nothing says where the others are.
    for page in (0..bytes.len() / 4096).filter(|page| *page != 1) {
        let file = directory.0.join("damaged");
        let mut damaged = bytes.clone();
        damaged[page * 4096..][..4096].iter_mut().for_each(|byte| *byte = !*byte);
        fs::write(&file, damaged).unwrap();
        let other = directory.0.join(format!("other-{page}"));
        let (spool, _metrics) = open(&other, MAX_BYTES);
        let Salvage { appended, unreadable, .. } = block_on(spool.salvage(&file)).unwrap();
        assert!(appended > 260, "page {page}: {appended} of 300");
        assert_eq!(appended + unreadable, 300, "page {page}");
        assert_eq!(numbers(&spool).len() as u64, appended, "page {page}");
    }
}

#[test]
fn a_damaged_spool_is_counted() {
    let directory = Directory::in_memory();
    fs::create_dir(directory.spool()).unwrap();
    fs::write(directory.spool().join("spool.sqlite"), [0x5a; 5000]).unwrap();
    let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
    assert_eq!(metrics.spool_damaged.get(), 1);
    let damaged = View::open(&directory.spool()).unwrap().damaged().unwrap();
    assert_eq!(block_on(spool.salvage(&damaged[0])).unwrap().appended, 0);
    let missing = directory.0.join("missing");
    let error = block_on(spool.salvage(&missing)).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
}

#[test]
fn what_is_sound_is_salvaged_whole() {
    let directory = Directory::in_memory();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(append(&spool, 0..700));
    // With most of it still in its log.
    let copy = directory.0.join("copy");
    fs::copy(directory.spool().join("spool.sqlite"), &copy).unwrap();
    fs::copy(directory.spool().join("spool.sqlite-wal"), directory.0.join("copy-wal")).unwrap();
    let (other, _metrics) = open(&directory.0.join("other"), MAX_BYTES);
    let salvage = block_on(other.salvage(&copy)).unwrap();
    assert_eq!(salvage, Salvage { appended: 700, present: 0, unreadable: 0 });
    assert_eq!(numbers(&other), (0..700).collect::<Vec<_>>());
}

#[test]
fn what_was_not_got_back_is_tried_again_at_the_next_start() {
    let directory = Directory::new();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    block_on(append(&spool, 0..10));
    close(spool, &directory.spool());
    let aside = "spool.sqlite.damaged-20260101T000000.000000Z";
    fs::rename(directory.spool().join("spool.sqlite"), directory.spool().join(aside)).unwrap();
    // It ends before it has come to it.
    close(open(&directory.spool(), MAX_BYTES).0, &directory.spool());

    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    assert_got_back(&spool, &(0..10).collect::<Vec<_>>());
    close(spool, &directory.spool());
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    assert_eq!(spool.take_aside(), None);
    let view = View::open(&directory.spool()).unwrap();
    assert_eq!(view.damaged().unwrap(), [directory.spool().join(aside)]);
}

#[test]
fn who_looks_into_the_file_leaves_its_log() {
    let directory = Directory::new();
    let mut driven = Driven::start(&[], &directory.spool(), &[]);
    assert_eq!(driven.answer(), "open");
    assert_eq!(driven.ask("append 1"), "ok 1");
    // As an operator's `sqlite3` does. Who is the last to close a database ends its log.
    let look = "import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
print(file.execute('SELECT count(*) FROM event').fetchone()[0])
file.close()";
    let mut python = Command::new(provided("RELAY_TEST_PYTHON"));
    let file = directory.spool().join("spool.sqlite");
    let count = run(python.args(["-c", look]).arg(file), "");
    assert_eq!(count.trim(), "1");
    assert!(directory.spool().join("spool.sqlite-wal").exists());
    assert_eq!(driven.ask("append 2"), "ok 2");
    driven.kill();
    let (spool, metrics) = open(&directory.spool(), MAX_BYTES);
    assert_eq!(numbers(&spool), [1, 2]);
    assert_eq!(metrics.spool_damaged.get(), 0);
}

// --- Disks that fail ------------------------------------------------------------------

/// Makes calls on the spool's files fail while a file says so.
struct Faults {
    library: PathBuf,
    file: PathBuf,
}

impl Faults {
    fn new(directory: &Directory) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty_disk.c");
        let library = directory.0.join("faulty_disk.so");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .expect("cc is there: it has compiled SQLite");
        assert!(compiled.status.success(), "{}", text(&compiled.stderr));
        Self { library, file: directory.0.join("faults") }
    }

    fn start(&self, spool: &Path) -> Driven {
        let environment = [("LD_PRELOAD", &*self.library), ("RELAY_TEST_FAULTS", &*self.file)];
        let mut driven = Driven::start(&[], spool, &environment);
        assert_eq!(driven.answer(), "open");
        driven
    }

    /// Lets calls fail from now on, such as `fdatasync EIO`; or none.
    fn set(&self, faults: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, faults).unwrap();
        fs::rename(new, &self.file).unwrap();
    }
}

/// Faults, and what the log must say of them.
const FAULTS: [(&str, &str); 5] = [
    ("sync EIO", "disk I/O error"),
    ("write EIO", "disk I/O error"),
    ("write ENOSPC", "disk is full"),
    ("sync ENOSPC", "disk I/O error"),
    ("write EROFS\nopen EROFS\nsync EROFS\n", "read"),
];

#[test]
fn a_failing_disk_is_never_believed_and_found_well_again() {
    for (faults, said) in FAULTS {
        check_faults(faults, said);
    }
}

fn check_faults(fault: &str, said: &str) {
    let directory = Directory::new();
    let path = directory.spool();
    let faults = Faults::new(&directory);
    let mut driven = faults.start(&path);
    assert_eq!(driven.ask("append 1"), "ok 1");
    assert_eq!(driven.ask("append 2"), "ok 2");
    faults.set(fault);
    for number in 3..6 {
        let answer = driven.ask(&format!("append {number}"));
        assert_eq!(answer, format!("unwritable {number}"), "{fault}");
    }
    assert_eq!(driven.ask("room"), "false", "{fault}");
    assert_eq!(driven.ask("read"), "[1, 2]", "{fault}: nothing of the failed commits is believed");
    let log = fs::read_to_string(log_of(&path)).unwrap();
    assert!(log.contains("cannot write the spool") && log.contains(said), "{fault}: {log}");
    assert!(log.lines().count() <= 4, "{fault}: once, not for every commit: {log}");
    // What Kafka has is not deleted now, and is later, though nobody asks again.
    assert_eq!(driven.ask("remove 1"), "removing 1", "{fault}");
    assert_eq!(driven.answer(), "removed false", "{fault}");

    // Nothing is asked of it, and yet it finds out that it is well.
    faults.set("");
    eventually("it is well again", || (driven.ask("room") == "true").then_some(()));
    assert_eq!(driven.ask("read"), "[2]", "{fault}");
    assert_eq!(driven.ask("append 6"), "ok 6", "{fault}");
    eventually("the log says so", || {
        let log = fs::read_to_string(log_of(&path)).unwrap();
        log.contains("the spool can be written again").then_some(())
    });
    driven.kill();
    let (spool, metrics) = open(&path, MAX_BYTES);
    assert_eq!(numbers(&spool), [2, 6], "{fault}");
    assert_eq!(metrics.spool_damaged.get(), 0, "{fault}");
}

#[test]
fn a_kill_after_a_failed_sync_loses_nothing() {
    let directory = Directory::new();
    let faults = Faults::new(&directory);
    let mut driven = faults.start(&directory.spool());
    assert_eq!(driven.ask("append 1"), "ok 1");
    faults.set("sync EIO");
    assert_eq!(driven.ask("append 2"), "unwritable 2");
    driven.kill();
    let (spool, _metrics) = open(&directory.spool(), MAX_BYTES);
    // What was not promised may be there, whole: a retry gives it again with the same id.
    assert!([&[1][..], &[1, 2]].contains(&&numbers(&spool)[..]));
}

/// Runs behind a small file system that only the process sees; needs root for it.
fn on_small_disk(directory: &Path, options: &str) -> Option<Vec<String>> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("not root: no file system can be mounted; the failing calls stand for it");
        return None;
    }
    let mount =
        format!("mount -t tmpfs -o {options} tmpfs '{}' && exec \"$@\"", directory.display());
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &mount, "sh"];
    Some(words.map(str::to_owned).to_vec())
}

#[test]
fn a_full_disk_is_told_and_left_again() {
    let directory = Directory::new();
    let path = directory.spool();
    fs::create_dir(&path).unwrap();
    let Some(behind) = on_small_disk(&path, "size=2m") else { return };
    let behind: Vec<_> = behind.iter().map(String::as_str).collect();
    let mut driven = Driven::start(&behind, &path, &[]);
    assert_eq!(driven.answer(), "open");
    assert_eq!(driven.ask("append 1"), "ok 1");
    assert_eq!(driven.ask("fill"), "filled");
    let mut last = 1;
    let refused = loop {
        last += 1;
        let answer = driven.ask(&format!("append {last}"));
        if answer != format!("ok {last}") {
            break answer;
        }
    };
    assert_eq!(refused, format!("unwritable {last}"), "it is not the limit that is reached");
    assert_eq!(driven.ask("room"), "false");
    let log = fs::read_to_string(log_of(&path)).unwrap();
    assert!(log.contains("disk is full"), "{log}");
    assert_eq!(driven.ask("clear"), "cleared");
    eventually("it is well again", || (driven.ask("room") == "true").then_some(()));
    assert_eq!(driven.ask(&format!("append {last}")), format!("ok {last}"));
    assert_eq!(driven.ask("read"), format!("{:?}", (1..=last).collect::<Vec<_>>()));
    driven.end();
}

#[test]
fn what_cannot_be_used_is_said_at_the_start() {
    let directory = Directory::new();
    let file = directory.0.join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("spool");
    let error = Spool::open(&below, MAX_BYTES, &Arc::default()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot use the spool `{}`: ", below.display())), "{error}");

    let path = directory.spool();
    fs::create_dir_all(path.join("spool.sqlite")).unwrap();
    let error = Spool::open(&path, MAX_BYTES, &Arc::default()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot use the spool `{}`: ", path.display())), "{error}");
    fs::remove_dir(path.join("spool.sqlite")).unwrap();

    let Some(behind) = on_small_disk(&path, "ro") else { return };
    let behind: Vec<_> = behind.iter().map(String::as_str).collect();
    let answer = Driven::start(&behind, &path, &[]).answer();
    assert!(answer.contains(&path.display().to_string()), "{answer}");
    assert!(answer.contains("Read-only file system"), "{answer}");
}

// --- The command line -----------------------------------------------------------------

fn relay(spool: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clickpesa-relay"))
        .args(arguments)
        .env("CLICKPESA_RELAY__SPOOL__PATH", spool)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_spool_is_shown_while_a_relay_has_it() {
    let directory = Directory::new();
    let path = directory.spool();
    let (spool, _metrics) = open(&path, MAX_BYTES);
    let mut other = record(7);
    "payouts".clone_into(&mut other.topic);
    block_on(async {
        append(&spool, 1..=3).await;
        spool.append([other].into()).await.unwrap();
    });
    fs::write(path.join("spool.sqlite.damaged-20260101T000000.000000Z"), "").unwrap();
    fs::write(path.join("spool.sqlite.damaged-20260101T000000.000000Z-wal"), "").unwrap();

    let [status] = &lines(&relay(&path, &["spool", "status", "--json"]))[..] else { panic!() };
    assert_eq!(status["path"], path.to_str().unwrap());
    assert_eq!(status["entries"], 4);
    assert_eq!(status["topics"][TOPIC], 3);
    assert_eq!(status["topics"]["payouts"], 1);
    assert_eq!(status["holder"], std::process::id().to_string());
    assert_eq!(status["damaged"].as_array().unwrap().len(), 1);
    assert!(status["oldest_age_seconds"].as_u64().unwrap() > 1_000_000);
    assert!(status["bytes"].as_u64().unwrap() > 4096);
    assert_eq!(status["bytes_max"], 1 << 30);
    let status = text(&relay(&path, &["spool", "status"]).stdout);
    for line in ["entries  4, the oldest for ", "         3 for payments", "in use   by process "] {
        assert!(status.contains(line), "{status}");
    }

    let listed = lines(&relay(&path, &["spool", "list", "--json"]));
    assert_eq!(listed.len(), 4);
    assert_eq!((&listed[0]["id"], &listed[0]["key"]), (&"event-1".into(), &"key-1".into()));
    let plain = text(&relay(&path, &["spool", "list"]).stdout);
    assert_eq!(plain.lines().count(), 4);
    assert!(plain.contains("event-3") && !plain.contains("customer"), "{plain}");

    let exported = lines(&relay(&path, &["spool", "export"]));
    assert_eq!(exported.len(), 4);
    for (line, wanted) in exported.iter().zip(1..=3) {
        let wanted = record(wanted);
        assert_eq!(line["value"].as_str().unwrap().as_bytes(), wanted.value);
        assert_eq!(line["headers"]["ce_id"], wanted.id().unwrap());
        assert_eq!(line["key"], wanted.key);
        assert_eq!(line["timestamp"], wanted.timestamp_ms);
        assert_eq!(line["topic"], TOPIC);
    }
    block_on(append(&spool, [8]));

    // Nor does it need a relay.
    close(spool, &path);
    let [status] = &lines(&relay(&path, &["spool", "status", "--json"]))[..] else { panic!() };
    assert_eq!((&status["entries"], &status["holder"]), (&5.into(), &Value::Null));
}

#[test]
fn a_spool_that_is_not_there_is_said() {
    let directory = Directory::new();
    let output = relay(&directory.spool(), &["spool", "status"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(directory.spool().to_str().unwrap()), "{said}");
    let output = relay(Path::new(""), &["spool", "list"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`spool.path` is not set"));
}
