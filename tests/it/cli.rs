//! The command line: the binary itself, its output, its exit codes.

mod checksums;
mod dev;
mod kafka;
mod process;
mod texts;
