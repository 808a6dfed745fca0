//! The spool's files when the power goes.
//!
//! A relay's spool is traced: every write, sync and change of a directory, and every
//! acknowledgement, in their order. Then the power goes at every point of that sequence, on a disk
//! that keeps no more than it has to: what was synced is there; of the rest each sector of 512
//! bytes, and each name in a directory, may be as it was at any time since. The spool is opened
//! on what is left.
//!
//! From the environment: `RELAY_TEST_SEED` (0 to 255) takes other states, and
//! `RELAY_TEST_POWER_STATES` that many of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    thread::{self, available_parallelism},
    time::Instant,
};

use clickpesa_relay::{metrics::Metrics, spool::Spool};
use proptest::{
    prelude::RngExt,
    test_runner::{RngAlgorithm, TestRng},
};

use super::support::{Driven, MAX_BYTES, append, block_on, close, numbers};
use crate::harness::Directory;

const SECTOR: usize = 512;

/// States that are asked for, beside those where nothing unsynced is kept; where all is synced
/// there is nothing to choose, and the state is left out.
const STATES: usize = 2000;

/// Wrong states after which a run has shown enough.
const WRONG_MAX: usize = 20;

/// What a traced process did.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    MakeDirectory(PathBuf),
    Create(PathBuf),
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: usize,
    },
    Sync(PathBuf),
    Unlink(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// It answered.
    Say(String),
}

// --- The disk -------------------------------------------------------------------------

#[derive(Debug, Clone, Default)]
struct Disk {
    /// By the number of the file.
    files: Vec<Contents>,
    /// What is in the directories for the process, and for whoever comes after the power loss.
    names: BTreeMap<PathBuf, Node>,
    synced_names: BTreeMap<PathBuf, Node>,
    unsynced_names: Vec<NameChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug, Clone, Default)]
struct Contents {
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// How much of what was not synced is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Nothing,
    Everything,
    /// The first so many changes.
    Beginning,
    /// Any changes.
    Some,
    /// Of every sector the first so many changes.
    Torn,
}

const FATES: [Fate; 5] = [Fate::Nothing, Fate::Everything, Fate::Beginning, Fate::Some, Fate::Torn];

impl Disk {
    fn carry_out(&mut self, act: &Act) {
        match act {
            Act::MakeDirectory(path) => {
                self.change(NameChange::Link(path.clone(), Node::Directory));
            }
            Act::Create(path) => {
                if !self.names.contains_key(path) {
                    self.files.push(Contents::default());
                    let file = Node::File(self.files.len() - 1);
                    self.change(NameChange::Link(path.clone(), file));
                }
            }
            Act::Write { path, at, bytes } => {
                let change = Change::Write { at: *at, bytes: bytes.clone() };
                self.file(path).unsynced.push(change);
            }
            Act::Truncate { path, length } => {
                self.file(path).unsynced.push(Change::Truncate(*length));
            }
            Act::Sync(path) if matches!(self.names.get(path), Some(Node::File(_))) => {
                self.file(path).sync();
            }
            Act::Sync(directory) => {
                let (synced, rest) = std::mem::take(&mut self.unsynced_names)
                    .into_iter()
                    .partition(|change: &NameChange| change.path().parent() == Some(directory));
                self.unsynced_names = rest;
                let synced: Vec<_> = synced;
                synced.iter().for_each(|change| change.apply(&mut self.synced_names));
            }
            Act::Unlink(path) => self.change(NameChange::Unlink(path.clone())),
            Act::Rename { from, to } => self.change(NameChange::Rename(from.clone(), to.clone())),
            Act::Say(_) => {}
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn file(&mut self, path: &Path) -> &mut Contents {
        match self.names.get(path) {
            Some(Node::File(file)) => &mut self.files[*file],
            node => panic!("{} is {node:?}", path.display()),
        }
    }

    fn is_synced(&self) -> bool {
        self.unsynced_names.is_empty() && self.files.iter().all(|file| file.unsynced.is_empty())
    }

    /// What is found when the power is back.
    fn after_power_loss(&self, fate: Fate, random: &mut TestRng) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut names = self.synced_names.clone();
        let chosen = fate.choose(self.unsynced_names.len(), random);
        for (change, is_chosen) in self.unsynced_names.iter().zip(chosen) {
            if is_chosen {
                change.apply(&mut names);
            }
        }
        let reachable = |path: &Path| {
            path.ancestors().skip(1).all(|above| {
                self.names.get(above) != Some(&Node::Directory)
                    || names.get(above) == Some(&Node::Directory)
            })
        };
        let files = names.iter().filter_map(|(path, node)| match node {
            Node::File(file) if reachable(path) => {
                Some((path.clone(), self.files[*file].after_power_loss(fate, random)))
            }
            Node::File(_) | Node::Directory => None,
        });
        files.collect()
    }
}

impl NameChange {
    fn path(&self) -> &Path {
        match self {
            Self::Link(path, _) | Self::Unlink(path) | Self::Rename(path, _) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Link(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Fate {
    fn choose(self, count: usize, random: &mut TestRng) -> Vec<bool> {
        let beginning = random.random_range(0..=count);
        (0..count)
            .map(|change| match self {
                Self::Nothing => false,
                Self::Everything => true,
                Self::Beginning => change < beginning,
                Self::Some | Self::Torn => random.random(),
            })
            .collect()
    }
}

impl Contents {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            change.apply(&mut self.synced);
        }
    }

    fn after_power_loss(&self, fate: Fate, random: &mut TestRng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let chosen = fate.choose(self.unsynced.len(), random);
        // The number of changes after which a sector was not written again.
        let mut kept = HashMap::new();
        for (number, (change, is_chosen)) in self.unsynced.iter().zip(chosen).enumerate() {
            match change {
                Change::Write { at, bytes: written } if fate == Fate::Torn => {
                    for (at, piece) in sectors(*at, written) {
                        let kept = *kept
                            .entry(at / SECTOR)
                            .or_insert_with(|| random.random_range(0..=self.unsynced.len()));
                        if number < kept {
                            write(&mut bytes, at, piece);
                        }
                    }
                }
                Change::Write { .. } | Change::Truncate(_) if is_chosen => change.apply(&mut bytes),
                Change::Write { .. } | Change::Truncate(_) => {}
            }
        }
        bytes
    }
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => write(contents, *at, bytes),
            Self::Truncate(length) => contents.resize(*length, 0),
        }
    }
}

fn write(contents: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[at..end].copy_from_slice(bytes);
}

/// The pieces of a write, none across the border of a sector.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let first = (SECTOR - at % SECTOR).min(bytes.len());
    let (first, rest) = bytes.split_at(first);
    let after = at + first.len();
    let rest = rest.chunks(SECTOR).enumerate().map(move |(n, piece)| (after + n * SECTOR, piece));
    std::iter::once((at, first)).chain(rest)
}

// --- The trace ------------------------------------------------------------------------

/// Runs a spool from its creation, and gives what it did.
fn record(directory: &Directory) -> Vec<Act> {
    let trace = directory.0.join("trace");
    let spool = directory.0.join("made/by the relay");
    let strace = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-s",
        "10000000",
        "-e",
        "signal=none",
        "-e",
        "trace=openat,?open,?creat,?mkdir,mkdirat,?unlink,unlinkat,?rename,renameat,renameat2,\
         write,pwrite64,writev,pwritev,pwritev2,ftruncate,?truncate,fallocate,fsync,fdatasync,\
         sync_file_range,copy_file_range,sendfile",
        "-o",
        trace.to_str().unwrap(),
    ];
    let mut driven = Driven::start(&strace, &spool, &[]);
    assert_eq!(driven.answer(), "open");
    let mut next = 0;
    let mut append = |driven: &mut Driven, count: u64| {
        let numbers: Vec<_> = (next..next + count).map(|number| number.to_string()).collect();
        next += count;
        driven.ask(&format!("append {}", numbers.join(" ")));
        (1..count).for_each(|_| drop(driven.answer()));
    };
    let remove = |driven: &mut Driven, count: u64| {
        driven.ask(&format!("remove {count}"));
        while !driven.answer().starts_with("removed") {}
    };
    // One by one, many at once, removed in between; long enough that the log begins anew, twice.
    for round in 0..60 {
        append(&mut driven, 1);
        append(&mut driven, 1);
        append(&mut driven, 25);
        if round % 3 == 2 {
            remove(&mut driven, 75);
        }
    }
    driven.end();
    let trace = fs::read_to_string(&trace).unwrap();
    let acts = read_trace(&trace, &directory.0);
    let log = spool.join("spool.sqlite-wal");
    let starts =
        acts.iter().filter(|act| matches!(act, Act::Write { path, at: 0, .. } if *path == log));
    let starts = starts.count();
    assert!(starts >= 3, "the log began {starts} times: too short a run to show anything");
    acts
}

/// Reads what a trace says of the spool's files. What was written may be on the disk from the
/// beginning of the call; what is synced is there only at its end.
fn read_trace(trace: &str, root: &Path) -> Vec<Act> {
    let mut unfinished = HashMap::new();
    let mut acts = Vec::new();
    for line in trace.lines() {
        let (process, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(process, begun.to_owned());
            acts.extend(read_call(begun, None, root));
        } else if let Some(resumed) = call.strip_prefix("<... ") {
            let rest = resumed.split_once(" resumed>").unwrap().1;
            let call = unfinished.remove(process).unwrap() + rest;
            // What counts from the beginning has been counted.
            if read_call(&call, None, root).is_none() {
                acts.extend(read_call(&call, result(&call), root));
            }
        } else {
            acts.extend(
                read_call(call, None, root).or_else(|| read_call(call, result(call), root)),
            );
        }
    }
    acts
}

/// What a call gave, if it went well.
fn result(call: &str) -> Option<usize> {
    let (_, result) = call.rsplit_once(" = ")?;
    result.split(['<', ' ']).next()?.parse().ok()
}

/// Reads a call that counts from its beginning, or one that has given something.
fn read_call(call: &str, result: Option<usize>, root: &Path) -> Option<Act> {
    let (name, arguments) = call.split_once('(')?;
    let texts = hex_texts(arguments);
    // Behind the number of a file, strace gives its path.
    let is_path_first = arguments.find('<').is_some_and(|at| at < 3);
    let path = |text: usize| {
        let path = PathBuf::from(String::from_utf8(texts.get(text)?.clone()).ok()?);
        let name = path.file_name()?.to_string_lossy();
        let is_modelled = !["lock", "log", "trace"].contains(&&*name) && !name.ends_with("-shm");
        (path.starts_with(root) && is_modelled).then_some(path)
    };
    let number = |text: &str| text.trim().trim_end_matches(')').parse::<usize>().ok();
    match (name, result) {
        ("write", None) if is_path_first => {
            let said = String::from_utf8(texts.get(1)?.clone()).ok()?;
            if let Some(said) = said.strip_prefix('@').filter(|_| arguments.starts_with("1<")) {
                return Some(Act::Say(said.trim().to_owned()));
            }
            path(0).map(|path| panic!("a write without a place: {}", path.display()))
        }
        ("pwrite64", None) => {
            let at = arguments.split(" = ").next()?.rsplit(", ").next()?;
            Some(Act::Write { path: path(0)?, at: number(at)?, bytes: texts.get(1)?.clone() })
        }
        (_, None) => None,
        ("ftruncate", Some(_)) => {
            let length = arguments.rsplit_once(" = ")?.0.rsplit(", ").next()?;
            Some(Act::Truncate { path: path(0)?, length: number(length)? })
        }
        ("fsync" | "fdatasync", Some(_)) => {
            let synced = PathBuf::from(String::from_utf8(texts.first()?.clone()).ok()?);
            (synced == root || path(0).is_some()).then_some(Act::Sync(synced))
        }
        ("openat", Some(_)) if arguments.contains("O_CREAT") => Some(Act::Create(path(1)?)),
        ("mkdir", Some(_)) => Some(Act::MakeDirectory(path(0)?)),
        ("mkdirat", Some(_)) => Some(Act::MakeDirectory(path(1)?)),
        ("unlink", Some(_)) => Some(Act::Unlink(path(0)?)),
        ("unlinkat", Some(_)) => Some(Act::Unlink(path(1)?)),
        ("rename", Some(_)) => Some(Act::Rename { from: path(0)?, to: path(1)? }),
        ("renameat" | "renameat2", Some(_)) => Some(Act::Rename { from: path(1)?, to: path(3)? }),
        ("openat" | "open" | "write", Some(_)) => None,
        (other, Some(_)) => {
            let path = path(0).or_else(|| path(1))?;
            panic!("the model does not know `{other}` on {}", path.display())
        }
    }
}

/// The texts of a call, which are all in hexadecimal: those in quotes and those in `<…>`.
fn hex_texts(arguments: &str) -> Vec<Vec<u8>> {
    let arguments = arguments.split(" = ").next().unwrap_or_default();
    let pieces = arguments.split(['"', '<', '>']).filter(|piece| piece.starts_with("\\x"));
    let byte = |pair: &str| u8::from_str_radix(pair, 16).unwrap();
    pieces.map(|piece| piece.split("\\x").skip(1).map(byte).collect()).collect()
}

// --- The check ------------------------------------------------------------------------

/// What the process had said when the power went.
#[derive(Debug, Clone, Default)]
struct Said {
    acknowledged: BTreeSet<u64>,
    /// Kafka had them: they may go.
    given_up: BTreeSet<u64>,
}

impl Said {
    fn hear(&mut self, said: &str) {
        let (word, number) = said.split_once(' ').unwrap_or((said, ""));
        match word {
            "ok" => self.acknowledged.insert(number.parse().unwrap()),
            "removing" => self.given_up.insert(number.parse().unwrap()),
            "open" | "removed" => false,
            _ => panic!("it said {said}"),
        };
    }
}

/// What was found wrong, in how many states.
#[derive(Debug, Default)]
struct Findings {
    states: usize,
    wrong: Vec<String>,
}

/// Lets the power go at points all over the sequence, and looks at what is left.
fn check(acts: &[Act], root: &Path, seed: u8, states: usize) -> Findings {
    let started = Instant::now();
    let workers = available_parallelism().map_or(1, usize::from).min(4);
    let findings = thread::scope(|scope| {
        let work = |worker| move || check_share(acts, root, seed, states, (worker, workers));
        let work: Vec<_> = (0..workers).map(|worker| scope.spawn(work(worker))).collect();
        work.into_iter().map(|work| work.join().unwrap()).fold(Findings::default(), Findings::add)
    });
    println!(
        "seed {seed}: {} states of {} acts, {} wrong, in {:.1} s",
        findings.states,
        acts.len(),
        findings.wrong.len(),
        started.elapsed().as_secs_f64()
    );
    findings
}

fn check_share(
    acts: &[Act],
    root: &Path,
    seed: u8,
    states: usize,
    (worker, workers): (usize, usize),
) -> Findings {
    let mut random =
        TestRng::from_seed(RngAlgorithm::ChaCha, &[[seed; 16], [worker as u8; 16]].concat());
    let mut findings = Findings::default();
    let scratch = Directory::in_memory();
    let (mut disk, mut said) = (Disk::default(), Said::default());
    let share = states as f64 / (acts.len() * FATES.len() * workers) as f64;
    for (number, act) in acts.iter().enumerate() {
        if let Act::Say(words) = act {
            said.hear(words);
        }
        disk.carry_out(act);
        for fate in FATES {
            let is_looked_at = match fate {
                // Until the next sync the same is left, and ever more must be there.
                Fate::Nothing => {
                    number % workers == worker
                        && matches!(acts.get(number + 1), None | Some(Act::Sync(_)))
                }
                _ if disk.is_synced() => false,
                Fate::Everything | Fate::Beginning | Fate::Some | Fate::Torn => {
                    random.random_bool(share.min(1.0))
                }
            };
            if !is_looked_at {
                continue;
            }
            let files = disk.after_power_loss(fate, &mut random);
            findings.states += 1;
            let place = scratch.0.join(findings.states.to_string());
            if let Err(wrong) = look(&files, root, &place, &said) {
                findings.wrong.push(format!("after act {number}, {fate:?}: {wrong}"));
            }
            fs::remove_dir_all(&place).ok();
            if findings.wrong.len() >= WRONG_MAX {
                return findings;
            }
        }
    }
    findings
}

impl Findings {
    fn add(mut self, other: Self) -> Self {
        self.states += other.states;
        self.wrong.extend(other.wrong);
        self
    }
}

/// Opens a spool on what is left.
fn look(
    files: &BTreeMap<PathBuf, Vec<u8>>,
    root: &Path,
    place: &Path,
    said: &Said,
) -> Result<(), String> {
    let spool = place.join("made/by the relay");
    fs::create_dir_all(&spool).unwrap();
    for (path, bytes) in files {
        fs::write(place.join(path.strip_prefix(root).unwrap()), bytes).unwrap();
    }
    let metrics = Arc::new(Metrics::default());
    let opened = Spool::open(&spool, MAX_BYTES, &metrics).map_err(|error| error.to_string())?;
    // Whether each is whole is checked as it is read.
    let waiting = numbers(&opened);
    block_on(append(&opened, [1_000_000]));
    let then = numbers(&opened);
    close(opened, &spool);
    if metrics.spool_damaged.get() > 0 {
        return Err("called damaged".to_owned());
    }
    if !waiting.is_sorted() {
        return Err(format!("not in order: {waiting:?}"));
    }
    if then[..] != [&waiting[..], &[1_000_000]].concat() {
        return Err("cannot be used".to_owned());
    }
    let waiting = BTreeSet::from_iter(waiting);
    match said.acknowledged.difference(&said.given_up).find(|number| !waiting.contains(number)) {
        Some(lost) => Err(format!("{lost} is lost")),
        None => Ok(()),
    }
}

#[allow(clippy::disallowed_methods, reason = "a switch of this test, and no setting of the relay")]
fn switch<T: FromStr<Err: Debug>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_with_the_power() {
    let directory = Directory::new();
    let acts = record(&directory);
    let states = switch("RELAY_TEST_POWER_STATES", STATES);
    let findings = check(&acts, &directory.0, switch("RELAY_TEST_SEED", 1), states);
    assert_eq!(findings.wrong, Vec::<String>::new());
    assert!(findings.states > states / 2, "too few states to show anything");

    // That this can be found wrong: the same sequence without what makes it right.
    let is_log = |path: &Path| path.ends_with("spool.sqlite-wal");
    let first_directory = directory.0.join("made");
    let without = |is_gone: &dyn Fn(&Act) -> bool| {
        acts.iter().filter(|act| !is_gone(act)).cloned().collect::<Vec<_>>()
    };
    let mut early = acts.clone();
    for at in 1..early.len() {
        // Answered, then synced.
        if matches!(early[at], Act::Say(_)) && matches!(&early[at - 1], Act::Sync(_)) {
            early.swap(at - 1, at);
        }
    }
    let plants = [
        (
            "synchronous=NORMAL: no sync of the log",
            without(&|act| matches!(act, Act::Sync(path) if is_log(path))),
        ),
        ("synchronous=OFF: no sync at all", without(&|act| matches!(act, Act::Sync(_)))),
        (
            "no sync of the directory",
            without(&|act| matches!(act, Act::Sync(path) if path.ends_with("by the relay"))),
        ),
        (
            "no sync of the directory above",
            without(&|act| matches!(act, Act::Sync(path) if *path == first_directory)),
        ),
        ("answered before the sync", early),
    ];
    for (plant, acts) in plants {
        let findings = check(&acts, &directory.0, 2, STATES);
        let lost = findings.wrong.iter().filter(|wrong| wrong.ends_with("is lost")).count();
        println!("{plant}: a loss in {lost} of {} states", findings.states);
        assert!(lost > 0, "{plant}: not found in {} states", findings.states);
    }
}
