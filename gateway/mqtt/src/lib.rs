//! edgewarden-mqtt
