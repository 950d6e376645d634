//! `./ew bench`: measures the numbers of docs/specification.md.
fn main() {}
