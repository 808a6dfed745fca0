//! Kafka fails in every way it can. A binary of its own: it runs when `it` has ended, as brokers
//! that are stopped, killed and started need the machine to themselves.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, in its helpers too")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod cluster;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "it is that of `it`, which uses all of it")]
mod harness;
mod outage;
mod stuck;
mod twins;
