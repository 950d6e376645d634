//! Follows the identity of one Workload API socket.
