//! edgewarden-queue
