//! edgewarden-appraisal
