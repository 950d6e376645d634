//! edgewarden-runtimed
