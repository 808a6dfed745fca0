//! Everything that is seen from outside: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, in its helpers too")]
#![allow(clippy::print_stdout, reason = "seeds are printed, so that a failure can be repeated")]

mod ambiguous;
mod answers;
mod cli;
mod config;
mod diagnosis;
mod differential;
mod drift;
mod fuzzed;
mod golden;
mod harness;
mod hold;
mod hostile;
mod interop;
mod limits;
mod networks;
mod observed;
mod properties;
mod publish;
mod recent;
mod rejected;
mod reload;
mod secrets;
mod secure;
mod shutdown;
mod sockets;
mod spool;
mod support;
mod tls;
mod topics;
mod vectors;
