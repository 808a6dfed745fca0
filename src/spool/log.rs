//! The write-ahead log as it is on disk, to tell a damaged one from one that ends early.
//!
//! To SQLite, a log ends before the first frame that does not fit: after a power loss that is what
//! a commit was that nobody was told of. Damage looks the same, but for what stands behind it.
//! Source: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::{fs, path::Path};

use super::{damage::with_ending, file::PAGE_BYTES};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;

/// The log's first bytes, but for its last bit, which says how checksums are counted.
const MAGIC: u32 = 0x377f_0682;

/// What has come of the checksum so far.
type Sum = [u32; 2];

/// A page in the log.
pub(super) struct Frame<'b> {
    /// Its number, from 1.
    pub(super) page: u32,
    /// Whether a commit ends with it.
    is_last: bool,
    /// Whether it was written behind the one before it, and neither has changed since.
    fits: bool,
    pub(super) content: &'b [u8],
}

/// What SQLite would lose of a database's log without a word.
pub(super) fn damage(database: &Path) -> Option<String> {
    let bytes = fs::read(with_ending(database, "-wal")).unwrap_or_default();
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    if fs::metadata(database).map_or(0, |file| file.len()) == 0 {
        return Some("the database is empty, its log is not".to_owned());
    }
    if header(&bytes).is_none() {
        return Some("the header of its log is damaged".to_owned());
    }
    let frames = frames(&bytes);
    let end = frames.iter().position(|frame| !frame.fits).unwrap_or(frames.len());
    // What stands behind a commit was written after that commit was synced. Of what was not synced
    // a header can be half of an older one, so both frames have to fit.
    let is_behind_commit = |pair: &[Frame<'_>]| pair[0].is_last && pair[0].fits && pair[1].fits;
    let lost = frames[end..].windows(2).any(is_behind_commit);
    lost.then(|| format!("its log is damaged in frame {}", end + 1))
}

/// The frames of a log since it last began anew, whether they fit or not.
fn frames(bytes: &[u8]) -> Vec<Frame<'_>> {
    // Where the header is damaged, the first frame says since when.
    let (is_big_endian, mut sum) = header(bytes).unwrap_or((cfg!(target_endian = "big"), [0; 2]));
    let rest = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let salt = match header(bytes) {
        Some(_) => bytes.get(16..24),
        None => rest.get(8..16),
    };
    let written = rest.chunks_exact(FRAME_BYTES).map(|frame| {
        let (header, content) = frame.split_at(FRAME_HEADER_BYTES);
        let counted = add(add(sum, &header[..8], is_big_endian), content, is_big_endian);
        sum = [number(header, 16), number(header, 20)];
        let is_current = header.get(8..16) == salt;
        Frame {
            page: number(header, 0),
            is_last: is_current && number(header, 4) > 0,
            fits: is_current && number(header, 0) > 0 && counted == sum,
            content,
        }
    });
    written.collect()
}

/// The frames of a log that are sound and belong to a commit.
pub(super) fn committed(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let frames = frames(bytes);
    let end = frames.iter().rposition(|frame| frame.is_last).map_or(0, |last| last + 1);
    frames.into_iter().take(end).filter(|frame| frame.fits)
}

/// Reads how checksums are counted, and the header's own, if it is sound.
fn header(bytes: &[u8]) -> Option<(bool, Sum)> {
    let header = bytes.get(..HEADER_BYTES)?;
    let is_big_endian = number(header, 0) & 1 == 1;
    let sum = [number(header, 24), number(header, 28)];
    let is_sound = number(header, 0) & !1 == MAGIC
        && number(header, 8) as usize == PAGE_BYTES
        && add([0; 2], &header[..24], is_big_endian) == sum;
    is_sound.then_some((is_big_endian, sum))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("it has four bytes"))
}

fn add([mut a, mut b]: Sum, bytes: &[u8], is_big_endian: bool) -> Sum {
    let word = if is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
    let (words, _rest) = bytes.as_chunks();
    let (pairs, _rest) = words.as_chunks();
    for [first, second] in pairs {
        a = a.wrapping_add(word(*first)).wrapping_add(b);
        b = b.wrapping_add(word(*second)).wrapping_add(a);
    }
    [a, b]
}
