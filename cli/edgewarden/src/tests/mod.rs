//! Tests of the whole program.

mod hints;
