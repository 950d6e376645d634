//! The policy judges topics by its own matching, the broker delivers by its own: they must agree, or a message could
//! reach somebody whom the policy never judged for it.

use edgewarden_mqtt::{TopicFilter, TopicName, filter_covers, topic_matches};
use edgewarden_policy::mqtt;
use proptest::prelude::*;

const ANYTHING: &str = "(\\$|[a-b]|\\+|#|)(/(\\$|[a-b]|\\+|#|)){0,4}";
const FILTER: &str =
    "(\\+|[$ab]|#|[ab](/(\\+|[$ab]?)){0,3}(/#)?|\\+(/(\\+|[$ab]?)){0,3}(/#)?|(/(\\+|[$ab]?)){1,3})";
const TOPIC: &str = "([$ab]|[$ab](/[$ab]?){1,4}|(/[$ab]?){1,4})";

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn policy_and_broker_read_alike(text in ANYTHING) {
        prop_assert_eq!(mqtt::is_filter(&text), TopicFilter::parse(&text).is_ok());
        prop_assert_eq!(mqtt::is_topic(&text), TopicName::parse(&text).is_ok());
    }

    #[test]
    fn policy_and_broker_match_alike(one in FILTER, other in FILTER, topic in TOPIC) {
        prop_assert!(mqtt::is_filter(&one) && mqtt::is_topic(&topic));
        prop_assert_eq!(mqtt::matches(&one, &topic), topic_matches(&one, &topic));
        // Where the two differ, the policy must be the stricter one.
        if mqtt::covers(&one, &other) {
            prop_assert!(filter_covers(&one, &other));
        }
    }

    /// Covering means what it says.
    #[test]
    fn what_a_covered_filter_matches_the_wider_matches(wide in FILTER, narrow in FILTER, topic in TOPIC) {
        if filter_covers(&wide, &narrow) && topic_matches(&narrow, &topic) {
            prop_assert!(topic_matches(&wide, &topic));
        }
    }
}
