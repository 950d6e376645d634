//! edgewarden-workload-api
