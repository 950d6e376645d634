//! Text of others on a terminal: what would move the cursor, change colours or titles, or turn the direction of writing is
//! shown and not done.

/// `true` for a character that does something to a terminal instead of being seen.
fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line of text, whole. A tab stays one.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) && c != '\t' {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// At most `most` characters on one line, then `…`.
pub fn shortened(text: &str, most: usize) -> String {
    let mut short = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == most {
            short.push('…');
            break;
        }
        if commands(c) { short.extend(c.escape_default()) } else { short.push(c) }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_commands() {
        for (text, shown) in [
            ("plain, déjà vu, 血糖\tcolumn", "plain, déjà vu, 血糖\tcolumn"),
            ("\u{1b}[2J\u{1b}]0;root\u{7}", "\\u{1b}[2J\\u{1b}]0;root\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("good\rbad\u{8}\u{7f}", "good\\u{d}bad\\u{8}\\u{7f}"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("\0", "\\u{0}"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn short_text_is_one_harmless_line() {
        assert_eq!(shortened("a\x1b[2Jb\nc\u{202e}", 160), "a\\u{1b}[2Jb\\nc\\u{202e}");
        assert_eq!(shortened(&"é".repeat(200), 160).chars().count(), 161);
    }
}
