//! Everything that is seen from outside: one binary, so that it links once.

mod vectors;
